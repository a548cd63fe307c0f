"""Teacher of LiRE, which calls two segments equal if their returns are close.

Source: H. Choi, S. Jung, H. Ahn, T. Moon, "Listwise Reward Estimation for Offline Preference-based Reinforcement Learning", ICML
2024 (arXiv 2408.04190), and its released code. Unlike CLARIFY's skips, ties are trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.ranges import SHARE, WEIGHT
from lightning_pbrl.rng import uniform
from lightning_pbrl.teachers.base import (
    DRAW_CORRUPTION,
    DRAW_MISTAKE,
    Teacher,
    make_answer,
    rational_choice,
    true_returns,
)


class TieTeacher(Teacher, ranges={"threshold": WEIGHT, "noise": SHARE}):
    r"""Simulated teacher that calls pairs with close returns equal (LiRE, Choi et al. 2024).

    It answers "equal" iff \|R_0 - R_1\| <= threshold x T, else prefers the larger true return. Noise corrupts each answer
    independently: a preference becomes its reverse or "equal", an "equal" becomes either preference, each with probability one
    half.

    Args:
        threshold: tie threshold per step, environment reward units, at least 0. The default is the paper's for
            Meta-World (0..10 per step); use 0.05 on DMControl (0..1 per step).
        noise: probability of a corrupted answer, in [0, 1].

    Raises:
        UserError: for a setting out of range, or segments without a true reward.
    """

    def __init__(self, threshold: float = 0.5, noise: float = 0.0) -> None:
        self.threshold = threshold
        self.noise = noise

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Prefer the larger true return, or answer "equal" within the gap; then apply the noise."""
        returns = true_returns(clips, type(self).__name__)
        label = rational_choice(returns)
        tie = (returns[:, 0] - returns[:, 1]).abs() <= query.length * self.threshold
        noisy = uniform(keys, DRAW_MISTAKE) < self.noise
        heads = uniform(keys, DRAW_CORRUPTION) < 0.5
        label = torch.where(noisy & tie, heads.float(), torch.where(noisy, 1.0 - label, label))
        equal = torch.where(noisy, ~tie & heads, tie)  # a noisy preference is a tie on heads, its reverse on tails
        return make_answer(label, equal, torch.zeros_like(equal))

    def thresholds(self, length: int) -> dict[str, float]:
        """Return ``teacher/equal_threshold``."""
        return {"teacher/equal_threshold": self.threshold * length}
