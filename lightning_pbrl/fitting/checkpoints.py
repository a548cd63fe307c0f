"""Content of a checkpoint. Its layout is numbered; older layouts are converted to the present one."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

from lightning_pbrl.compute import products
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.lightning_glue import plain
from lightning_pbrl.rewards.base import HELD

SCHEMA = 3
"""3: a reward model is a part of its method, ``reward_model``. 2: it was a method. 1: one state per program, each with the
generators of its minibatches."""


def saved(method: Any) -> dict[str, Any]:
    """Return the content of a method's checkpoint: tensors and plain types only."""
    return {
        "state_dict": {key: value.clone() for key, value in method.state_dict().items()},
        "hyper_parameters": plain(method.hparams),
        "lightning_pbrl": {
            "method": type(method).__name__,
            "module": type(method).__module__,  # for a person who misses it; no code reads it
            "schema": SCHEMA,
            "engine": method.running.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "products": products.kept(),
            "finished": method.finished,
            "updates": method.trainer.global_step,
            "asked": list(method.asked),
            "learned_from": method.learned_from,
        },
    }


def provenance(method: Any) -> dict[str, Any]:
    """Return what every file says of a method beside its weights, as plain types."""
    return {
        "schema": SCHEMA,
        "method": type(method).__name__,
        "module": type(method).__module__,  # read by nobody but a person who misses it
        "updates": updates(method),
        "asked": list(method.asked),
        "learned_from": method.learned_from,
    }


def updates(method: Any) -> int:
    """Return the number of gradient updates so far, those of a loaded checkpoint included."""
    trainer = method._trainer
    return int(trainer.global_step or method.updates_loaded if trainer is not None else method.updates_loaded)


def check_schema(saved: Any, what: str) -> None:
    """Refuse a checkpoint of a later version of this library, in a sentence that begins with ``what``."""
    schema = saved.get("schema", 1) if isinstance(saved, Mapping) else 1
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UserError(
            f"{what} has schema {schema} and this version of lightning-pbrl reads up to {SCHEMA}: install the version that wrote "
            "it, or a later one."
        )


def upgrade(method: Any, checkpoint: MutableMapping[str, Any]) -> None:
    """Convert the weights of a checkpoint to the present layout, in place; it stays as it is if no method of ours wrote it.

    Raises:
        UserError: if a later version wrote it.
    """
    saved = upgraded(checkpoint)
    if saved is None or saved.get("schema", 1) >= SCHEMA:
        return
    here, there = method.state_dict().keys(), checkpoint["state_dict"].keys()
    moved = {name: inside for name in there - here if (inside := f"{HELD}.{name}") in here}
    checkpoint["state_dict"] = _renamed(checkpoint["state_dict"], moved)
    checkpoint["lightning_pbrl"] = {**_renamed(saved, moved), "schema": SCHEMA}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return a nested value whose mappings have other keys."""
    if isinstance(value, Mapping):
        return {names.get(key, key): _renamed(item, names) for key, item in value.items()}
    return [_renamed(item, names) for item in value] if isinstance(value, list) else value


def upgraded(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a method saved, with one state; None if no method wrote it, a UserError if a later version did."""
    saved = checkpoint.get("lightning_pbrl")
    if saved is None:
        return None
    check_schema(saved, "The checkpoint")
    if "engine" in saved:
        return dict(saved)
    return {**saved, "engine": _joined(saved["engines"], checkpoint["state_dict"])}


def _joined(engines: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Join the states of the programs into one; ``weights`` adds the frozen ones."""
    flats = [engine["flat"] for engine in engines.values()]
    updates = {group: engine["updates"] for engine in engines.values() for group in engine["flat"]["moments"][0]}
    state = {
        "weights": [_merged((weights, *each)) for each in zip(*(flat["weights"] for flat in flats), strict=True)],
        "moments": [_merged(each) for each in zip(*(flat["moments"] for flat in flats), strict=True)],
        "cuts": _merged([flat.get("cuts", {}) for flat in flats]),
        "updates": updates,
    }
    return {"state": state, "updates": {name: engine["updates"] for name, engine in engines.items()}}


def _merged(parts: Any) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}
