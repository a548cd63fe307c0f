"""The losses of CLARIFY's trajectory encoder, as pure functions of embeddings.

Source: CLARIFY (ICML 2025, arXiv 2506.00388); its released code for constants and for what the forms called
"reference" do.

Everywhere: ``z`` are the embeddings of the two segments of B pairs, (B, 2, Z); a label is P(second preferred), 0 or 1
for a clear pair (others' labels are not read); ``clear`` and ``ambiguous`` are bool, (B,). Shapes never depend on how many pairs
are clear, so that the losses can be compiled.
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
    """How alike embeddings are: -mean_d (x_d - y_d)^2 in (-inf, 0], or the cosine in [-1, 1]; (..., Z) -> (...)."""
    if kind == "cosine":
        return F.cosine_similarity(x, y, dim=-1)
    return -(x - y).square().mean(-1)


def reconstruction_loss(predicted: Tensor, action: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of the actions over valid steps and action dimensions: (B, T, A), (B, T, A), (B, T) -> ()."""
    error = (predicted - action).square().mean(-1)
    return masked_mean(error, valid)


def norm_loss(z: Tensor) -> Tensor:
    """Mean of ``(|z| - 1)^2`` over all embeddings, padded steps included: (..., Z) -> ()."""
    return (z.norm(dim=-1) - 1.0).square().mean()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of the entries where ``mask`` is 1 or True; 0 when there is none."""
    weight = mask.to(x.dtype)
    return (x * weight).sum() / weight.sum().clamp(min=1.0)


def ambiguity_loss(z: Tensor, clear: Tensor, ambiguous: Tensor, form: AmbiguityLoss = "paper", kind: Similarity = "l2") -> Tensor:
    """Clear pairs apart, ambiguous pairs together.

    With s = logistic(similarity of the two segments), "paper" is the bounded form of -E_clear[d] + E_ambiguous[d]:
    mean_clear s - mean_ambiguous s, where a missing group contributes 0.

    Differences: "reference" is what the released code computes, because a conditional expression binds otherwise than
    meant: 0 without an ambiguous pair; mean_ambiguous s (which pushes them *apart*) without a clear one; else
    mean_clear s, so that ambiguous pairs are never pulled together.
    """
    alike = torch.sigmoid(similarity(z[:, 0], z[:, 1], kind))
    of_clear, of_ambiguous = masked_mean(alike, clear), masked_mean(alike, ambiguous)
    if form == "paper":
        return of_clear - of_ambiguous
    return torch.where(ambiguous.any(), torch.where(clear.any(), of_clear, of_ambiguous), 0.0 * of_clear)


def preferred_first(z: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings of the preferred and of the rejected segment of each pair: (B, 2, Z), (B,) -> (B, Z), (B, Z)."""
    second = (label > 0.5)[:, None]
    return torch.where(second, z[:, 1], z[:, 0]), torch.where(second, z[:, 0], z[:, 1])


def listed(z: Tensor, label: Tensor, clear: Tensor, pairing: Pairing) -> tuple[Tensor, Tensor, Tensor]:
    """List the preferred and the rejected segments of the clear pairs, those of which the first segment won in front.

    Args:
        z: (B, 2, Z).
        label: (B,).
        clear: (B,).
        pairing: "query" lists z+ and z- of one question side by side; "reference" does as the released code, whose list of
            rejected segments starts with the questions of which the second segment won, so that entry i of the two lists
            mostly belongs to different questions.

    Returns:
        Preferred segments, (B, Z), rejected segments, (B, Z), and the number of clear pairs, (); entries beyond it mean nothing.
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
    """Preferred segments together, rejected segments together, the two kinds apart.

    For clear pairs i and j, with S the similarity: S(z+_i, z-_j) + S(z+_j, z-_i) - S(z+_i, z+_j) - S(z-_i, z-_j), each under a
    logistic when ``squash``; the mean over all clear i, each with R random partners j. 0 without a clear pair.

    Args:
        z: (B, 2, Z).
        label: (B,).
        clear: (B,).
        partner: numbers in [0, 1) that pick the partners (with replacement, itself allowed), (R, B).
        kind: similarity.
        squash: bound each term to (0, 1); without it the loss is that of the paper and has no lower bound (l2).
        pairing: which z-_i goes with z+_i; see :func:`listed`.
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
    """Preferred segments nearer to a learned point z* than rejected ones, by a margin of 1.

    Mean over clear pairs of max(0, S(z-, z*) - S(z+, z*) + 1), under a logistic when ``squash``; 0 without a clear pair.

    Args:
        z: (B, 2, Z).
        label: (B,).
        clear: (B,).
        anchor: z*, (Z,).
        kind: similarity.
        squash: bound each term to [1/2, 1); without it the loss is the hinge itself.
        pairing: which z- goes with which z+; see :func:`listed`. The hinge makes it matter.
    """
    good, bad, count = listed(z, label, clear, pairing)
    star = anchor.expand_as(good)
    hinge = (similarity(bad, star, kind) - similarity(good, star, kind) + 1.0).clamp(min=0.0)
    return masked_mean(torch.sigmoid(hinge) if squash else hinge, torch.arange(len(z), device=z.device) < count)
