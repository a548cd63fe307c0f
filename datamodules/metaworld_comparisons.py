"""Meta-World comparisons as in IPL: four kinds of scripted behaviour, short segments, scripted answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.metaworld import MetaWorldDataModule
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import stream

KINDS = (
    Behaviour(noise=1.0),
    Behaviour(noise=1.0, twin="goal"),
    Behaviour(expert=False),
    Behaviour(noise=1.0, twin="task"),
)
"""Noisy expert; noisy expert blind to this episode's object and goal; random actions; noisy expert of another task."""
STOP_AFTER_SUCCESS = 25
"""Number of successful steps after which an episode ends (released code), so that it does not mostly stand still."""


class MetaWorldComparisonsDataModule(MetaWorldDataModule):
    """IPL's comparisons of Meta-World segments by discounted true return (Hejna and Sadigh 2023), collected on first use.

    Source: IPL (arXiv 2305.15363), its data scripts: about 100 episodes of each of four kinds, 10,000 pairs of segments of 25
    steps, label 1[sum_t gamma^t r_t of the first < that of the second], goal hidden.

    Args:
        task: one of the 50 tasks.
        capacity: number of comparisons for the learner, the first ones; None gives all but the held-out ones.
        comparisons: total number of comparisons.
        held_out: number of comparisons, the last ones, for the evaluation of reward models and implied rewards.
        discount: discount of the returns that are compared.
        episodes: number of episodes to collect, each kind equally likely.
        goal_observable: whether learners see the goal.
        segment_length: steps per segment.
        **metaworld: the other arguments of :class:`MetaWorldDataModule`.

    Raises:
        UserError: if more comparisons are given than made.

    Differences: Meta-World v3; the kind of each episode is random, not 100 of each; an exact tie is "equal".
    """

    def __init__(
        self,
        task: str,
        capacity: int | None = None,
        comparisons: int = 10_000,
        held_out: int = 1_000,
        discount: float = 0.99,
        episodes: int = 400,
        goal_observable: bool = False,
        segment_length: int = 25,
        **metaworld: Any,
    ) -> None:
        metaworld = {"mixture": list(KINDS), "stop_after_success": STOP_AFTER_SUCCESS, **metaworld}
        super().__init__(task, goal_observable=goal_observable, episodes=episodes, segment_length=segment_length, **metaworld)
        self.capacity = comparisons - held_out if capacity is None else capacity
        if not 0 < self.capacity <= comparisons - held_out or held_out < 0:
            raise UserError(
                f"{comparisons} comparisons, {held_out} of them held out, cannot give {self.capacity} to the learner: lower "
                "data.capacity or data.held_out, or raise data.comparisons."
            )
        self.comparisons, self.number_held_out, self.discount = comparisons, held_out, discount

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.labels is None:
            rng = stream(self.collection_seed, "comparisons")
            query = self.source.pool(self.segment_length).pairs(self.comparisons, rng)
            every = compare(self.source, query.start, self.segment_length, self.discount)
            self.labels = part(every, 0, self.capacity)
            self.held_out_labels = part(every, self.comparisons - self.number_held_out, self.comparisons)


def compare(source: Transitions, start: Tensor, length: int, discount: float) -> Labels:
    """Label the segment of each pair with the larger discounted true return; (N, 2) starts."""
    weight = discount ** torch.arange(length, dtype=torch.float64)
    returns = (source.reward.cpu()[segment_rows(start, length)].double() * weight).sum(-1)  # (N, 2)
    tie = returns[:, 0] == returns[:, 1]
    value = torch.where(tie, 0.5, (returns[:, 0] < returns[:, 1]).double()).float()
    return Labels(start, length, value, torch.where(tie, int(Status.EQUAL), int(Status.ANSWERED)))


def part(labels: Labels, first: int, end: int) -> Labels:
    """Return labels ``first`` to ``end`` - 1."""
    return Labels(labels.start[first:end], labels.length, labels.value[first:end], labels.status[first:end])
