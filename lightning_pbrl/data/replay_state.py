"""State of a replay buffer in a checkpoint: the ring and its episodes, as tensors and plain types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_pbrl.errors import UserError


def saved(replay: Any) -> dict[str, Any]:
    """Return the ring, oldest step first, and the episodes. Copies are in the label store.

    Of logged rows it has the fingerprint and the learned reward; the data module has the rest.
    """
    slots = torch.arange(max(replay.steps - replay.lane, 0), replay.steps, device=replay.device) % replay.lane
    tables = {name: table for name, table in replay.tables().items() if table is not None or name != "pictures"}
    return {
        "steps": replay.steps,
        **{name: None if t is None else t.index_select(1, slots.to(t.device)).cpu() for name, t in tables.items()},
        "episodes": replay.log.state_dict(),
        **({"after": replay.after.state_dict(replay.steps)} if replay.after.kept else {}),
        "logged": replay.logged.state_dict(replay.column("learned_reward")),
    }


def restore(replay: Any, state: Mapping[str, Any]) -> None:
    """Restore a state; of a ring larger than this one the newest rows are taken.

    Raises:
        UserError: if it has another number of environments, other sizes or images, other logged data, or fewer rows than fit.
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
    kept = state["rows"].shape[1]
    if kept < min(int(state["steps"]), replay.lane):
        raise UserError(
            f"The checkpoint's replay keeps {kept} steps of each environment, having forgotten older ones, and this one has room "
            f"for {replay.lane}: set data.init_args.capacity to {kept * replay.num_envs}, that of the checkpoint."
        )
    replay.logged.load_state_dict(replay, state.get("logged"))  # which older checkpoints do not have
    replay.steps = int(state["steps"])
    count = min(state["rows"].shape[1], replay.lane)
    slots = torch.arange(replay.steps - count, replay.steps, device=replay.device) % replay.lane
    if state["success"] is not None and replay.success is None:
        replay.keep_success()
    for name, table in replay.tables().items():
        if table is not None and (values := state.get(name)) is not None:
            table.index_copy_(1, slots.to(table.device), values[:, values.shape[1] - count :].to(table))
    replay.log.load_state_dict(state["episodes"])
    if "after" in state:
        replay.after.load_state_dict(state["after"], replay.steps)
    replay.version += 1
