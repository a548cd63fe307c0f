"""Ratings: how good one clip is, a number from 0. :class:`~lightning_pbrl.rewards.unified.UnifiedReward` learns from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lightning_pbrl.data.kinds.base import AnswerKind, Settled
from lightning_pbrl.data.status import Status


class Rating(AnswerKind):
    """Rating of one clip."""

    name = "rating"
    clips = 1
    values = "any number"
    ordered = True

    def takes(self, value: float, clips: int) -> bool:
        return math.isfinite(value)

    def words(self, value: float) -> str:
        return f"rating {value:g}"

    def settle(self, values: Sequence[float]) -> Settled:
        """Return the mean."""
        return statistics.fmean(values), Status.ANSWERED
