"""Ranked lists, reconstructed from stored answers, and the pairs derived from them.

A teacher compares two segments at a time and knows no list. The meaning of an answer for a list depends on the answers before it,
so the lists are never stored. They are reconstructed from the label store in the order of asking, and so are the pairs derived
from them. A derived pair is a view of given answers; it is never counted as asked.

Source: LiRE (Choi et al. 2024, arXiv 2408.04190), its ranked lists ("RLT") and its baseline SeqRank (Hwang et al. 2023,
"Sequential Preference Ranking for Efficient Reinforcement Learning from Human Feedback").

One rule makes the reconstruction independent of settings: an answer that does not continue the current list starts a new one.
Answers of other strategies (a uniform first round, an imported file) are therefore lists of two. After a skipped answer the
segment to be inserted is dropped. A pending answer is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch

from lightning_pbrl.data.feedback import Labels, Status

Groups = list[list[int]]
"""Ranked list: groups of equally preferred segments (their first row ids), least preferred group first."""


@dataclass
class Insertion:
    """Insertion of a segment into a ranked list by binary search; its position is one of low .. high.

    Attributes:
        segment: row id of its first step.
        low: number of groups known to be worse.
        high: index of the first group known to be better.
    """

    segment: int
    low: int
    high: int

    @property
    def mid(self) -> int:
        """Index of the group for the next comparison."""
        return (self.low + self.high) // 2


@dataclass
class RankedLists:
    """Ranked lists grown by binary insertion.

    Attributes:
        lists: all lists; the last one is the current one.
        spent: number of answers in the last list.
        waiting: unfinished insertion into the last list; None between insertions.
    """

    lists: list[Groups] = field(default_factory=list)
    spent: int = 0
    waiting: Insertion | None = None

    def add(self, first: int, second: int, value: float, skipped: bool = False) -> None:
        """Add the next answer.

        Args:
            first: the segment to be inserted (or one of the two that start a list).
            second: the segment it was compared with.
            value: P(second preferred): 0, 0.5 or 1.
            skipped: True if the teacher could not compare the two.
        """
        at = self._continued(first, second)
        if at is None:
            if not skipped:
                worse, better = (first, second) if value > 0.5 else (second, first)
                self.lists.append([[first, second]] if value == 0.5 else [[worse], [better]])
                self.spent, self.waiting = 1, None
            return
        groups, self.spent, self.waiting = self.lists[-1], self.spent + 1, None
        if skipped:
            return
        if value == 0.5:
            groups[at.mid].append(first)
            return
        if value > 0.5:
            at.high = at.mid
        else:
            at.low = at.mid + 1
        if at.low < at.high:
            self.waiting = at
        else:
            groups.insert(at.low, [first])

    def _continued(self, first: int, second: int) -> Insertion | None:
        """Return the insertion that a comparison belongs to; None if it starts a list."""
        if not self.lists:
            return None
        groups = self.lists[-1]
        at = self.waiting or Insertion(first, 0, len(groups))
        return at if at.segment == first and second in groups[at.mid] else None


@dataclass
class Chains:
    """SeqRank's lists: each new segment is compared with its predecessor, and a list continues while the direction persists.

    Attributes:
        lists: all lists; the last one is the current one.
        last: newest segment of the chain; None before the first answer.
        direction: 1 while segments get better, -1 while they get worse, 0 while all are equal.
    """

    lists: list[Groups] = field(default_factory=list)
    last: int | None = None
    direction: int = 0

    def add(self, first: int, second: int, value: float, skipped: bool = False) -> None:
        """Add the next answer: ``first`` is the chain's newest segment, ``second`` the one to be appended."""
        if skipped:
            return
        step = 0 if value == 0.5 else (1 if value > 0.5 else -1)
        begins = not self.lists or first != self.last
        if begins or step * self.direction < 0:
            self.lists.append([[first]])
            self.direction = 0
        groups, self.last = self.lists[-1], second
        if step == 0:
            groups[0 if self.direction < 0 else -1].append(second)
            return
        groups.insert(len(groups) if step > 0 else 0, [second])
        self.direction = step


State = TypeVar("State", RankedLists, Chains)


def rebuild(state: State, labels: Labels) -> State:
    """Return ``state`` after all answers of ``labels``, in their order; pending ones are ignored."""
    rows = zip(labels.start.tolist(), labels.value.tolist(), labels.status.tolist(), strict=True)
    for (first, second), value, status in rows:
        if status != Status.PENDING:
            state.add(first, second, value, skipped=status == Status.SKIPPED)
    return state


def derived_pairs(labels: Labels, kind: Literal["ranked", "chain"]) -> Labels:
    """Return all pairs that follow from the answers: any two members of each list, never across lists.

    Args:
        labels: the answers, in the order of asking.
        kind: kind of the lists: "ranked" (binary insertion) or "chain" (SeqRank).

    Returns:
        Pairs (worse, better) with value 1, or two members of one group with value 0.5 and status EQUAL; on the device of
        ``labels``. A segment whose insertion is not finished is in no pair yet.
    """
    starts, values = [torch.empty(0, 2, dtype=torch.int64)], [torch.empty(0)]
    state = rebuild(RankedLists(), labels) if kind == "ranked" else rebuild(Chains(), labels)
    for groups in state.lists:
        members = torch.tensor([segment for group in groups for segment in group])
        rank = torch.tensor([number for number, group in enumerate(groups) for _ in group])
        i, j = torch.triu_indices(len(members), len(members), offset=1)
        starts.append(torch.stack([members[i], members[j]], dim=1))
        values.append(torch.where(rank[i] < rank[j], 1.0, 0.5))
    start, value = torch.cat(starts), torch.cat(values)
    status = torch.where(value == 0.5, int(Status.EQUAL), int(Status.ANSWERED))
    return Labels(start, labels.length, value, status).to(labels.start.device)
