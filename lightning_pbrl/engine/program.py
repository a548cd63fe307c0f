"""What a method hands to the engine: groups to move, losses to move them by, targets that follow.

For instance::

    Program(
        groups={"q": Group(lr=3e-4), "v": Group(lr=3e-4), "actor": Group(lr=3e-4, schedule=cosine(30_000))},
        steps=[self.losses],                       # all losses read the state before the step
        targets={"q_target": ("q", 0.005)},
        **self.replay(batch_size=256),             # where minibatches come from: sample, gather, view
    )
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Losses = dict[str, Tensor]
"""Scalar per group (its loss) and per metric (any other key; no gradient is taken of it)."""
LossStep = Callable[[Any], Losses]
Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimiser.

    Attributes:
        lr: learning rate per update, before ``schedule``.
        optimizer: any elementwise ``torch.optim`` class (it sees the whole group as one flat vector).
        options: further arguments of the optimiser, such as ``{"weight_decay": 1e-4}``.
        schedule: factor on ``lr`` as a function of the updates done so far.
        clip: largest gradient norm of the group per update; None for no clipping.
        clip_jointly: the norm is that of all groups of the step which say so (they share one ``clip``), as when one
            optimiser of the paper holds modules that not every step moves.
        modules: attributes of the method whose parameters belong here, such as ``q`` or ``reward_model.members``; by default
            the group's own name.
    """

    lr: float
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None
    clip: float | None = None
    clip_jointly: bool = False
    modules: tuple[str, ...] = ()


def identity(batch: Any) -> Any:
    """The batch as it was gathered."""
    return batch


@dataclass(frozen=True)
class Program:
    """One kind of update: from sampled ids to moved parameters.

    Attributes:
        groups: name -> :class:`Group`.
        steps: loss methods in the paper's order. A step maps a batch to ``{group: loss, metric: value}``; its losses
            read the state before the step, and its groups move before the next step begins. Parameters of a group that its loss
            does not reach are not moved; on several devices they must be the same ones on all.
        sample: (updates, generator) -> ids of every update, one entry per update, drawn in one call. An entry may be a tuple
            (ids and noise, say).
        gather: entry of one update -> tensors, once per update (per step and tile with ``tile``); runs outside the compiled
            function, so data size is never a shape.
        view: gathered tensors -> the batch a step sees; runs inside (free views when compiled).
        targets: target attribute -> (source group, polyak rate); moved whenever the last step has run.
        follow_every: targets move in the updates 0, k, 2 k ... only.
        every: update interval of each step, such as (1, 2) for TD3's delayed policy: a step runs in the updates 0, k,
            2 k ...; empty for every step in every update.
        ragged: whether updates differ in size, so that a compiled function would be compiled anew for each size.
        tile: evaluate each update in tiles of this many ids (last axis of the ids) and accumulate gradients; the losses
            must be means over that axis. Keeps wide batches in the cache of a CPU.
    """

    groups: Mapping[str, Group]
    steps: Sequence[LossStep]
    sample: Callable[[int, torch.Generator], Sequence[Any]]
    gather: Callable[[Any], Any]
    view: Callable[[Any], Any] = identity
    targets: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    tile: int | None = None
    ragged: bool = False
    every: Sequence[int] = ()
    follow_every: int = 1


@dataclass(frozen=True)
class cosine:  # noqa: N801 - read as the function that it is
    """Decay from 1 to 0 along half a cosine over ``updates`` updates (Loshchilov and Hutter 2017, Eq. 5, no restarts)."""

    updates: int

    def __call__(self, done: int) -> float:
        """Factor on the learning rate after ``done`` updates."""
        return 0.5 * (1.0 + math.cos(math.pi * min(done / self.updates, 1.0)))
