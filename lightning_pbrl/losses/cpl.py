"""Losses of contrastive preference learning: a preference says whose actions are likelier under the best policy.

Source: Hejna et al., "Contrastive Preference Learning" (ICLR 2024, arXiv 2310.13639). In maximum-entropy control the optimal
advantage is α log π*(a | s), so a preference model by regret can be written in the policy alone. Everywhere: an
advantage is a segment's α Σ_t log π(a_t | s_t); a label is P(second preferred), 0, 0.5 or 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(advantage: Tensor, label: Tensor, bias: float = 1.0) -> Tensor:
    """Contrastive preference loss with the conservative bias b, mean over pairs.

    y softplus(b A_1 - A_2) + (1 - y) softplus(b A_2 - A_1), finite for any advantages. With b = 1 it is the cross entropy of
    the Bradley-Terry model on advantages; below 1 the loser counts less, so that the likelihood of the winner counts itself.

    Args:
        advantage: (B, 2).
        label: y, (B,).
        bias: b, in (0, 1].
    """
    return _contrast(advantage[..., 0], advantage[..., 1], label, bias).mean()


def ranked_contrastive_loss(advantage: Tensor, score: Tensor, bias: float = 1.0) -> Tensor:
    """The same over all pairs of a batch whose segments carry a score: the higher one is preferred, equal ones tie.

    Args:
        advantage: (S,), S at least 2.
        score: (S,).
        bias: b, in (0, 1].

    Returns:
        Mean over the S (S - 1) / 2 pairs, ().
    """
    count = len(advantage)
    loss = _contrast(advantage[:, None], advantage[None, :], preferred(score[:, None], score[None, :]), bias)
    return loss.triu(1).sum() / (count * (count - 1) / 2)


def cloning_loss(log_prob: Tensor, label: Tensor | None = None) -> Tensor:
    """Behaviour cloning, minus the mean log-likelihood of the steps of all segments, or of the preferred ones.

    Args:
        log_prob: log π(a_t | s_t), (B, 2, T).
        label: clone preferred segments alone; both segments of a tie belong to them, (B,).
    """
    if label is None:
        return -log_prob.mean()
    kept = torch.stack([label <= 0.5, label >= 0.5], dim=-1)  # (B, 2)
    return -(log_prob.mean(-1) * kept).sum() / kept.sum()


def preferred(first: Tensor, second: Tensor) -> Tensor:
    """P(second preferred) given two scores: 0, 0.5 for equal ones, 1."""
    return 0.5 * (1.0 + (second - first).sign())


def _contrast(first: Tensor, second: Tensor, label: Tensor, bias: float) -> Tensor:
    return label * F.softplus(bias * first - second) + (1.0 - label) * F.softplus(bias * second - first)
