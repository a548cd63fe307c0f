"""Semi-supervised preference learning: pseudo-labels for unlabelled pairs on which the model is confident."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pseudo_labels(returns: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the model's pseudo-labels, 0 or 1, and a mask that is 1 where max(P, 1 - P) >= ``threshold``.

    Source: SURF (arXiv 2203.10050), Eq. 4 and 5.

    Args:
        returns: predicted returns of both segments, (..., B, 2); no gradient flows through them.
        threshold: smallest confidence of a label that counts, in [0.5, 1].

    Returns:
        Label (..., B) and mask (..., B), both float.
    """
    gap = (returns[..., 1] - returns[..., 0]).detach()
    sure = torch.sigmoid(gap.abs()) >= threshold
    return (gap > 0).to(returns), sure.to(returns)


def masked_preference_cross_entropy(returns: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Return the Bradley-Terry cross entropy of the pairs that ``mask`` keeps, divided by the number of *all* pairs.

    Few confident pairs therefore weigh little. Source: SURF (arXiv 2203.10050), Eq. 5 and its released code.

    Args:
        returns: (..., B, 2).
        label: P(second preferred), (..., B).
        mask: 1 to keep a pair, 0 to leave it out, (..., B).

    Returns:
        One loss in nats per leading index, (...,).
    """
    gap = returns[..., 1] - returns[..., 0]
    return (mask * (F.softplus(gap) - label * gap)).mean(-1)
