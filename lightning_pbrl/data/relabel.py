"""Relabelling: one function of (reward, data), and the controls that need no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import stream

Control = Literal["true", "zero", "random", "negated"]
CPU_TILE = 1024
"""Rows per forward on a CPU: the activations of a 256-wide layer stay in its second-level cache."""
CUDA_TILE = 65_536


def min_max(values: Tensor) -> Tensor:
    """Scale to [0, 1]; a constant column becomes all zeros, never a division by zero."""
    low, high = values.min(), values.max()
    return torch.zeros_like(values) if high == low else (values - low) / (high - low)


def mean_of_members(reward: Tensor) -> Tensor:
    """(E, n) -> (n,)."""
    return reward.mean(0)


@torch.no_grad()
def predict_reward(
    source: Transitions,
    reward: Callable[[Tensor], Tensor],
    tile: int | None = None,
    combine: Callable[[Tensor], Tensor] = mean_of_members,
) -> Tensor:
    """The learned reward of every row, (N,), by default the mean over members.

    Args:
        source: the data.
        reward: features (n, O + A) -> (E, n).
        tile: rows per call; by default what suits the device.
        combine: member rewards (E, n) -> (n,).
    """
    tile = tile or (CPU_TILE if source.device.type == "cpu" else CUDA_TILE)
    out = torch.empty(len(source), device=source.device)
    for part, rows in zip(out.split(tile), source.features().split(tile), strict=True):
        part.copy_(combine(reward(rows)))
    return out


def control_reward(source: Transitions, control: Control, seed: int = 0) -> Tensor:
    """The reward of a control, (N,): what a policy learner gets instead of a learned reward.

    "true" is the environment's reward, "zero" none at all, "random" uniform noise per transition, "negated"
    minus the environment's reward (LiRE's trivial rewards; they show whether data are sensitive to the reward).

    Raises:
        UserError: when the data carry no true reward and the control needs it.
    """
    if control == "zero":
        return torch.zeros(len(source), device=source.device)
    if control == "random":
        return torch.rand(len(source), generator=stream(seed, "random reward")).to(source.device)
    if not torch.isfinite(source.reward).all():
        raise UserError(f"The control {control!r} needs the true reward, and these data carry none; use zero or random.")
    return source.reward if control == "true" else -source.reward
