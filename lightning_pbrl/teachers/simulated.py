"""Simulated teacher of B-Pref: rational or noisy, myopic, mistaken, skipping, indifferent.

Source: K. Lee, L. Smith, A. Dragan, P. Abbeel, "B-Pref: Benchmarking Preference-Based Reinforcement Learning", NeurIPS 2021
(arXiv 2111.03026), Algorithm 1.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.ranges import ANY, POSITIVE, SHARE, WEIGHT
from lightning_pbrl.rng import uniform
from lightning_pbrl.teachers.base import (
    DRAW_CHOICE,
    DRAW_MISTAKE,
    AdaptiveTeacher,
    RoundStats,
    ScaledTeacher,
    boltzmann_choice,
    flip,
    make_answer,
    rational_choice,
    true_returns,
)

OURS = {"eps_twice": False, "unit": "reward", "return_std": None, "min_gap": 0.0, "final_gap": None}
"""Settings, with their defaults, that B-Pref's teacher does not have."""


class SimulatedTeacher(
    AdaptiveTeacher,
    ScaledTeacher,
    ranges={
        "beta": ANY,
        "eps_mistake": SHARE,
        **dict.fromkeys(("eps_skip", "eps_equal", "min_gap", "final_gap"), WEIGHT),
        "return_std": POSITIVE,
    },
):
    r"""Simulated teacher of B-Pref, which compares true returns with five human irrationalities (Lee et al. 2021).

    With R_i the undiscounted and G_i the myopic return of segment i, and a margin of mean true reward x T:

    1. skip if max(R_0, R_1) <= ``eps_skip`` x margin (both are too poor to compare) and that threshold is > 0; also skip if
       \|R_0 - R_1\| < ``min_gap`` (too close; not in B-Pref);
    2. note as equal if \|R_0 - R_1\| < ``eps_equal`` x margin (strict: at threshold 0 not even an exact tie);
    3. G_i = sum_t gamma^(T - 1 - t) r_t;
    4. choose the second with probability sigmoid(beta (G_1 - G_0)), or for ``beta`` <= 0 if G_0 < G_1;
    5. reverse the choice with probability ``eps_mistake``;
    6. answer "equal" where noted in step 2.

    B-Pref's named teachers: oracle (the defaults), mistake (``eps_mistake`` 0.1), noisy (``beta`` 1), skip
    (``eps_skip`` 0.1), myopic (``gamma`` 0.9), equal (``eps_equal`` 0.1).

    Args:
        beta: rationality, in 1 / ``unit``; 0 or less is perfectly rational.
        gamma: myopia, in [0, 1]; 1 weighs all steps equally, 0 considers the last step alone.
        eps_mistake: probability of a reversed choice, in [0, 1].
        eps_skip: skip threshold as a fraction of the mean true return of a segment, at least 0; 0 never skips.
        eps_equal: tie threshold in the same unit, at least 0; 0 never ties.
        eps_twice: from the second round of questions on, multiply both margins by their eps once more (0.1 acts as 0.01). The
            released code of PEBBLE, MRN and QPA does so, and the published figures of their skip and equal teachers used it.
        unit: unit of ``beta`` and the gaps: reward, environment reward units; or return_std, the standard deviation of the
            returns of segments. The latter makes a setting independent of environment and segment length: sums of many steps
            make a beta in reward units all but noise-free.
        return_std: that standard deviation, reward units; None estimates it each round from segments that may be shown.
        min_gap: skip pairs whose returns differ by less (they still cost budget), in ``unit``; 0 skips none.
        final_gap: value of ``min_gap`` at the end of the run, reached linearly with progress; None keeps it constant.

    Raises:
        UserError: for a setting out of range, or segments without a true reward.

    Differences: the rational teacher answers "first" to an exact tie, as in the released code (use ``eps_equal`` for
    "equal"). Margins are multiplied by eps once, as in the paper, unless ``eps_twice``. A mistake is u < eps, not u <= eps.
    """

    def __init__(
        self,
        beta: float = -1.0,
        gamma: float = 1.0,
        eps_mistake: float = 0.0,
        eps_skip: float = 0.0,
        eps_equal: float = 0.0,
        eps_twice: bool = False,
        unit: Literal["reward", "return_std"] = "reward",
        return_std: float | None = None,
        min_gap: float = 0.0,
        final_gap: float | None = None,
    ) -> None:
        self.beta = beta
        self.gamma = gamma
        self.eps_mistake = eps_mistake
        self.eps_skip = eps_skip
        self.eps_equal = eps_equal
        self.eps_twice, self._first = eps_twice, True
        self.unit, self.return_std = unit, return_std
        self.min_gap = min_gap
        self.final_gap = final_gap

    def start_round(self, stats: RoundStats) -> None:
        """Store the statistics that the thresholds of this round depend on."""
        super().start_round(stats)
        self._first = stats.round == 0

    @property
    def gap(self) -> float:
        """Smallest difference of returns at which this round's pairs are not skipped, reward units."""
        last = self.min_gap if self.final_gap is None else self.final_gap
        now = self.min_gap + (last - self.min_gap) * min(max(self._stats.progress, 0.0), 1.0)
        return now * self.scale if now else 0.0

    def margin(self, eps: float, length: int) -> float:
        """Return the margin of :meth:`AdaptiveTeacher.margin`, with ``eps_twice``."""
        return super().margin(eps * eps if self.eps_twice and not self._first else eps, length)

    def describe(self) -> dict[str, Any]:
        """Return class name and settings; settings that B-Pref's teacher lacks appear only if they are used."""
        return {name: value for name, value in super().describe().items() if name not in OURS or value != OURS[name]}

    def in_force(self) -> dict[str, Any]:
        """Return the unit and the gap in reward units, if they differ from the settings."""
        found = super().in_force()
        return {**found, "gap": self.gap} if self.min_gap or self.final_gap else found

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Answer each pair by the six steps of the class docstring."""
        returns = true_returns(clips, type(self).__name__)
        skip_threshold = self.margin(self.eps_skip, query.length)
        best = returns.amax(1)
        skipped = best <= skip_threshold if skip_threshold > 0 else torch.zeros_like(best, dtype=torch.bool)
        difference = (returns[:, 0] - returns[:, 1]).abs()
        skipped = skipped | (difference < self.gap)
        equal = difference < self.margin(self.eps_equal, query.length)
        perceived = true_returns(clips, type(self).__name__, self.gamma)
        if self.beta > 0:
            label = boltzmann_choice(perceived, self.beta / self.scale, uniform(keys, DRAW_CHOICE))
        else:
            label = rational_choice(perceived)
        label = flip(label, uniform(keys, DRAW_MISTAKE), self.eps_mistake)
        return make_answer(label, equal, skipped)

    def thresholds(self, length: int) -> dict[str, float]:
        """Return ``teacher/skip_threshold`` and ``teacher/equal_threshold``, and ``teacher/min_gap`` if it is used."""
        found = {
            "teacher/skip_threshold": self.margin(self.eps_skip, length),
            "teacher/equal_threshold": self.margin(self.eps_equal, length),
        }
        return {**found, "teacher/min_gap": self.gap} if self.min_gap or self.final_gap else found
