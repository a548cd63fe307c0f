"""Losses of offline policy learning: expectile regression and advantage-weighted regression."""

from __future__ import annotations

from torch import Tensor


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Return the expectile loss, asymmetric least squares: the mean of ``|expectile - 1(u < 0)| u^2``.

    Source: IQL (arXiv 2110.06169), Eq. 5.

    Args:
        difference: u = target - prediction, (B,).
        expectile: in (0, 1); 0.5 is half the mean squared error. Towards 1 the prediction approaches the maximum.
    """
    weight = (expectile - (difference < 0).to(difference.dtype)).abs()
    return (weight * difference.square()).mean()


def advantage_weight(advantage: Tensor, temperature: float, limit: float = 100.0) -> Tensor:
    """Return exp(temperature * advantage), at most ``limit``, without a gradient (IQL, Eq. 7).

    Args:
        advantage: Q(s, a) - V(s), (B,).
        temperature: inverse temperature (the paper's beta); 0 clones the behaviour.
        limit: clip of the weight, 100 in the authors' code.
    """
    return (temperature * advantage.detach()).exp().clamp(max=limit)


def td_target(reward: Tensor, discount: float, terminated: Tensor, next_value: Tensor) -> Tensor:
    """Return the one-step target r + discount (1 - terminated) V(s'), (B,); a time limit is no termination."""
    return reward + discount * (1.0 - terminated) * next_value
