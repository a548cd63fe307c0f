"""From a checkpoint file to a working method, without a Trainer and without running what the file says."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from lightning_pbrl.data.guard import reason
from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.methods.base import Method, plain
from lightning_pbrl.methods.diverged import check_saved


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint: tensors and plain types only.

    Raises:
        UserError: when there is no such file, it is damaged, holds anything that would run code, or is not ours.
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
    return checkpoint


def load_method(path: str | Path, replica: int = 0, device: str = "cpu") -> Method:
    """A trained method, ready to ``act`` or to ``reward``.

    The class is found by the name it has registered, never imported because the file says so: import the package that
    defines an outside method first.

    Args:
        path: a checkpoint.
        replica: which of the run's replicas.
        device: where to put it.

    Raises:
        UserError: unreadable file, unknown method, or no such replica.
    """
    import lightning_pbrl.registry as registry  # fills Method.registry with the library's own methods

    registry.import_all()
    checkpoint = read_checkpoint(path)
    saved = checkpoint["lightning_pbrl"]
    name = saved.get("method") if isinstance(saved, dict) else None
    if not isinstance(name, str):
        raise UserError(f"The checkpoint {path} names no method; use an earlier one.")
    if name not in Method.registry:
        module = saved.get("module", "")
        absent = module if isinstance(module, str) and module.isprintable() and module not in ("", "__main__") else "MODULE"
        raise UserError(
            f"The checkpoint {path} names the method {name!r}, which no imported module defines "
            f"({nearest(name, Method.registry)}): import the one that does first, in Python `import {absent}`, in a config or "
            f"experiment `imports: [{absent}]`, on the command line --imports=[{absent}]."
        )
    try:
        check_saved(checkpoint, f"The checkpoint {path}")
        method = Method.registry[name](**plain(checkpoint["hyper_parameters"]))  # plain drops keys that name classes
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
            f"The checkpoint {path} does not fit this version's {name} ({reason(error)}): load it with the version that wrote it."
        ) from error
    if not 0 <= replica < method.replicas:
        raise UserError(f"{path} holds {method.replicas} replica(s), numbered from 0; there is no replica {replica}.")
    method.use_replica(replica)  # a planner's numbers are a replica's own
    method.learned_from = saved.get("learned_from")
    return method.to(device).eval().requires_grad_(False)
