"""Graded pairs: which of two clips is better, and how much. The value is 0, .25, .5, .75 or 1, from the first to the second."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from torch import Tensor

from lightning_pbrl.data.kinds.base import Settled
from lightning_pbrl.data.kinds.pair import SIDES, Pair
from lightning_pbrl.losses.graded import LEVELS, ordinal_cross_entropy, soft_cross_entropy


class Graded(Pair):
    """Preference between two clips with its strength: much better, better, equal.

    With cut points the likelihood is that of the cumulative logit model (Tutz 1986, Agresti 1992), without them the Bradley-Terry
    cross entropy with the value as a soft label.
    """

    name = "graded"
    values = "0, .25, .5, .75 or 1: first much better, first better, equal, second better, second much better"
    ordered = True

    def takes(self, value: float, clips: int) -> bool:
        return value in (0, 0.25, 0.5, 0.75, 1)

    def words(self, value: float) -> str:
        better = self.better(value)
        much = "much " if value in (0, 1) else ""
        return "equal" if better is None else f"{SIDES[better]} is {much}better"

    def settle(self, values: Sequence[float]) -> Settled:
        """Return the median; between two levels, the one that is closer to equal."""
        middle = (LEVELS - 1) * (statistics.median(values) - 0.5)
        value = 0.5 + int(middle) / (LEVELS - 1)
        return value, self.status(value)

    def loss(self, scores: Tensor, value: Tensor, cuts: Tensor | None = None) -> Tensor:
        pair = scores[..., :2]
        return soft_cross_entropy(pair, value) if cuts is None else ordinal_cross_entropy(pair, value, cuts)
