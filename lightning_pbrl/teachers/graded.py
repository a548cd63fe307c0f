"""Simulated teacher of graded pairs: how much better, by the difference of true returns.

Sources: the cumulative logit model of ordinal paired comparisons (Tutz 1986, Journal of Mathematical Psychology 30; Agresti 1992,
Applied Statistics 41).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query, Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.ranges import ANY, POSITIVE, WEIGHT
from lightning_pbrl.rng import uniform
from lightning_pbrl.teachers.base import DRAW_CHOICE, ScaledTeacher, true_returns


class GradedTeacher(ScaledTeacher, ranges={"equal": WEIGHT, "much": WEIGHT, "beta": ANY, "return_std": POSITIVE}):
    r"""Simulated teacher who says much better, better or equal (cumulative logit, Agresti 1992).

    With D the second segment's true return less the first's, plus logistic noise of scale 1 / ``beta``: equal if \|D\| <=
    ``equal``, much better if \|D\| > ``much``, better in between. So P(level <= j) = sigmoid(beta (c_j - R_1 + R_0)).

    Args:
        equal: largest difference that is called equal, in ``unit``.
        much: difference above which a segment is much better, in ``unit``, larger than ``equal``.
        beta: rationality, in 1 / ``unit``; 0 or less adds no noise.
        unit: unit of the three: return_std, the standard deviation of the returns of segments; or reward units.
        return_std: that standard deviation, reward units; None estimates it each round from segments that may be shown.

    Raises:
        UserError: if ``much`` is not above ``equal``, and for segments without a true reward.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"graded"})

    def __init__(
        self,
        equal: float = 0.1,
        much: float = 1.0,
        beta: float = -1.0,
        unit: Literal["reward", "return_std"] = "return_std",
        return_std: float | None = None,
    ) -> None:
        if much <= equal:
            raise UserError(f"GradedTeacher got equal={equal:g} and much={much:g}: let much be the larger one.")
        self.equal, self.much, self.beta, self.unit, self.return_std = equal, much, beta, unit, return_std

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Grade each pair by its difference of returns."""
        returns = true_returns(clips, type(self).__name__)
        difference = (returns[:, 1] - returns[:, 0]) / self.scale
        if self.beta > 0:
            difference = difference + uniform(keys, DRAW_CHOICE).clamp(1e-15, 1 - 1e-15).logit() / self.beta
        steps = (difference.abs() > self.equal).double() + (difference.abs() > self.much)
        value = 0.5 + 0.25 * steps * difference.sign()
        return Answer(value.float(), torch.where(steps == 0, int(Status.EQUAL), int(Status.ANSWERED)))

    def thresholds(self, length: int) -> dict[str, float]:
        """Return ``teacher/equal_threshold`` and ``teacher/much_threshold``, reward units."""
        return {"teacher/equal_threshold": self.equal * self.scale, "teacher/much_threshold": self.much * self.scale}
