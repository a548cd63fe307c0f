"""Simulated teacher who corrects: the second segment is taken where it is better than the first by enough."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.ranges import POSITIVE, WEIGHT
from lightning_pbrl.teachers.base import ScaledTeacher, make_answer, true_returns


class CorrectingTeacher(ScaledTeacher, ranges={"gain": WEIGHT, "return_std": POSITIVE}):
    """Simulated teacher who prefers the second segment where it corrects the first, and cannot tell otherwise.

    Nobody corrects to the worse: with R the true returns, the second is preferred if R_1 - R_0 > ``gain``; else the question is
    skipped.

    Args:
        gain: smallest improvement that is corrected, in ``unit``.
        unit: return_std, the standard deviation of the returns of segments; or reward units.
        return_std: that standard deviation, reward units; None estimates it each round from segments that may be shown.

    Raises:
        UserError: for segments without a true reward.
    """

    def __init__(
        self, gain: float = 0.5, unit: Literal["reward", "return_std"] = "return_std", return_std: float | None = None
    ) -> None:
        self.gain, self.unit, self.return_std = gain, unit, return_std

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Take each second segment that is better by more than the gain."""
        returns = true_returns(clips, type(self).__name__)
        better = returns[:, 1] - returns[:, 0] > self.gain * self.scale
        return make_answer(better.float(), better & False, ~better)

    def thresholds(self, length: int) -> dict[str, float]:
        """Return ``teacher/gain``, reward units."""
        return {"teacher/gain": self.gain * self.scale}
