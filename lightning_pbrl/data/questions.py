"""Questions of all kinds side by side, as tensors: what a label store hands out at once and an asking session keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Kind, Labels, Query
from lightning_pbrl.data.kinds.base import MOST as MOST
from lightning_pbrl.errors import UserError

NAMES: list[Kind] = []
"""Kinds that this process has met; a question holds a place in this list."""


def numbered(names: Iterable[Kind]) -> Tensor:
    """Return the places of kinds in :data:`NAMES`, (N,), int64."""
    names = list(names)
    NAMES.extend(sorted(set(names) - set(NAMES)))
    return torch.tensor([NAMES.index(name) for name in names], dtype=torch.int64)


class Questions(NamedTuple):
    """N questions with their answers, in the order (run, number, round).

    Attributes:
        own: asked by the run that reads them, (N,), bool; the others are of runs that share its store.
        round: (N,), int64.
        number: within the run, (N,), int64.
        kind: place of the kind in :data:`NAMES`, (N,), int64.
        length: steps per segment, (N,), int64.
        start: row ids of the segments' first steps, (N, 10), int64; -1 where a question has fewer, as a rating has.
        value: (N,), float32; NaN where there is none.
        status: (N,), int64.
        each: outcome since which the answers count each on its own, (N,), int64; 0 where the label counts.
    """

    own: Tensor
    round: Tensor
    number: Tensor
    kind: Tensor
    length: Tensor
    start: Tensor
    value: Tensor
    status: Tensor
    each: Tensor

    def __len__(self) -> int:  # the number of questions, not of fields
        return self.number.shape[0]

    @staticmethod
    def asked(round_: int, number: int, query: Query, value: Tensor, status: Tensor) -> Questions:
        """Return the questions ``number``, ``number`` + 1, ... that a run has asked itself."""
        count = len(query)
        return Questions(
            torch.ones(count, dtype=torch.bool),
            torch.full((count,), round_),
            number + torch.arange(count),
            numbered([query.kind] * count),
            torch.full((count,), query.length),
            F.pad(query.start, (0, MOST - query.start.shape[1]), value=-1),
            value,
            status,
            torch.zeros(count, dtype=torch.int64),
        )

    def take(self, index: Tensor | slice) -> Questions:
        """Return the questions ``index``, (n,) places, (N,) bool or a slice, which is a view."""
        if isinstance(index, slice):
            return Questions(*(column[index] for column in self))
        places = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
        return Questions(*(column.index_select(0, places) for column in self))

    @staticmethod
    def joined(parts: Sequence[Questions]) -> Questions:
        """Return all questions of the parts, one part after the other."""
        return Questions(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def by_round(self) -> Questions:
        """Return the same by (round, number); these are by number."""
        return self.take(self.round.argsort(stable=True))

    def same(self, others: Questions) -> int:
        """Return how many questions, from the first on, are the same in both, answers included."""
        count = min(len(self), len(others))
        equal = torch.ones(count, dtype=torch.bool)
        for mine, theirs in zip(self, others, strict=True):
            mine, theirs = mine[:count], theirs[:count]
            alike = (mine == theirs) | ((mine != mine) & (theirs != theirs))  # NaN as well
            equal &= alike if alike.dim() == 1 else alike.all(1)
        return count if bool(equal.all()) else int(equal.int().argmin())

    def apart(self, answers: Mapping[int, Sequence[tuple[float, int]]]) -> Questions:
        """Return these with each answer that counts on its own in a row of its own.

        The first answer to a question takes its place; the others come before all questions, so that the newest stay last.

        Args:
            answers: values, NaN where there is none, and statuses by outcome.
        """
        parts = [(place, answers[outcome]) for place, outcome in enumerate(self.each.tolist()) if outcome]
        if not parts:
            return self
        more = [(place, answer) for place, theirs in parts for answer in theirs[1:]]
        index = torch.tensor([place for place, _ in more] + list(range(len(self))), dtype=torch.int64)
        found = self.take(index)
        own = [(len(more) + place, theirs[0]) for place, theirs in parts]
        for row, (value, status) in [*enumerate(answer for _, answer in more), *own]:
            found.value[row], found.status[row] = value, status
        return found

    @property
    def clips(self) -> int:
        """Largest number of segments of a question; 2 for none."""
        return int((self.start >= 0).sum(1).max()) if len(self) else 2

    @property
    def kinds(self) -> list[Kind]:
        """The kind of each question."""
        return [NAMES[number] for number in self.kind.tolist()]

    def of(self, kind: Kind) -> Tensor:
        """Return which questions are of a kind, (N,), bool."""
        return self.kind == int(numbered([kind]))

    def labels(self, kind: Kind, length: int) -> Labels:
        """Return these as labels; all are of this kind and about segments of ``length`` steps.

        Raises:
            UserError: if some are about more segments than others.
        """
        count = (self.start >= 0).sum(1) if len(self) else torch.zeros(0)
        clips = count.unique().int().tolist() or [kinds.of(kind).clips or 2]
        if len(clips) > 1:
            told = " and ".join(map(str, clips))
            raise UserError(
                f"Questions of kind {kind!r} are about {told} clips, and those of one fit have one number: part the runs."
            )
        return Labels(self.start[:, : clips[0]], length, self.value, self.status)
