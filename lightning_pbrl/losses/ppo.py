"""Losses of proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) and its advantages (arXiv 1506.02438)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ENTROPY_OF_STANDARD = 0.5 * math.log(2.0 * math.pi * math.e)


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Return the generalised advantage estimates A_t = sum_l (discount lambda)^l delta_(t+l) within an episode, (T, n).

    delta_t = r_t + discount (1 - terminated) V(s'_t) - V(s_t) (arXiv 1506.02438, Eq. 16). A time limit ends the sum but still
    bootstraps, from the value of the state that followed.

    Args:
        reward: rewards of n environments that step together, (T, n).
        value: V(s_t), (T, n).
        next_value: V(s'_t) of the state that followed, not of the state after a reset, (T, n).
        terminated: 1 where the episode terminated, (T, n).
        ended: 1 where the episode ended, by termination or by its time limit, (T, n).
        discount: in [0, 1].
        gae_lambda: in [0, 1]; 0 gives delta, 1 the discounted return minus the value.
    """
    delta = reward + discount * (1.0 - terminated) * next_value - value
    return suffix_sums(delta, discount * gae_lambda * (1.0 - ended))


def suffix_sums(x: Tensor, factor: Tensor) -> Tensor:
    """Return y_t = x_t + factor_t y_(t+1) along the first axis, with 0 after the end: (T, ...), (T, ...) -> (T, ...).

    By doubling: after k passes y_t reaches 2^k steps ahead, so T steps take log2 T operations, not T.
    """
    reach = 1
    while reach < len(x):
        x = torch.cat([torch.addcmul(x[:-reach], factor[:-reach], x[reach:]), x[-reach:]])
        factor = torch.cat([factor[:-reach] * factor[reach:], factor[-reach:]])
        reach *= 2
    return x


def standardised(advantage: Tensor, eps: float = 1e-8) -> Tensor:
    """Return (A - mean) / (unbiased standard deviation + eps) of a minibatch, (B,); a minibatch of one is left unchanged."""
    if advantage.numel() == 1:
        return advantage
    return (advantage - advantage.mean()) / (advantage.std() + eps)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: Tensor) -> Tensor:
    """Return the clipped surrogate loss, minus the mean of min(rho A, clamp(rho, 1 - clip, 1 + clip) A) (Eq. 7).

    Shapes: (B,), (B,), () -> ().
    """
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean()


def value_loss(value: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error, not clipped: (B,), (B,) -> () (Eq. 9)."""
    return (value - target).square().mean()


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Return the entropy in nats of independent Gaussians, summed over the last axis: (..., A) -> (...)."""
    return (log_std + _ENTROPY_OF_STANDARD).sum(-1)


def approximate_kl(log_ratio: Tensor, ratio: Tensor) -> Tensor:
    """Return the mean of (rho - 1) - log rho, a non-negative estimate of KL(old, new) in nats: (B,), (B,) -> ()."""
    return (ratio - 1.0 - log_ratio).mean()


def explained_variance(predicted: Tensor, target: Tensor) -> Tensor:
    """Return 1 - Var(target - predicted) / Var(target): any equal shapes -> ().

    1 is perfect; 0 is as good as a constant.
    """
    return 1.0 - (target - predicted).var() / target.var()
