"""Bonuses that pay a policy for what its reward model does not know."""

from __future__ import annotations

from torch import Tensor


def bonus_weight(step: int, weight: float, decay: float) -> float:
    """Weight of the uncertainty bonus after ``step`` env steps: beta_t = beta_0 (1 - rho)^t (RUNE, arXiv 2205.12401, sec. 4.1).

    Args:
        step: env steps so far, t.
        weight: beta_0.
        decay: rho, in [0, 1]; 0 keeps the weight.
    """
    return weight * (1.0 - decay) ** step


def uncertainty(reward: Tensor) -> Tensor:
    """Standard deviation over members (ddof 0) of the per-step reward: (E, n) -> (n,) (RUNE, Eq. 4 and its released code)."""
    return reward.std(0, correction=0)
