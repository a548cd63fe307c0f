"""Preference losses and accuracy: the label of a pair given predicted returns.

Throughout: returns are (..., B, 2), predicted returns of the first and second segment of B pairs, with any number of leading axes
(ensemble members, replicas). A label is P(second preferred), 0, 0.5 or 1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def preference_cross_entropy(returns: Tensor, label: Tensor) -> Tensor:
    """Return the soft Bradley-Terry cross entropy, mean over pairs.

    P(second) = exp R_1 / (exp R_0 + exp R_1) = sigmoid(R_1 - R_0). With d = R_1 - R_0 and label l, the loss -l log P - (1 - l)
    log(1 - P) is softplus(d) - l d. Source: Christiano et al. 2017 (arXiv 1706.03741), eq. 1.

    Args:
        returns: (..., B, 2).
        label: (B,) or (..., B).

    Returns:
        One loss in nats per leading index, (...,); 0 if B is 0.
    """
    gap = returns[..., 1] - returns[..., 0]
    return (F.softplus(gap) - label * gap).sum(-1) / max(gap.shape[-1], 1)


def linear_cross_entropy(returns: Tensor, label: Tensor, length: int | Tensor) -> Tensor:
    """Return LiRE's loss for the linear score function, mean over pairs.

    The cross entropy of P(i) = s_i / (s_0 + s_1) with s_i = R_i + T + 1e-5. Source: LiRE (arXiv 2408.04190), linear score
    function; released code for the constants.

    Args:
        returns: (..., B, 2), each at least -``length`` (rewards bounded below by -1, as tanh's).
        label: (B,) or (..., B).
        length: number of summed steps T; after a temporal crop the cropped length, per pair (..., B, 1).

    Returns:
        One loss in nats per leading index, (...,); 0 if B is 0.

    Differences: the released code shifts by the nominal length even after a crop, and changes its input in place.
    """
    score = returns + length + 1e-5
    loss = score.sum(-1).log() - (1 - label) * score[..., 0].log() - label * score[..., 1].log()
    return loss.sum(-1) / max(loss.shape[-1], 1)


def preference_accuracy(returns: Tensor, label: Tensor, margin: float = 0.0) -> Tensor:
    """Return the fraction of strict preferences that the returns predict; labels of 0.5 are not counted.

    A pair is correct if the probability of its preferred segment exceeds 0.5 + ``margin``. B-Pref uses margin 0. CLARIFY's
    stopping rule uses 0.1, so an untrained network scores 0.

    Args:
        returns: (..., B, 2).
        label: (B,) or (..., B).
        margin: in [0, 0.5).

    Returns:
        One accuracy per leading index, (...,); 0 if no label is strict.

    Differences: B-Pref counts "equal" labels as "first" and a predicted tie as a prediction of "first". Here the former
    are left out and the latter is wrong.
    """
    gap = returns[..., 1] - returns[..., 0]
    needed = math.log((0.5 + margin) / (0.5 - margin))  # sigmoid(gap) > 0.5 + margin
    strict = ((label == 0) | (label == 1)).expand_as(gap)
    right = strict & (torch.where(label == 1, gap, -gap) > needed)
    return right.sum(-1) / strict.sum(-1).clamp(min=1)


def strict_share(label: Tensor, of_pass: Tensor) -> Tensor:
    """Return the share of strict preferences in labels, divided by that in all labels of a pass: (..., B), () -> (...,).

    Times a minibatch's accuracy, and averaged over a pass by the sizes of its minibatches, it gives the accuracy over all strict
    preferences of the pass. Equal answers thus weigh nothing, also where a minibatch has no others.

    Args:
        label: labels of a minibatch, (..., B).
        of_pass: share of strict preferences in all labels of the pass, (); 0 if there is none.
    """
    return label.ne(0.5).float().mean(-1) / of_pass.clamp(min=1e-12)
