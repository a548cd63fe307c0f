"""A trained method outside a Trainer: from arrays to arrays, to a file and back, without running what a file says."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import reason
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.finite import check_finite
from lightning_pbrl.fitting import checkpoints
from lightning_pbrl.fitting.diverged import check_saved
from lightning_pbrl.fitting.lightning_glue import plain
from lightning_pbrl.run_folder import LAST

Array = npt.NDArray[Any]


OTHERS = (b"SQLite", b"\x89HDF", b"version https://git-lfs")
"""First bytes of a label store, a data file and a pointer of Git LFS, which a reader of pickles would take for harmful ones."""


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint: tensors and plain types only.

    Raises:
        UserError: when there is no such file, it is damaged, holds anything that would run code, is not ours, or is newer.
    """
    path = Path(path)
    if (path / LAST).is_file():
        raise UserError(f"{path} is a run folder; give its checkpoint, {path / LAST}.")
    if not path.is_file():
        raise UserError(f"There is no checkpoint at {path}; give the path of a .ckpt file that a fit has written.")
    if any(_begins(path, start) for start in OTHERS):
        raise UserError(f"{path} is not a checkpoint of this library; give the path of a .ckpt file that a fit has written.")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch.load does not look at the records' checksums
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {damaged} is another")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"The checkpoint {path} holds objects other than tensors and plain types and was not loaded; "
            "only load checkpoints that this library has written."
        ) from error
    except Exception as error:  # the reader of a damaged file fails in many ways
        raise UserError(f"The checkpoint {path} is damaged or incomplete and cannot be read; use an earlier one.") from error
    if not isinstance(checkpoint, dict) or "lightning_pbrl" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of this library; give the path of a .ckpt file that a fit has written.")
    checkpoints.check_schema(checkpoint["lightning_pbrl"], f"The checkpoint {path}")
    return checkpoint


@torch.no_grad()
def predict(method: Any, obs: npt.ArrayLike, action: npt.ArrayLike | None = None) -> Array:
    """Return actions for observations, or learned rewards for observations and actions.

    Args:
        method: policy or reward model, trained or loaded.
        obs: raw observations, (..., O).
        action: actions in [-1, 1], (..., A), where a reward is asked for. Models that look back read the last axis but one
            as the consecutive steps of an episode.

    Returns:
        Actions in [-1, 1], (..., A), float32; with ``action`` the reward of each step, (...,), float32.

    Raises:
        UserError: for arrays of other sizes, NaN and infinity, and where the method has not learned what is asked for.
    """
    method.configure_model()
    seen = _checked(method, obs, "obs")
    training = method.training
    method.eval()
    try:
        if action is None:
            found = method.act(seen.reshape(-1, seen.shape[-1]).to(method.device))
            return np.asarray(found.float().cpu().reshape(*seen.shape[:-1], found.shape[-1]).numpy())
        done = _checked(method, action, "action")
        if done.shape[:-1] != seen.shape[:-1]:
            raise UserError(f"obs is {tuple(seen.shape)} and action {tuple(done.shape)}: give one action per observation.")
        flat, length = seen.reshape(-1, seen.shape[-1]), (seen.shape[-2] if seen.dim() > 1 else 1)
        offsets = torch.arange(0, len(flat) + 1, max(length, 1))
        steps = Transitions.from_columns(flat, done.reshape(-1, done.shape[-1]), flat, offsets).to(method.device)
        return np.asarray(method.relabel(steps).float().cpu().reshape(seen.shape[:-1]).numpy())
    finally:
        method.train(training)


def _checked(method: Any, values: npt.ArrayLike, name: str) -> Tensor:
    """Return an argument of :func:`predict` as a float32 tensor of the right width."""
    array, width = np.array(values, dtype=np.float32), method.spec[f"{name}_dim"]
    if array.ndim == 0 or array.shape[-1] != width:
        raise UserError(
            f"{name} is {array.shape} and {type(method).__name__} was built for {name}_dim {width}: give (..., {width})."
        )
    found = torch.from_numpy(array)
    check_finite(found.reshape(-1, width), name, "look at what it comes from")
    return found


