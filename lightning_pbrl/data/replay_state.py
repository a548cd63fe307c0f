"""State of a replay buffer: in a checkpoint, as tensors and plain types, and on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_pbrl.errors import UserError


def saved(replay: Any) -> dict[str, Any]:
    """Return the ring, oldest step first, and the episodes. Copies are in the label store.

    Of logged rows it has the fingerprint and the learned reward; the data module has the rest.
    """
    slots = torch.arange(replay.oldest, replay.steps, device=replay.device) % replay.lane
    tables = {name: table for name, table in replay.tables().items() if table is not None or name != "pictures"}
    return {
        "steps": replay.steps,
        **{name: None if t is None else t.index_select(1, slots.to(t.device)).cpu() for name, t in tables.items()},
        "episodes": replay.log.state_dict(),
        **({"after": replay.after.state_dict(replay.steps)} if replay.after.kept else {}),
        "logged": replay.logged.state_dict(replay.column("learned_reward")),
    }


def restore(replay: Any, state: Mapping[str, Any]) -> None:
    """Restore a state; of a ring larger than this one the newest rows are taken, one that is smaller leaves room.

    Raises:
        UserError: if it has another number of environments, other sizes or images, or other logged data.
    """
    images = replay.tables()["pictures"]
    there = state["pictures"].shape[2:] if "pictures" in state else None
    if there != (None if images is None else images.shape[2:]):
        raise UserError(
            "The checkpoint's replay and this one differ in their images: resume with the simulator of the checkpoint."
        )
    found, here = tuple(state["rows"].shape[::2]), (replay.num_envs, replay.packed.shape[1])
    if found != here:
        raise UserError(
            f"The checkpoint's replay is of {found[0]} environments with rows of {found[1]} entries, this one of {here[0]} "
            f"with {here[1]}: resume with the simulator and data.init_args.num_envs of the checkpoint."
        )
    replay.logged.load_state_dict(replay, state.get("logged"))  # which older checkpoints do not have
    kept = state["rows"].shape[1]
    replay.steps, replay.first = int(state["steps"]), int(state["steps"]) - kept
    slots = torch.arange(replay.oldest, replay.steps, device=replay.device) % replay.lane
    if state["success"] is not None and replay.success is None:
        replay.keep_success()
    for name, table in replay.tables().items():
        if table is not None and (values := state.get(name)) is not None:
            table.index_copy_(1, slots.to(table.device), values[:, kept - len(slots) :].to(table))
    replay.log.load_state_dict(state["episodes"])
    if "after" in state:
        replay.after.load_state_dict(state["after"], replay.steps)
    replay.version += 1


def moved(replay: Any, device: torch.device | str) -> None:
    """Give a replay new tables on ``device``, with room for all copies, and write to them what was written."""
    old = replay._rows, replay._rewards, replay._solved
    kept = slice(replay.ring, replay.logged.end + replay.places.written)  # logged rows and copies
    behind = replay.packed[kept], replay.reward[kept], None if replay.success is None else replay.success[kept]
    images, rows = replay._stored, replay.logged.end + replay.places.rows
    if images is not None and len(images) != rows:
        replay.frames = zeros(rows, *images.shape[1:], dtype=torch.uint8)
        for row in range(0, replay.ring, replay.lane):
            for part in replay.filled:
                some = slice(row + part.start, row + part.stop)
                replay.frames[some] = images[some]
        replay.frames[kept] = images[kept]
    replay.packed = zeros(rows, replay.packed.shape[1], device=device)
    replay.reward = zeros(rows, device=device)
    replay.success = None if replay.success is None else zeros(rows, dtype=torch.bool, device=device)
    replay.logged.to(device)
    replay._bind()
    for new, written in zip((replay._rows, replay._rewards, replay._solved), old, strict=True):
        for part in replay.filled if new is not None and written is not None else []:
            new[:, part] = written[:, part].to(device)
    for table, part in zip((replay.packed, replay.reward, replay.success), behind, strict=True):
        if table is not None and part is not None:
            table[kept] = part.to(device)


def zeros(*size: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """Return zeros, on the CPU in memory that is allocated when first written (``torch.zeros`` writes all of it at once)."""
    if torch.device(device).type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(size, {torch.bool: bool, torch.uint8: np.uint8}.get(dtype, np.float32)))
