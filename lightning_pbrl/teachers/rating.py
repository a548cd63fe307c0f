"""Simulated rating teacher: the bin of a segment's true return, with or without noise.

Source: the simulated annotator of the repository `MariaGkoulta/rlhf-repo` (active RLHF with ratings and preferences).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query, Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.ranges import ANY, POSITIVE_SHARE, WEIGHT
from lightning_pbrl.rng import uniform
from lightning_pbrl.teachers.base import (
    DRAW_NOISE,
    RoundStats,
    Teacher,
    discounted,
    known_returns,
    no_true_reward,
)


class RatingTeacher(Teacher, ranges={"low": ANY, "high": ANY, "eval_beta": WEIGHT, "discount": POSITIVE_SHARE}):
    r"""Simulated rater that assigns a segment the bin of its true return (active RLHF with ratings).

    The rating is in 0 .. ``bins`` - 1, the bin of G = sum_t discount^t r_t among bins of equal width over a range.

    1. G is clipped to the range. A G on an inner edge belongs to the bin above, the upper end of the range to the last bin.
    2. With ``eval_beta`` > 0, noise N(0, (``eval_beta`` x bin width)^2) is added, and the sum is rounded and clipped to the
       scale. Away from the ends of the scale its mean is zero.

    Args:
        bins: number of bins K, at least 2.
        low: lower end of the range, reward units; None estimates the range.
        high: upper end of the range, reward units.
        quantiles: ends of the estimated range, as quantiles of the returns of the segments that may be shown at that time. The
            rater's standards thus follow the available segments.
        eval_beta: standard deviation of the noise as a fraction of a bin's width, at least 0.
        discount: weight of a step relative to the one before, in (0, 1] (reference .99; preferences there are undiscounted).
        reference_noise: use the released rule instead: add a normal number of mean 0 and standard deviation 10 ``eval_beta``
            truncated to [1, 10], unrounded and unclipped. It is always positive and leaves the scale.

    Raises:
        UserError: for a setting out of range, an empty range, or segments without a true reward.

    Differences: the released code numbers bins from 0 but describes them as 1 to 10; here they are 0 .. K - 1 throughout.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"rating"})

    def __init__(
        self,
        bins: int = 10,
        low: float | None = None,
        high: float | None = None,
        quantiles: Sequence[float] = (0.01, 0.99),
        eval_beta: float = 0.0,
        discount: float = 1.0,
        reference_noise: bool = False,
    ) -> None:
        name = type(self).__name__
        self.bins = bins
        finite = low is not None and high is not None and -math.inf < low < high < math.inf
        if not finite and not low is high is None:
            raise UserError(
                f"{name} got low={low} and high={high}: give both ends of the range of returns, finite, low below high, or none."
            )
        if len(quantiles) != 2 or not 0 <= quantiles[0] < quantiles[1] <= 1:
            raise UserError(f"{name} got quantiles={list(quantiles)}: give two shares in [0, 1], the smaller first.")
        self.low, self.high, self.quantiles = low, high, list(quantiles)
        self.eval_beta = eval_beta
        self.discount = discount
        self.reference_noise = reference_noise
        self._range: tuple[float, float] | None = None if low is None or high is None else (low, high)

    def start_round(self, stats: RoundStats) -> None:
        """Estimate the range from this round's returns, unless it is given."""
        if self.low is not None:
            return
        returns = known_returns(stats, type(self).__name__, "low and high", self.discount)
        low, high = torch.quantile(returns, torch.tensor(self.quantiles, dtype=torch.float64)).tolist()
        self._range = (low, high) if high > low else (low - 0.5, low + 0.5)  # all returns alike: the middle of the scale

    @property
    def range(self) -> tuple[float, float]:
        """Ends of the scale in force, reward units.

        Raises:
            UserError: if it is to be estimated and no round has begun.
        """
        if self._range is None:
            raise UserError(
                f"{type(self).__name__} takes its range from the returns of segments and was given none: call start_round before "
                "answer, or set low and high."
            )
        return self._range

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Rate each segment by the two steps of the class docstring."""
        reward = clips.reward[:, 0].double()
        if reward.isnan().any():
            raise no_true_reward(type(self).__name__)
        edges = torch.linspace(*self.range, self.bins + 1, dtype=torch.float64)
        rating = torch.bucketize(discounted(reward, self.discount), edges[1:-1], right=True).double()
        if self.eval_beta > 0:
            u = uniform(keys, DRAW_NOISE)
            if self.reference_noise:
                rating = rating + _truncated_normal(u, 10 * self.eval_beta, 1.0, 10.0)
            else:
                noise = self.eval_beta * torch.special.ndtri(u.clamp(1e-15, 1 - 1e-15))
                rating = (rating + noise).round().clamp(0, self.bins - 1)
        return Answer(rating.float(), torch.full((len(query),), int(Status.ANSWERED)))

    def in_force(self) -> dict[str, Any]:
        """Return the range of this round, which defines the K rating levels."""
        return {} if self._range is None else {"range": list(self._range), "bins": self.bins}


def _truncated_normal(u: Tensor, sd: float, low: float, high: float) -> Tensor:
    """Sample N(0, sd^2) within [low, high] by its inverse distribution function from u in [0, 1): (B,), float64."""
    below, above = (0.5 * (1 + math.erf(end / sd / math.sqrt(2))) for end in (low, high))
    return (sd * torch.special.ndtri(below + u * (above - below))).clamp(low, high)
