"""Answers of several kinds in one fit: every answer counts once, by the likelihood of its own kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_pbrl.data.feedback import Kind, Labels
from lightning_pbrl.data.kinds.base import REGISTRY, ChoiceKind


class Mixed(NamedTuple):
    """Usable answers about choices, side by side.

    Attributes:
        start: row ids of the segments, (N, C), int64; a question about fewer than C repeats its first.
        length: steps per segment.
        value: (N,), float32.
        kind: place of the kind in ``kinds``, (N,), int64.
        kinds: names of the kinds.
    """

    start: Tensor
    length: int
    value: Tensor
    kind: Tensor
    kinds: tuple[Kind, ...]

    def __len__(self) -> int:
        return self.start.shape[0]

    def to(self, device: torch.device | str) -> Mixed:
        """Return the same answers on ``device``."""
        return Mixed(self.start.to(device), self.length, self.value.to(device), self.kind.to(device), self.kinds)


def mixed(pairs: Labels, others: Mapping[Kind, Labels]) -> Labels | Mixed:
    """Return pairs and the usable answers of other kinds as one set; the pairs themselves where there are no others."""
    found = {kind: labels.preferences() for kind, labels in others.items() if isinstance(REGISTRY.get(kind), ChoiceKind)}
    found = {kind: labels for kind, labels in found.items() if len(labels)}
    if not found:
        return pairs
    parts = {**({"pair": pairs} if len(pairs) else {}), **found}
    clips = max(labels.start.shape[1] for labels in parts.values())
    start = [torch.cat([each, each[:, :1].expand(-1, clips - each.shape[1])], 1) for each in (p.start for p in parts.values())]
    number = [torch.full((len(labels),), place, device=labels.value.device) for place, labels in enumerate(parts.values())]
    value = torch.cat([labels.value for labels in parts.values()])
    return Mixed(torch.cat(start), next(iter(found.values())).length, value, torch.cat(number), tuple(parts))


def likelihood(scores: Tensor, value: Tensor, kind: Tensor, kinds: tuple[Kind, ...], cuts: Tensor | None) -> Tensor:
    """Return the negative log-likelihood of each answer by that of its kind, (..., B), nats.

    Args:
        scores: (..., B, C).
        value: (..., B).
        kind: places in ``kinds``, (..., B).
        kinds: names of the kinds.
        cuts: cut points of levels, (..., 2), or None; see :meth:`~lightning_pbrl.data.kinds.base.ChoiceKind.loss`.
    """
    losses = [_choice(name).loss(scores, value, cuts) for name in kinds]
    return _of_its_kind(losses, kind)


def accuracy(scores: Tensor, value: Tensor, kind: Tensor, kinds: tuple[Kind, ...], margin: float = 0.0) -> Tensor:
    """Return the fraction of answers with a preferred clip that the scores predict, (...,); 0 without any.

    An answer is predicted if the preferred clip is more probable than 0.5 + ``margin`` against the best of the others.
    """
    lead = _of_its_kind([_choice(name).lead(scores, value) for name in kinds], kind)
    needed = torch.logit(torch.tensor(0.5 + margin, dtype=torch.float64)).item()
    return (lead > needed).sum(-1) / (~lead.isnan()).sum(-1).clamp(min=1)


def _choice(name: Kind) -> ChoiceKind:
    kind = REGISTRY[name]
    assert isinstance(kind, ChoiceKind)  # noqa: S101 - mixed() takes no others
    return kind


def _of_its_kind(found: list[Tensor], kind: Tensor) -> Tensor:
    """Return from tensors by kind, each (..., B), the entry of each row's kind."""
    chosen = F.one_hot(kind, len(found)).bool().expand(*found[0].shape, len(found))
    return torch.stack(found, -1).masked_fill(~chosen, 0.0).sum(-1)
