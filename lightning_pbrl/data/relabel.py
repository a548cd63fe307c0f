"""Relabelling: functions of (reward, data), step by step or window by window, and the controls that need no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_pbrl.data.steps import steps_of
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import stream

Control = Literal["true", "zero", "random", "negated"]
CPU_TILE = 1024
"""Rows per forward pass on a CPU: the activations of a 256-wide layer fit into its second-level cache."""
CUDA_TILE = 65_536
CPU_PICTURES, CUDA_PICTURES = 64, 2_048
"""Images per forward pass: the activations of 64 fit into a CPU's cache, and no more than these are floats at a time."""
CPU_WINDOW_STEPS, CUDA_WINDOW_STEPS = 3_200, 262_144
"""Steps per forward pass of a model that reads windows: 32 windows of 100 steps fit into a CPU's cache."""


def min_max(values: Tensor, among: Tensor | None = None) -> Tensor:
    """Scale so that ``among`` (``values`` themselves if None) fills [0, 1]; a constant becomes all zeros."""
    among = values if among is None else among
    low, high = among.min(), among.max()
    return torch.zeros_like(values) if high == low else (values - low) / (high - low)


def mean_of_members(reward: Tensor) -> Tensor:
    """Return the mean over members: (E, n) -> (n,)."""
    return reward.mean(0)


@torch.no_grad()
def predict_reward(
    source: Transitions,
    reward: Callable[[Tensor], Tensor],
    tile: int | None = None,
    combine: Callable[[Tensor], Tensor] = mean_of_members,
    rows: Tensor | None = None,
    pictures: bool = False,
) -> Tensor:
    """Return the learned reward of every row, (N,), or of ``rows``, (n,); by default the mean over members.

    Args:
        source: the data.
        reward: reward function, features (n, O + A) -> (E, n).
        tile: rows per call; None for a default of the device.
        combine: reduction of member rewards, (E, n) -> (n,).
        rows: row ids; None for all rows.
        pictures: True if ``reward`` reads images and actions as bytes; each image is encoded once.
    """
    on_cpu = source.device.type == "cpu"
    if pictures:
        tile = tile or (CPU_PICTURES if on_cpu else CUDA_PICTURES)
        every = torch.arange(len(source), device=source.device) if rows is None else rows
        return torch.cat([combine(reward(steps_of(source, part, True))) for part in every.split(tile)])
    tile = tile or (CPU_TILE if on_cpu else CUDA_TILE)
    features = source.features()
    if rows is not None:
        return torch.cat([combine(reward(features[part])) for part in rows.split(tile)])
    out = torch.empty(len(source), device=source.device)
    for part, seen in zip(out.split(tile), features.split(tile), strict=True):
        part.copy_(combine(reward(seen)))
    return out


def windows(source: Transitions, rows: Tensor, begin: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the window that ends at each row: the last ``length`` steps of its episode, padded with zeros in front.

    Args:
        source: the data.
        rows: the last row of each window, (n,).
        begin: first row of that row's episode, (n,).
        length: number of steps L of a window.

    Returns:
        States and actions side by side, (n, L, O + A), and time: 1, 2, ... on real steps, 0 on padding, (n, L), int64.
    """
    index = rows[:, None] + torch.arange(1 - length, 1, device=rows.device)
    first = torch.maximum(begin, rows - length + 1)[:, None]
    time = (index - first + 1).clamp(min=0)
    features = source.features()[torch.maximum(index, first)]
    return features.masked_fill_((time == 0).unsqueeze(-1), 0.0), time


@torch.no_grad()
def predict_window_reward(
    source: Transitions,
    reward: Callable[[Tensor, Tensor | None], Tensor],
    length: int,
    rows: Tensor | None = None,
    tile: int | None = None,
) -> Tensor:
    """Return the reward of rows by a history-dependent model: of every row, (N,), or of ``rows``, (n,).

    Args:
        source: the data.
        reward: features (b, L, O + A) and time (b, L), both as :func:`windows` makes them, -> (b,); time is None for
            windows without padding.
        length: number of steps L of a window.
        rows: row ids; None for all rows.
        tile: windows per call; None for a default of the device.
    """
    device = source.device
    tile = tile or max((CPU_WINDOW_STEPS if device.type == "cpu" else CUDA_WINDOW_STEPS) // length, 1)
    rows = torch.arange(len(source)) if rows is None else rows.cpu()
    begin = source.first_of(rows)
    out = torch.empty(len(rows), device=device)
    full = rows - begin + 1 >= length
    for which in (full, ~full):  # apart, because most windows need no mask
        for part in which.nonzero().squeeze(1).split(tile) if which.any() else ():
            features, time = windows(source, rows[part].to(device), begin[part].to(device), length)
            out[part.to(device)] = reward(features, None if which is full else time)
    return out


def control_reward(source: Transitions, control: Control, seed: int = 0) -> Tensor:
    """Return the reward of a control, (N,), which a policy learner gets instead of a learned reward.

    "true" is the environment's reward, "zero" is 0 everywhere, "random" is uniform noise per transition. "negated" is minus the
    environment's reward. (LiRE's trivial rewards; they show whether data are sensitive to the reward.)

    Raises:
        UserError: if the data carry no true reward and the control needs it.
    """
    if control == "zero":
        return torch.zeros(len(source), device=source.device)
    if control == "random":
        return torch.rand(len(source), generator=stream(seed, "random reward")).to(source.device)
    if not torch.isfinite(source.drawable_part(source.reward)).all():
        raise UserError(f"The control {control!r} needs the true reward, and these data carry none; use zero or random.")
    return source.reward if control == "true" else -source.reward
