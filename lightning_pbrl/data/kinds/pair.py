"""Pairs: which of two clips is better. The value is P(second preferred): 0, 0.5 or 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_pbrl.data.kinds.base import ChoiceKind, Settled
from lightning_pbrl.losses.graded import soft_cross_entropy

SIDES = ("first", "second")
"""Names of the two segments."""


class Pair(ChoiceKind):
    """Preference between two clips, by the Bradley-Terry model."""

    name = "pair"
    values = "0, 0.5 or 1, the probability that the second is preferred"

    def takes(self, value: float, clips: int) -> bool:
        return value in (0, 0.5, 1)

    def is_equal(self, value: float) -> bool:
        return value == 0.5

    def better(self, value: float) -> int | None:
        return None if value == 0.5 else int(value > 0.5)

    def words(self, value: float) -> str:
        better = self.better(value)
        return "equal" if better is None else f"{SIDES[better]} is better"

    def settle(self, values: Sequence[float]) -> Settled:
        """Return what most people said; as many answers for either side are equal."""
        (first, count), *others = Counter(values).most_common()
        value = 0.5 if others and others[0][1] == count else first
        return value, self.status(value)

    def loss(self, scores: Tensor, value: Tensor, cuts: Tensor | None = None) -> Tensor:
        return soft_cross_entropy(scores[..., :2], value)

    def lead(self, scores: Tensor, value: Tensor) -> Tensor:
        gap = scores[..., 1] - scores[..., 0]
        return torch.where(value == 0.5, torch.nan, torch.where(value > 0.5, gap, -gap))
