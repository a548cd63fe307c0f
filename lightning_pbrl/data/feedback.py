"""Feedback: questions, answers, and the labels that a learner reads.

One convention in the whole library: a pair's label is P(second segment preferred), 0 first, 0.5 equal,
1 second. "Equal", "cannot compare" and "not answered" are statuses, never a 0.5 in disguise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_pbrl.data.status import Kind as Kind
from lightning_pbrl.data.status import Status as Status


class Query(NamedTuple):
    """A batch of questions about segments, which are given by index and never copied.

    Attributes:
        kind: kind of answer, such as "pair" (two segments per question) or "rating" (one): :mod:`lightning_pbrl.data.kinds`.
        start: row id of each segment's first step, (B, C), int64.
        length: steps per segment.
    """

    kind: Kind
    start: Tensor
    length: int

    def __len__(self) -> int:  # the number of questions, not of fields
        return self.start.shape[0]


class Answer(NamedTuple):
    """A batch of answers.

    Attributes:
        value: (B,), float32: P(second preferred) for pairs, the number of the best, the rating; NaN where there is none.
        status: (B,), int64, values of :class:`Status`.
    """

    value: Tensor
    status: Tensor


def beside(one: Tensor, two: Tensor) -> Tensor:
    """Return rows followed by more rows; where questions have fewer segments, (N, C), these are filled up with -1."""
    if one.dim() == 2 and one.shape[1] != two.shape[1]:
        width = max(one.shape[1], two.shape[1])
        one, two = (F.pad(each, (0, width - each.shape[1]), value=-1) for each in (one, two))
    return torch.cat([one, two])


class Clips(NamedTuple):
    """Content of the segments that a teacher sees, C = 2 for pairs, 1 for ratings and k for the best of k.

    Attributes:
        obs: (B, C, T, O).
        action: (B, C, T, A).
        reward: true reward per step, (B, C, T); NaN where the data have none.
        frames: pictures of the steps, (B, C, T, H, W, 3), uint8, RGB; None where nobody has drawn them. Label stores keep
            those of a replay that stores images.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    frames: Tensor | None = None

    def take(self, index: Tensor) -> Clips:
        """Return the segments of the questions ``index``, (n,) row numbers or (B,) bool."""
        frames = None if self.frames is None else self.frames[index]
        return Clips(self.obs[index], self.action[index], self.reward[index], frames)


class AskKey(NamedTuple):
    """Permanent name of a question: (run, round, number within the run)."""

    run: str
    round: int
    number: int


class Labels(NamedTuple):
    """All answered questions of one kind, as tensors on the learner's device.

    Attributes:
        start: (N, C), int64.
        length: steps per segment.
        value: (N,), float32.
        status: (N,), int64.
    """

    start: Tensor
    length: int
    value: Tensor
    status: Tensor

    def __len__(self) -> int:
        return self.start.shape[0]

    def preferences(self) -> Labels:
        """Return the answers with an order: answered and equal, not skipped, not pending."""
        keep = (self.status == Status.ANSWERED) | (self.status == Status.EQUAL)
        return Labels(self.start[keep], self.length, self.value[keep], self.status[keep])

    def take(self, index: Tensor) -> Labels:
        """Return the questions ``index``, (n,) row numbers or (N,) bool."""
        return Labels(self.start[index], self.length, self.value[index], self.status[index])

    def then(self, more: Labels) -> Labels:
        """Return these labels followed by ``more``, which are about segments of the same length."""
        if not len(self):  # whose number of clips is any
            return Labels(more.start, self.length, more.value, more.status)
        columns = ((self.start, more.start), (self.value, more.value), (self.status, more.status))
        start, value, status = (torch.cat(column) for column in columns)
        return Labels(start, self.length, value, status)

    def to(self, device: torch.device | str) -> Labels:
        """Return the same labels on ``device``."""
        return Labels(self.start.to(device), self.length, self.value.to(device), self.status.to(device))

    @staticmethod
    def empty(length: int = 1, clips: int = 2) -> Labels:
        """Return no labels at all (a run's state before its first round)."""
        return Labels(torch.empty(0, clips, dtype=torch.int64), length, torch.empty(0), torch.empty(0, dtype=torch.int64))


class Asked(NamedTuple):
    """Counts of a run's questions, asked so far and still to come.

    Attributes:
        total: answers that came with the data and questions asked in the run.
        this_round: questions asked at this round's start.
        remaining: budget left.
        ratings: of those of this round that are ratings.
        over: whether no later round asks although budget is left: there was nothing to ask about, or the rounds are over.
        others: of those of this round that are neither pairs nor ratings.
    """

    total: int = 0
    this_round: int = 0
    remaining: int = 0
    ratings: int = 0
    over: bool = False
    others: int = 0

    @property
    def pairs(self) -> int:
        """Pairs among the questions of this round."""
        return self.this_round - self.ratings - self.others


class Judgement(NamedTuple):
    """True answers to compare predictions about pairs with; for evaluation only.

    Attributes:
        query: B pairs.
        label: P(second preferred), (B,), float32; NaN if unlabelled.
        true_returns: undiscounted true return of each segment, environment units, (B, 2); NaN if unknown.
    """

    query: Query
    label: Tensor
    true_returns: Tensor

    @property
    def decisive(self) -> Tensor:
        """Mask of the pairs with a preferred segment, (B,), bool."""
        return (self.label == 0) | (self.label == 1)
