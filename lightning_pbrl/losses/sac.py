"""Losses of soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905)."""

from __future__ import annotations

from torch import Tensor

from lightning_pbrl.losses.offline import td_target


def soft_td_target(
    reward: Tensor, discount: float, terminated: Tensor, next_q: Tensor, next_log_prob: Tensor, temperature: Tensor
) -> Tensor:
    """Return the soft target r + discount (1 - terminated) (min_i Q_i(s', a') - alpha log pi(a' | s')), (B,) (Eq. 5, 6).

    A time limit bootstraps.

    Args:
        reward: (B,).
        discount: in [0, 1].
        terminated: 1 where the episode terminated, (B,).
        next_q: target critics at the sampled next action, (E, B).
        next_log_prob: log density of that action, (B,).
        temperature: alpha, ().
    """
    return td_target(reward, discount, terminated, next_q.amin(0) - temperature * next_log_prob)


def twin_critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Return the sum over critics of the mean squared error: (E, B), (B,) -> () (Eq. 5)."""
    return (q - target).square().mean(-1).sum()


def soft_actor_loss(log_prob: Tensor, q: Tensor, temperature: Tensor) -> Tensor:
    """Return the mean of alpha log pi(a | s) - min_i Q_i(s, a), without a gradient to alpha: (B,), (E, B), () -> () (Eq. 7)."""
    return (temperature.detach() * log_prob - q.amin(0)).mean()


def gaussian_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """Return KL(N(mean, std) ‖ N(other)) of diagonal Gaussians, four of (B, A) -> (B,); squashed alike, theirs is the same."""
    moved = (mean - other_mean).square() + (2.0 * log_std).exp()
    return (other_log_std - log_std + 0.5 * moved * (-2.0 * other_log_std).exp() - 0.5).sum(-1)


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return the mean of alpha (-log pi(a | s) - target entropy) with alpha = exp(log alpha) (Eq. 18).

    No gradient flows to the policy. The gradient in log alpha equals the loss itself.

    Args:
        log_temperature: log alpha, ().
        log_prob: log density of sampled actions, (B,).
        target_entropy: usually minus the number of action entries.
    """
    return (log_temperature.exp() * (-log_prob - target_entropy).detach()).mean()
