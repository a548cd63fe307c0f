"""A trained method outside a Trainer: from arrays to arrays, to a file and back, without running what a file says."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl.data.archive import replacing
from lightning_pbrl.data.guard import reason
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.methods.diverged import check_saved
from lightning_pbrl.methods.lightning_glue import plain

Array = npt.NDArray[Any]
SCHEMA = 1
"""Version of what a checkpoint holds; one without a number is of version 1."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint: tensors and plain types only.

    Raises:
        UserError: when there is no such file, it is damaged, holds anything that would run code, is not ours, or is newer.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint at {path}; give the path of a .ckpt file that a fit has written.")
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
    check_schema(checkpoint["lightning_pbrl"], f"The checkpoint {path}")
    return checkpoint


def check_schema(saved: Any, what: str) -> None:
    """Refuse a checkpoint of a later version of this library.

    Raises:
        UserError: beginning with ``what``.
    """
    schema = saved.get("schema", 1) if isinstance(saved, Mapping) else 1
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UserError(
            f"{what} has schema {schema} and this version of lightning-pbrl reads up to {SCHEMA}: install the version that "
            "wrote it."
        )


class Portable(pl.LightningModule):
    """The part of a method that works on arrays and files; :class:`~lightning_pbrl.methods.base.Method` is one of these."""

    registry: ClassVar[dict[str, Any]]
    spec: dict[str, Any]
    seed: int
    replicas: int
    asked: Any
    learned_from: Any
    updates_loaded: int
    engines: dict[str, Any]
    run_dir: Path | None = None
    """The run folder that its weights come from; None where it was not trained by a Trainer of this library."""

    @torch.no_grad()
    def predict(self, obs: npt.ArrayLike, action: npt.ArrayLike | None = None) -> Array:
        """Return actions for observations, or learned rewards for observations and actions.

        Args:
            obs: raw observations, (..., O).
            action: actions in [-1, 1], (..., A), where a reward is asked for. Models that look back read the last axis but one
                as the consecutive steps of an episode.

        Returns:
            Actions in [-1, 1], (..., A), float32; with ``action`` the reward of each step, (...,), float32.

        Raises:
            UserError: for arrays of other sizes, and where the method has not learned what is asked for.
        """
        self.configure_model()
        seen = self._checked(obs, "obs")
        training = self.training
        self.eval()
        try:
            if action is None:
                found = self.act(seen.reshape(-1, seen.shape[-1]).to(self.device))  # type: ignore[operator]
                return np.asarray(found.float().cpu().reshape(*seen.shape[:-1], -1).numpy())
            done = self._checked(action, "action")
            if done.shape[:-1] != seen.shape[:-1]:
                raise UserError(f"obs is {tuple(seen.shape)} and action {tuple(done.shape)}: give one action per observation.")
            flat, length = seen.reshape(-1, seen.shape[-1]), (seen.shape[-2] if seen.dim() > 1 else 1)
            offsets = torch.arange(0, len(flat) + 1, max(length, 1))
            steps = Transitions.from_columns(flat, done.reshape(-1, done.shape[-1]), flat, offsets).to(self.device)
            return np.asarray(self.relabel(steps).float().cpu().reshape(seen.shape[:-1]).numpy())  # type: ignore[operator]
        finally:
            self.train(training)

    def _checked(self, values: npt.ArrayLike, name: str) -> Tensor:
        """An argument of :meth:`predict` as a float32 tensor of the right width."""
        array, width = np.array(values, dtype=np.float32), self.spec[f"{name}_dim"]
        if array.ndim == 0 or array.shape[-1] != width:
            raise UserError(
                f"{name} is {array.shape} and {type(self).__name__} was built for {name}_dim {width}: give (..., {width})."
            )
        return torch.from_numpy(array)

    def save(self, path: str | Path, replica: int = 0) -> None:
        """Write weights and settings to a file that :func:`lightning_pbrl.load` opens.

        It holds no optimiser: a run goes on from ``checkpoints/last.ckpt`` of its folder.

        Args:
            path: the file, by custom ``.ckpt``.
            replica: which of the run's replicas.

        Raises:
            UserError: when there is no such replica.
        """
        self.configure_model()
        if not 0 <= replica < self.replicas:
            raise UserError(
                f"{type(self).__name__} has {self.replicas} replica(s), numbered from 0; there is no replica {replica}."
            )
        self.use_replica(replica)  # type: ignore[operator]
        content = {
            "state_dict": {key: value.detach().cpu().clone() for key, value in self.state_dict().items()},
            "hyper_parameters": {**plain(self.hparams), "replicas": 1, "seed": self.seed + replica},
            "lightning_pbrl": {**self.provenance(), "engines": {}, "finished": True},
            "pytorch-lightning_version": pl.__version__,
            "epoch": 0,
            "global_step": self.updates_done,
        }
        self.use_replica(0)  # type: ignore[operator]
        check_saved(content, type(self).__name__)
        with replacing(path) as part:
            torch.save(content, part)

    def provenance(self) -> dict[str, Any]:
        """Return what every checkpoint says of a method beside its weights, as plain types."""
        return {
            "schema": SCHEMA,
            "method": type(self).__name__,
            "module": type(self).__module__,  # read by nobody but a person who misses it
            "updates": self.updates_done,
            "asked": list(self.asked),
            "learned_from": self.learned_from,
        }

    @property
    def updates_done(self) -> int:
        """Gradient updates so far, those of a loaded checkpoint included."""
        return self._trainer.global_step or self.updates_loaded if self._trainer is not None else self.updates_loaded

    @classmethod
    def load(cls, path: str | Path, replica: int = 0, device: str = "cpu") -> Self:
        """Return a trained method, ready to ``predict``.

        The class is found by the name it has registered, never imported because the file says so: import the package that
        defines an outside method first.

        Args:
            path: a checkpoint, or what :meth:`save` has written.
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
    """The method of a checkpoint, with the weights of one replica."""
    saved = checkpoint["lightning_pbrl"]
    try:
        check_saved(checkpoint, f"The checkpoint {path}")
        method = cls(**plain(checkpoint["hyper_parameters"]))  # plain drops keys that name classes
        method.configure_model()
        method.load_state_dict(checkpoint["state_dict"])
        replicas = [engine["flat"]["weights"] for engine in saved["engines"].values()]
        if len({method.replicas, *map(len, replicas)}) > 1:
            raise ValueError("it lacks the weights of a replica")
        for weights in replicas if 0 <= replica < method.replicas else ():
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
