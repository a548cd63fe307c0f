"""Simulated teacher who chooses the best of several segments, rationally or by a softmax of true returns.

Sources: Luce 1959 ("Individual Choice Behavior"); Plackett 1975 ("The analysis of permutations").
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query, Status
from lightning_pbrl.ranges import ANY, POSITIVE
from lightning_pbrl.rng import uniform
from lightning_pbrl.teachers.base import DRAW_CHOICE, ScaledTeacher, softmax_choice, true_returns


class BestOfTeacher(ScaledTeacher, ranges={"beta": ANY, "return_std": POSITIVE}):
    """Simulated teacher who names the best of k segments (Luce 1959).

    Segment i of the k is chosen with probability softmax(beta R)_i, R their true undiscounted returns.

    Args:
        beta: rationality, in 1 / ``unit``; 0 or less always chooses the largest return, of equal ones the first.
        unit: reward units; or return_std, the standard deviation of the returns of segments.
        return_std: that standard deviation, reward units; None estimates it each round from segments that may be shown.

    Raises:
        UserError: for segments without a true reward.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"best"})

    def __init__(
        self, beta: float = -1.0, unit: Literal["reward", "return_std"] = "reward", return_std: float | None = None
    ) -> None:
        self.beta, self.unit, self.return_std = beta, unit, return_std

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Choose one segment of each question."""
        returns = true_returns(clips, type(self).__name__)
        beta = self.beta / self.scale if self.beta > 0 else 0.0
        chosen = softmax_choice(returns, beta, uniform(keys, DRAW_CHOICE))
        return Answer(chosen, torch.full((len(query),), int(Status.ANSWERED)))
