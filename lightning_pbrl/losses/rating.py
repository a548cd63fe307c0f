"""Rating losses: the rating of a segment given its predicted return.

Throughout: ratings are 0 .. K - 1; returns and ratings are (..., B) with any number of leading axes (ensemble members).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

VARIANCE_FLOOR = 1e-6
"""Lower limit of the variance in a likelihood (that of PyTorch's GaussianNLLLoss, which the released code uses)."""


def gaussian_nll(mean: Tensor, variance: Tensor, rating: Tensor) -> Tensor:
    """Return the negative log-likelihood of normal ratings, mean over segments.

    1/2 (ln v + (y - m)^2 / v), in nats, without the constant.

    Args:
        mean: predicted rating, (..., B).
        variance: its variance, (..., B), clamped to at least :data:`VARIANCE_FLOOR`.
        rating: given rating, (B,) or (..., B).

    Returns:
        One loss per leading index, (...,); 0 if B is 0.
    """
    variance = variance.clamp(min=VARIANCE_FLOOR)
    return 0.5 * (variance.log() + (rating - mean).square() / variance).sum(-1) / max(mean.shape[-1], 1)


def squared_error(mean: Tensor, rating: Tensor) -> Tensor:
    """Return the mean over segments of (m - y)^2: (..., B) -> (...); 0 if B is 0."""
    return (mean - rating).square().sum(-1) / max(mean.shape[-1], 1)


def class_boundaries(returns: Tensor, rating: Tensor, bins: int) -> Tensor:
    """Return boundaries that put as many predicted returns into each class as there are ratings in it: (..., B) -> (..., K + 1).

    Boundary i is the quantile of the returns at the share of ratings below i, halfway between its two neighbours. The outermost
    boundaries are the smallest and the largest return. Source: RbRL (arXiv 2307.16348), sec. on class boundaries.
    """
    ordered, count = returns.sort(-1).values, returns.shape[-1]
    below = F.one_hot(rating.long(), bins).sum(-2).cumsum(-1)[..., :-1]  # clips rated 0 .. i, of the inner boundaries
    below = below.expand(*returns.shape[:-1], bins - 1)
    left, right = (below - 1).clamp(min=0), below.clamp(max=count - 1)
    inner = 0.5 * (ordered.gather(-1, left) + ordered.gather(-1, right))
    return torch.cat([ordered[..., :1], inner, ordered[..., -1:]], -1)


def class_log_probability(returns: Tensor, boundaries: Tensor, sharpness: float) -> Tensor:
    """Return RbRL's class log-probabilities: (..., B) returns, (..., K + 1) boundaries -> (..., B, K).

    Returns and boundaries are scaled to [0, 1] by the outermost boundaries. Class i has the score -``sharpness`` (R - b_i) (R -
    b_(i+1)), positive inside its interval; the probability is the softmax of the scores. Source: RbRL (arXiv 2307.16348), its
    rating probability.
    """
    low = boundaries[..., :1]
    width = (boundaries[..., -1:] - low).clamp(min=1e-8)
    scaled, cut = ((returns - low) / width).unsqueeze(-1), ((boundaries - low) / width).unsqueeze(-2)
    return (-sharpness * (scaled - cut[..., :-1]) * (scaled - cut[..., 1:])).log_softmax(-1)


def rbrl_cross_entropy(returns: Tensor, rating: Tensor, bins: int, sharpness: float = 30.0) -> Tensor:
    """Return the cross entropy of RbRL's class likelihood, mean over segments, nats.

    Returns are normalised and boundaries set within the batch; no gradient flows through the boundaries.

    Args:
        returns: predicted returns, (..., B).
        rating: (B,) or (..., B), whole numbers 0 .. ``bins`` - 1.
        bins: number of classes K.
        sharpness: sharpness of the class intervals.

    Returns:
        One loss per leading index, (...,), in [0, inf).
    """
    boundaries = class_boundaries(returns.detach(), rating, bins)
    chosen = class_log_probability(returns, boundaries, sharpness)
    index = rating.long().expand(returns.shape).unsqueeze(-1)
    return -chosen.gather(-1, index).squeeze(-1).mean(-1)
