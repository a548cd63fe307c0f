"""Strength of preference: the level of an ordered answer given predicted returns.

Throughout: a gap is d = R_1 - R_0, (..., B), with any number of leading axes (ensemble members, replicas). A label is one of 0,
.25, .5, .75, 1: the first is much better, the first is better, equal, the second is better, the second is much better.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 5
"""Number of levels of an answer."""


def soft_cross_entropy(returns: Tensor, label: Tensor) -> Tensor:
    """Return the Bradley-Terry cross entropy of each pair with the label as P(second preferred): (..., B, 2) -> (..., B), nats.

    It takes "better" as a chance of 3 in 4. Its minimum for a label of .75 is at a gap of log 3. Source: Christiano et al. 2017
    (arXiv 1706.03741), eq. 1, whose labels are distributions.
    """
    gap = returns[..., 1] - returns[..., 0]
    return F.softplus(gap) - label * gap


def level_log_probability(gap: Tensor, cuts: Tensor) -> Tensor:
    """Return the log-probability of each level by the cumulative logit model: (..., B) -> (..., B, 5), nats.

    P(level <= j) = sigmoid(c_j - d) with the cut points c = (-b, -a, a, b), symmetric because the order of the two clips carries
    no information. Sources: Tutz 1986 ("Bradley-Terry-Luce models with an ordered response", Journal of Mathematical Psychology
    30); Agresti 1992 ("Analysis of ordinal paired comparison data", Applied Statistics 41), its cumulative logit model.

    Args:
        gap: d, (..., B).
        cuts: a and b with 0 < a < b, (2,) or (..., 2), logits. At a gap of a, "equal" and less is as probable as more.
    """
    a, b = cuts[..., :1], cuts[..., 1:]
    inner = torch.cat([-b, -a, a, b], -1).unsqueeze(-2) - gap.unsqueeze(-1)  # (..., B, 4)
    below = torch.cat([F.logsigmoid(inner), torch.zeros_like(gap).unsqueeze(-1)], -1)  # log P(level <= j)
    above = torch.cat([torch.zeros_like(gap).unsqueeze(-1), F.logsigmoid(-inner)], -1)  # log P(level > j - 1)
    width = torch.cat([b - a, 2 * a, b - a], -1).unsqueeze(-2)
    between = F.pad((-torch.expm1(-width)).log(), (1, 1))  # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u))
    return below + above + between


def ordinal_cross_entropy(returns: Tensor, label: Tensor, cuts: Tensor) -> Tensor:
    """Return the negative log-likelihood of each answered level by :func:`level_log_probability`: (..., B, 2) -> (..., B), nats.

    Args:
        returns: (..., B, 2).
        label: (B,) or (..., B), in {0, .25, .5, .75, 1}.
        cuts: a and b, (2,) or (..., 2).
    """
    gap = returns[..., 1] - returns[..., 0]
    level = (label.clamp(0, 1) * (LEVELS - 1)).round().long().expand(gap.shape)
    return -level_log_probability(gap, cuts).gather(-1, level.unsqueeze(-1)).squeeze(-1)
