"""Logged data from the replay that a checkpoint of a method that acts holds: its finished episodes, in order of collection.

Papers make data in this way: LiRE's (arXiv 2408.04190) and D4RL's ``medium-replay`` (arXiv 2004.07219) are the replay of SAC on
the true reward, from the first random step to some later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.data.episode_log import UNKNOWN
from lightning_pbrl.data.transitions import Transitions, row_layout
from lightning_pbrl.errors import UserError


def logged_episodes(
    replay: Mapping[str, Any], obs_dim: int, action_dim: int, steps: int | None, about: Mapping[str, Any]
) -> Transitions:
    """Return the finished episodes of a replay's state that are there from their first step on.

    Args:
        replay: state of a :class:`~lightning_pbrl.data.replay.Replay`.
        obs_dim: observation size.
        action_dim: action size.
        steps: env steps from the first on, of all environments together; an episode that ends later is left out. None for all.
        about: origin of the data, plain JSON types.

    Raises:
        UserError: for a replay of pictures, and if no episode is left.
    """
    if replay.get("pictures") is not None:
        raise UserError("The checkpoint's replay has pictures; give the checkpoint of a run that learned from states.")
    rows, reward, success = replay["rows"], replay["reward"], replay["success"]
    envs, kept, _ = rows.shape
    oldest = int(replay["steps"]) - kept
    finished = replay["episodes"]["finished"]
    env, begin, end = finished[:, :3].long().unbind(1)
    wanted = (begin >= oldest) & (end * envs <= (end * envs if steps is None else steps))
    if not wanted.any():
        raise UserError("The checkpoint's replay has no whole episode of the wanted steps: act longer, or raise `steps`.")
    env, begin, length = env[wanted], begin[wanted], (end - begin)[wanted]
    offsets = torch.cat([length.new_zeros(1), length.cumsum(0)])
    first = (env * kept + begin - oldest).repeat_interleave(length)
    index = first + torch.arange(len(first)) - offsets[:-1].repeat_interleave(length)
    table = rows.flatten(0, 1)[index]
    table[:, row_layout(obs_dim, action_dim)["learned_reward"][0]] = torch.nan
    solved, unknown = _success(success, index, finished[wanted, 4] == UNKNOWN, length)
    return Transitions(table, offsets, reward.flatten()[index], solved, obs_dim, action_dim, about, success_unknown=unknown)


def _success(success: Tensor | None, index: Tensor, silent: Tensor, length: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return success per row and where it is unknown: in episodes without any report."""
    if success is None or silent.all():
        return None, None
    return success.flatten()[index], silent.repeat_interleave(length) if silent.any() else None