def save(method: Any, path: str | Path, replica: int = 0) -> None:
    """Write weights and settings to a file that :func:`lightning_pbrl.load` opens.

    It holds no optimiser: a run goes on from ``checkpoints/last.ckpt`` of its folder.

    Args:
        method: trained or loaded.
        path: the file, by custom ``.ckpt``.
        replica: which of the run's replicas.

    Raises:
        UserError: when there is no such replica.
    """
    method.configure_model()
    if not 0 <= replica < method.replicas:
        raise UserError(
            f"{type(method).__name__} has {method.replicas} replica(s), numbered from 0; there is no replica {replica}."
        )
    method.use_replica(replica)
    content = {
        "state_dict": {key: value.detach().cpu().clone() for key, value in method.state_dict().items()},
        "hyper_parameters": {**plain(method.hparams), "replicas": 1, "seed": method.seed + replica},
        "lightning_pbrl": {**checkpoints.provenance(method), "engine": None, "finished": True},
        "pytorch-lightning_version": pl.__version__,
        "epoch": 0,
        "global_step": checkpoints.updates(method),
    }
    method.use_replica(0)
    check_saved(content, type(method).__name__)
    with replacing(path) as part:
        torch.save(content, part)


def load(cls: Any, path: str | Path, replica: int = 0, device: str = "cpu") -> Any:
    """Return a trained method, ready to ``predict``.

    The class is found by the name it has registered, never imported because the file says so: import the package that
    defines an outside method first.

    Args:
        cls: class of method that is wanted, any method of :class:`~lightning_pbrl.methods.base.Method`.
        path: a checkpoint, or what :func:`save` has written.
        replica: which of the run's replicas.
        device: where to put it.

    Raises:
        UserError: unreadable file, unknown method, a method of another class, or no such replica.
    """
    import lightning_pbrl.registry as registry  # fills cls.registry with the library's own methods

    registry.import_all()
    checkpoint = read_checkpoint(path)
    saved = checkpoint["lightning_pbrl"]
    name = saved.get("method") if isinstance(saved, dict) else None
    if not isinstance(name, str):
        raise UserError(f"The checkpoint {path} names no method; use an earlier one.")
    if name not in cls.registry:
        module = saved.get("module", "")
        absent = module if isinstance(module, str) and module.isprintable() and module not in ("", "__main__") else "MODULE"
        raise UserError(
            f"The checkpoint {path} names the method {name!r}, which no imported module defines "
            f"({nearest(name, cls.registry)}): import the one that does first, in Python `import {absent}`, in a config or "
            f"experiment `imports: [{absent}]`, on the command line --imports=[{absent}]."
        )
    if not issubclass(cls.registry[name], cls):
        raise UserError(
            f"The checkpoint {path} holds a {name}, not a {cls.__name__}: load it with {name}.load, or lightning_pbrl.load."
        )
    method = _rebuilt(cls.registry[name], checkpoint, path, replica)
    if (folder := Path(path).resolve().parent).name == "checkpoints":
        method.run_dir = folder.parent
    return method.to(device).eval().requires_grad_(False)


def _rebuilt(cls: Any, checkpoint: dict[str, Any], path: str | Path, replica: int) -> Any:
    """Build the method of a checkpoint, with the weights of one replica."""
    try:
        check_saved(checkpoint, f"The checkpoint {path}")
        method = cls(**plain(checkpoint["hyper_parameters"]))  # plain drops keys that name classes
        method.configure_model()
        checkpoints.upgrade(method, checkpoint)
        saved = checkpoint["lightning_pbrl"]
        method.load_state_dict(checkpoint["state_dict"])
        weights = saved["engine"]["state"]["weights"] if saved["engine"] else [{}]  # save() keeps one replica, in state_dict
        if len(weights) != method.replicas:
            raise ValueError("it lacks the weights of a replica")
        if 0 <= replica < method.replicas:
            unknown = method.load_state_dict(weights[replica], strict=False).unexpected_keys
            if unknown:
                raise ValueError(f"it has weights {unknown[0]!r}")
    except Exception as error:  # what a file says of a method may be anything
        if isinstance(error, UserError) and str(path) in str(error):
            raise
        raise UserError(
            f"The checkpoint {path} does not fit this version's {cls.__name__} ({reason(error)}): load it with the version "
            "that wrote it."
        ) from error
    if not 0 <= replica < method.replicas:
        raise UserError(f"{path} holds {method.replicas} replica(s), numbered from 0; there is no replica {replica}.")
    method.use_replica(replica)  # a planner's numbers are a replica's own
    method.learned_from, method.updates_loaded = saved.get("learned_from"), saved.get("updates", 0)
    return method
