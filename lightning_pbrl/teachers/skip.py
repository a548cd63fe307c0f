"""Teacher of CLARIFY, which skips pairs of segments that are too similar to compare.

Source: CLARIFY (ICML 2025, arXiv 2506.00388), experimental set-up, and its released code. B-Pref's skip is another rule: it skips
a pair if both segments are *poor*, CLARIFY if their returns are *close*.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.ranges import SHARE, WEIGHT
from lightning_pbrl.rng import uniform
from lightning_pbrl.teachers.base import (
    DRAW_MISTAKE,
    AdaptiveTeacher,
    flip,
    make_answer,
    rational_choice,
    true_returns,
)


class SkipTeacher(AdaptiveTeacher, ranges={"eps": WEIGHT, "eps_mistake": SHARE}):
    r"""Simulated teacher that skips pairs with close returns (CLARIFY, ICML 2025).

    It answers iff \|R_0 - R_1\| > eps x mean true reward x T, else "cannot compare". With ``eps`` = 0, or a mean reward that is
    not positive, the rule is off and nothing is skipped.

    Args:
        eps: threshold as a fraction of the mean true return of a segment, at least 0 (paper: 0.5 and 0.7).
        eps_mistake: probability of a reversed choice, in [0, 1]; skips and ties are never reversed.
        too_close: answer to pairs within the threshold: skip, or equal for learners that train on ties (LiRE under the same
            rule).

    Raises:
        UserError: for a setting out of range, or segments without a true reward.

    Differences: the released code writes both skips and exact ties as [0.5, 0.5] and trains on neither. Here an exact tie is
    a skip while the rule is on (a gap of 0 is within any threshold) and an explicit "equal" while it is off.
    """

    def __init__(self, eps: float = 0.5, eps_mistake: float = 0.0, too_close: Literal["skip", "equal"] = "skip") -> None:
        self.eps = eps
        self.eps_mistake = eps_mistake
        self.too_close = too_close

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Prefer the larger true return if the gap exceeds the threshold."""
        returns = true_returns(clips, type(self).__name__)
        gap = (returns[:, 0] - returns[:, 1]).abs()
        threshold = self.margin(self.eps, query.length)
        close = (gap <= threshold) & (threshold > 0)
        label = flip(rational_choice(returns), uniform(keys, DRAW_MISTAKE), self.eps_mistake)
        if self.too_close == "equal":
            return make_answer(label, close | (gap == 0), skipped=close & False)
        return make_answer(label, gap == 0, skipped=close)

    def thresholds(self, length: int) -> dict[str, float]:
        """Return ``teacher/skip_threshold``."""
        return {"teacher/skip_threshold": self.margin(self.eps, length)}
