"""Losses of inverse preference learning: a preference model on the reward implied by Q.

Source: Hejna and Sadigh, "Inverse Preference Learning" (NeurIPS 2023, arXiv 2305.15363) and its released code. With a fixed
policy, Q and reward determine each other through the Bellman equation, so the Bradley-Terry model can be written in Q.

Shapes: E members of the critic, T transitions; those of labelled segments come first, replayed ones follow.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lightning_pbrl.losses.preference import preference_cross_entropy


def implied_reward(q: Tensor, discount: Tensor | float, next_value: Tensor) -> Tensor:
    """Return the reward that makes Q consistent: r_Q(s, a) = Q(s, a) - discount * V(s').

    Args:
        q: Q(s, a), (E, ...).
        discount: γ, and 0 where s' is terminal; (...,) or one number.
        next_value: V(s') without gradient, (...,).

    Returns:
        The implied reward, (E, ...).
    """
    return q - discount * next_value


def implied_preference_loss(reward: Tensor, label: Tensor) -> Tensor:
    """Return the cross entropy of the labels under the sums of implied rewards.

    Every member has its own logit and its own loss.

    Args:
        reward: (E, B, 2, t), the implied reward of the t steps of both segments of B pairs.
        label: P(second preferred), (B,).

    Returns:
        Mean over members and pairs, ().
    """
    return preference_cross_entropy(reward.sum(-1), label).mean()


def mean_by_source(mean: Callable[[Tensor], Tensor], values: Tensor, segments: int, weight: float | None) -> Tensor:
    """Return a mean over transitions that gives replayed ones a fixed weight, whatever their number.

    (1 - w) mean(X of segments) + w mean(X of replay). With a single source, or without a weight, it is the mean of all.

    Args:
        mean: function from values (..., n) to their mean loss, ().
        values: (..., T), those of segments first.
        segments: number of the T values that come from segments.
        weight: w, in [0, 1], or None.
    """
    if weight is None or segments == values.shape[-1]:
        return mean(values)
    return (1.0 - weight) * mean(values[..., :segments]) + weight * mean(values[..., segments:])


def clip_next_value(next_value: Tensor, chi2_coeff: float, discount: float) -> Tensor:
    """Return V(s') clipped to ±1 / (λ (1 - γ)), the range of values for rewards within ±1 / λ.

    Args:
        next_value: V(s'), any shape.
        chi2_coeff: λ.
        discount: γ, below 1.
    """
    limit = 1.0 / (chi2_coeff * (1.0 - discount))
    return next_value.clamp(-limit, limit)


def gumbel_loss(difference: Tensor, beta: float, clip: float = 7.0) -> Tensor:
    """Return the Gumbel regression loss, the mean of exp(z) - z - 1 with z = u / beta (XQL, arXiv 2301.02328).

    Its minimum over V is the soft maximum beta log E exp(Q / beta). Above ``clip`` the exponential continues as its tangent.

    Args:
        difference: u = Q - V, (n,).
        beta: temperature, above 0.
        clip: largest exponent.

    Differences: above the limit, a clipped exponent would have a gradient of the wrong sign (the term -z alone pushes V away
    from Q), and a clipped z would have none. The tangent keeps the bounded gradient exp(clip) - 1.
    """
    z = difference / beta
    inside = z.clamp(max=clip)
    return (inside.exp() * (1.0 + z - inside) - z - 1.0).mean()
