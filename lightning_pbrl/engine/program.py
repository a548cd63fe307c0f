"""Declarations of a method to the engine: groups of parameters with their optimisers, and programs of updates.

For instance::

    groups = {
        "q": Group(lr=3e-4),
        "actor": Group(lr=3e-4, schedule=cosine(30_000)),
        "q_target": Follows("q", polyak=0.005),
    }
    Program(
        steps=[self.losses],                                       # all losses read the state before the step
        draws={"rows": Rows(source, 256), "noise": Normal(256, action_dim)},
        gather=self.rows,                                          # draws -> tensors
        view=self.columns,                                         # tensors -> the batch of a step
    )
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.engine.draws import Draw

Losses = dict[str, Tensor]
"""Scalar per group (its loss) and per metric (any other key; no gradient is taken of it)."""
LossStep = Callable[[Any], Losses | tuple[Losses, dict[str, Tensor]]]
Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimiser.

    Attributes:
        lr: learning rate per update, before ``schedule``.
        optimizer: any elementwise ``torch.optim`` class (it sees the whole group as one flat vector).
        options: further arguments of the optimiser, such as ``{"weight_decay": 1e-4}``.
        schedule: factor on ``lr`` as a function of the updates done so far by the programs that move the group.
        clip: largest gradient norm of the group per update; None for no clipping.
        clip_jointly: take the norm over all groups of the step with this flag (they share one ``clip``). Serves papers with one
            optimiser of modules that not every step moves.
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


@dataclass(frozen=True)
class Follows:
    """Target network: target <- target + polyak (source - target), after the last step of an update that moves its source.

    Attributes:
        source: group that it follows, of the same shapes.
        polyak: rate.
        modules: as :class:`Group`'s.
    """

    source: str
    polyak: float
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frozen:
    """Network that no update moves, such as a reference policy; every replica has its own.

    Attributes:
        modules: as :class:`Group`'s.
    """

    modules: tuple[str, ...] = ()


Part = Group | Follows | Frozen
"""Part of a method's state: every parameter belongs to one."""


def identity(batch: Any) -> Any:
    """Return the batch as it was gathered."""
    return batch


@dataclass(frozen=True)
class Program:
    """One kind of update: from random numbers to moved parameters. Several programs may move the same group.

    Attributes:
        steps: loss methods in the paper's order. A step maps a batch to ``{group: loss, metric: value}``. Its losses read the
            state before the step, and its groups move before the next step begins. It may return a second mapping, of tensors
            that later steps of the update find in their batch, without gradient. Parameters of a group that its loss does not
            reach are not moved; on several devices they must be the same ones on all.
        draws: name -> :class:`~lightning_pbrl.engine.draws.Draw`: the random input of an update.
        gather: draws of one update by name -> tensors, once per update (per step and tile with ``tile``); runs outside the
            compiled function, so data size is never a shape.
        view: gathered tensors -> the batch of a step; runs inside (free views when compiled).
        moves: groups that its losses may name; all of the method's when empty.
        follow_every: targets move in the updates 0, k, 2 k ... only.
        every: update interval of each step, such as (1, 2) for TD3's delayed policy: a step runs in the updates 0, k,
            2 k ...; empty for every step in every update.
        ragged: True if updates differ in size, so that a compiled function would be compiled anew for each size.
        tile: evaluate each update in tiles of this many entries (last axis of each draw) and accumulate gradients; the losses
            must be means over that axis, and a step hands nothing on. Keeps wide batches in the cache of a CPU.
    """

    steps: Sequence[LossStep]
    draws: Mapping[str, Draw]
    gather: Callable[[Any], Any] = identity
    view: Callable[[Any], Any] = identity
    moves: Sequence[str] = ()
    follow_every: int = 1
    every: Sequence[int] = ()
    ragged: bool = False
    tile: int | None = None


@dataclass(frozen=True)
class cosine:  # noqa: N801 - read as the function that it is
    """Decay from 1 to 0 along half a cosine over ``updates`` updates (Loshchilov and Hutter 2017, Eq. 5, no restarts)."""

    updates: int

    def __call__(self, done: int) -> float:
        """Return the factor on the learning rate after ``done`` updates."""
        return 0.5 * (1.0 + math.cos(math.pi * min(done / self.updates, 1.0)))
