"""Losses of CLARIFY's trajectory encoder, as pure functions of embeddings.

Source: CLARIFY (ICML 2025, arXiv 2506.00388); its released code for constants and for the forms called "reference".

Throughout: ``z`` are the embeddings of the two segments of B pairs, (B, 2, Z). A label is P(second preferred), 0 or 1 for a clear
pair; labels of other pairs are not read. ``clear`` and ``ambiguous`` are bool, (B,). Shapes never depend on the number of clear
pairs, so the losses can be compiled.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Similarity = Literal["l2", "cosine"]
Pairing = Literal["query", "reference"]
AmbiguityLoss = Literal["paper", "reference"]


def similarity(x: Tensor, y: Tensor, kind: Similarity = "l2") -> Tensor:
    """Return the similarity of embeddings, (..., Z) -> (...).

    "l2" is -mean_d (x_d - y_d)^2, in (-inf, 0]; "cosine" is the cosine similarity, in [-1, 1].
    """
    if kind == "cosine":
        return F.cosine_similarity(x, y, dim=-1)
    return -(x - y).square().mean(-1)


def reconstruction_loss(predicted: Tensor, action: Tensor, valid: Tensor) -> Tensor:
    """Return the mean squared error of the actions over valid steps and action dimensions.

    Shapes: (B, T, A), (B, T, A), (B, T) -> ().
    """
    error = (predicted - action).square().mean(-1)
    return masked_mean(error, valid)


def norm_loss(z: Tensor) -> Tensor:
    """Return the mean of ``(|z| - 1)^2`` over all embeddings, padded steps included: (..., Z) -> ()."""
    return (z.norm(dim=-1) - 1.0).square().mean()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the entries where ``mask`` is 1 or True; 0 if there are none."""
    weight = mask.to(x.dtype)
    return (x * weight).sum() / weight.sum().clamp(min=1.0)


def ambiguity_loss(z: Tensor, clear: Tensor, ambiguous: Tensor, form: AmbiguityLoss = "paper", kind: Similarity = "l2") -> Tensor:
    """Return the ambiguity loss, which separates clear pairs and pulls ambiguous pairs together.

    Let s = logistic(similarity of the two segments). "paper" is the bounded form of -E_clear[d] + E_ambiguous[d]: mean_clear s -
    mean_ambiguous s, where a missing group contributes 0.

    Differences: "reference" is what the released code computes, because a conditional expression binds otherwise than meant. It
    is 0 without an ambiguous pair, and mean_ambiguous s without a clear pair (which pushes them *apart*). Otherwise it is
    mean_clear s, so ambiguous pairs are never pulled together.
    """
    alike = torch.sigmoid(similarity(z[:, 0], z[:, 1], kind))
    of_clear, of_ambiguous = masked_mean(alike, clear), masked_mean(alike, ambiguous)
    if form == "paper":
        return of_clear - of_ambiguous
    return torch.where(ambiguous.any(), torch.where(clear.any(), of_clear, of_ambiguous), 0.0 * of_clear)


def preferred_first(z: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return embeddings of the preferred and of the rejected segment of each pair: (B, 2, Z), (B,) -> (B, Z), (B, Z)."""
    second = (label > 0.5)[:, None]
    return torch.where(second, z[:, 1], z[:, 0]), torch.where(second, z[:, 0], z[:, 1])


def listed(z: Tensor, label: Tensor, clear: Tensor, pairing: Pairing) -> tuple[Tensor, Tensor, Tensor]:
    """Return the preferred and the rejected segments of the clear pairs as two lists.

    Pairs in which the first segment was preferred come first.

    Args:
        z: embeddings, (B, 2, Z).
        label: labels, (B,).
        clear: mask of clear pairs, (B,).
        pairing: "query" lists z+ and z- of one query side by side. "reference" does as the released code, whose list of
            rejected segments starts with the queries in which the second segment was preferred. Entry i of its two lists
            mostly belongs to different queries.

    Returns:
        Preferred segments, (B, Z), rejected segments, (B, Z), and the number of clear pairs, (). Later entries are undefined.
    """
    preferred, rejected = preferred_first(z, label)
    second = label > 0.5
    first_won_first = torch.where(clear, second.long(), 2).argsort(stable=True)  # clear ones in front
    second_won_first = torch.where(clear, (~second).long(), 2).argsort(stable=True)
    return preferred[first_won_first], rejected[first_won_first if pairing == "query" else second_won_first], clear.sum()


def quadrilateral_loss(
    z: Tensor,
    label: Tensor,
    clear: Tensor,
    partner: Tensor,
    kind: Similarity = "l2",
    squash: bool = True,
    pairing: Pairing = "query",
) -> Tensor:
    """Return the quadrilateral loss, which clusters preferred and rejected segments and separates the two clusters.

    For clear pairs i and j, with similarity S, a term is S(z+_i, z-_j) + S(z+_j, z-_i) - S(z+_i, z+_j) - S(z-_i, z-_j). With
    ``squash``, each term goes through a logistic. The loss is the mean over all clear i, each with R random partners j; 0 without
    a clear pair.

    Args:
        z: embeddings, (B, 2, Z).
        label: labels, (B,).
        clear: mask of clear pairs, (B,).
        partner: numbers in [0, 1) that select the partners (with replacement, self included), (R, B).
        kind: similarity.
        squash: bound each term to (0, 1); without it the loss is that of the paper and has no lower bound (l2).
        pairing: matching of z-_i with z+_i; see :func:`listed`.
    """
    good, bad, count = listed(z, label, clear, pairing)
    j = torch.minimum((partner * count).long(), (count - 1).clamp(min=0))  # (R, B); the product may round up to count
    good_j, bad_j = good[j], bad[j]
    good_i, bad_i = good.expand_as(good_j), bad.expand_as(bad_j)
    apart = similarity(good_i, bad_j, kind) + similarity(good_j, bad_i, kind)
    together = similarity(good_i, good_j, kind) + similarity(bad_i, bad_j, kind)
    term = torch.sigmoid(apart - together) if squash else apart - together
    is_pair = torch.arange(len(z), device=z.device) < count
    return masked_mean(term, is_pair.expand_as(term))


def anchor_loss(
    z: Tensor,
    label: Tensor,
    clear: Tensor,
    anchor: Tensor,
    kind: Similarity = "l2",
    squash: bool = True,
    pairing: Pairing = "query",
) -> Tensor:
    """Return the anchor loss: preferred segments closer to a learned point z* than rejected ones, by a margin of 1.

    The mean over clear pairs of max(0, S(z-, z*) - S(z+, z*) + 1), under a logistic with ``squash``; 0 without a clear pair.

    Args:
        z: embeddings, (B, 2, Z).
        label: labels, (B,).
        clear: mask of clear pairs, (B,).
        anchor: z*, (Z,).
        kind: similarity.
        squash: bound each term to [1/2, 1); without it the loss is the hinge itself.
        pairing: matching of z- with z+, which matters because of the hinge; see :func:`listed`.
    """
    good, bad, count = listed(z, label, clear, pairing)
    star = anchor.expand_as(good)
    hinge = (similarity(bad, star, kind) - similarity(good, star, kind) + 1.0).clamp(min=0.0)
    return masked_mean(torch.sigmoid(hinge) if squash else hinge, torch.arange(len(z), device=z.device) < count)
