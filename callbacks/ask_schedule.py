"""How many questions a round asks: pure functions of how far the run is.

Sources: B-Pref (arXiv 2111.03026) for decreasing and increasing; the repository `MariaGkoulta/rlhf-repo` for spread, where only
training items were counted and 2 % to 8 % more than the budget was spent. Here every question that was asked counts.
"""

from __future__ import annotations

import math


def decreasing(per_round: int, done: int, total: int) -> int:
    """``per_round`` x (T - s) / T, rounded down, at least 1; a hundredth of ``per_round`` when the steps are done."""
    left = total - done
    return max(1, per_round * left // total if left > 0 else per_round // 100)


def increasing(per_round: int, done: int, total: int) -> int:
    """``per_round`` x T / (T - s + 1), rounded down, at least 1."""
    return max(1, per_round * total // (max(total - done, 0) + 1))


def initial(budget: int, share: float) -> int:
    """Questions of the first round, ``share`` of the budget, rounded down, at least 1."""
    return max(1, math.floor(budget * share + 1e-9))


def spread(left: int, rounds_left: int) -> int:
    """An even part of what is left, this round included, rounded half to even; the last round takes all."""
    return max(0, round(left / rounds_left)) if rounds_left > 0 else 0


def rounds_left(done: int, total: int, per_round: int) -> int:
    """Rounds of ``per_round`` env steps that are still to begin, this one included, at least 1."""
    return max(1, -(-(total - done) // per_round))
