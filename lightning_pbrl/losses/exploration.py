"""Exploration bonuses for the uncertainty of a reward model."""

from __future__ import annotations

from torch import Tensor


def bonus_weight(step: int, weight: float, decay: float) -> float:
    """Return the weight of the uncertainty bonus after ``step`` env steps: beta_t = beta_0 (1 - rho)^t.

    Source: RUNE (arXiv 2205.12401), sec. 4.1.

    Args:
        step: env steps so far, t.
        weight: beta_0.
        decay: rho, in [0, 1]; 0 keeps the weight.
    """
    return weight * (1.0 - decay) ** step


def uncertainty(reward: Tensor) -> Tensor:
    """Return the standard deviation over members (ddof 0) of the per-step reward: (E, n) -> (n,).

    Source: RUNE (arXiv 2205.12401), Eq. 4 and its released code.
    """
    return reward.std(0, correction=0)
