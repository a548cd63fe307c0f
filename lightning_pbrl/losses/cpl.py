"""Losses of contrastive preference learning: preferences that depend on regret, expressed by the policy alone.

Source: Hejna et al., "Contrastive Preference Learning" (ICLR 2024, arXiv 2310.13639). In maximum-entropy control the optimal
advantage is α log π*(a | s), so a preference model by regret can be written in the policy alone.

Throughout: an advantage is a segment's α Σ_t log π(a_t | s_t); a label is P(second preferred), 0, 0.5 or 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(advantage: Tensor, label: Tensor, bias: float = 1.0) -> Tensor:
    """Return the contrastive preference loss with the conservative bias b, mean over pairs.

    y softplus(b A_1 - A_2) + (1 - y) softplus(b A_2 - A_1), finite for any advantages. With b = 1 it is the cross entropy of the
    Bradley-Terry model on advantages. Below 1 the rejected segment weighs less, so the likelihood of the preferred one counts in
    absolute terms.

    Args:
        advantage: A, (B, 2).
        label: y, (B,).
        bias: b, in (0, 1].
    """
    return _contrast(advantage[..., 0], advantage[..., 1], label, bias).mean()


def ranked_contrastive_loss(advantage: Tensor, score: Tensor, bias: float = 1.0) -> Tensor:
    """Return the contrastive preference loss over all pairs of a batch whose segments carry a score.

    The segment with the higher score is preferred; equal scores tie.

    Args:
        advantage: A, (S,), S at least 2.
        score: scores, (S,).
        bias: b, in (0, 1].

    Returns:
        Mean over the S (S - 1) / 2 pairs, ().
    """
    count = len(advantage)
    loss = _contrast(advantage[:, None], advantage[None, :], preferred(score[:, None], score[None, :]), bias)
    return loss.triu(1).sum() / (count * (count - 1) / 2)


def cloning_loss(log_prob: Tensor, label: Tensor | None = None) -> Tensor:
    """Return the behaviour cloning loss: minus the mean log-likelihood of the steps of all, or of the preferred, segments.

    Args:
        log_prob: log π(a_t | s_t), (B, 2, T).
        label: labels, (B,), to clone preferred segments alone, which include both segments of a tie; None for all segments.
    """
    if label is None:
        return -log_prob.mean()
    kept = torch.stack([label <= 0.5, label >= 0.5], dim=-1)  # (B, 2)
    return -(log_prob.mean(-1) * kept).sum() / kept.sum()


def preferred(first: Tensor, second: Tensor) -> Tensor:
    """Return P(second preferred) given two scores: 0, 1, or 0.5 for equal scores."""
    return 0.5 * (1.0 + (second - first).sign())


def _contrast(first: Tensor, second: Tensor, label: Tensor, bias: float) -> Tensor:
    return label * F.softplus(bias * first - second) + (1.0 - label) * F.softplus(bias * second - first)
