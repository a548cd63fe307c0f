"""Content of the label store about a run, in memory."""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_pbrl.asking.waiting import Told, wait
from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Kind, Labels, Query, Status
from lightning_pbrl.data.given_labels import check_labels
from lightning_pbrl.data.growing import Growing, below
from lightning_pbrl.data.outcomes import Ended
from lightning_pbrl.data.questions import Questions
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions


class Seen(NamedTuple):
    """Labels of one kind that a learner may see.

    Attributes:
        labels: those that came with the data, then those of the run's questions.
        usable: how many of them have an order.
        pending: how many nobody has answered yet.
    """

    labels: Labels
    usable: int
    pending: int

    @staticmethod
    def of(labels: Labels) -> Seen:
        """Count labels."""
        return Seen(labels, *_counts(labels.status).sum(0).tolist())


class RoundState:
    """A run's questions and answers, read from the store once a round and written once a batch.

    It only grows. A round that is over and has no unanswered question is never read again, and labels that a learner has got
    stay where they are: a round costs the same however many came before. All are looked through with ``everyone``, and where
    answers count each on its own. An answer to an old question copies what came after it, in memory.

    Args:
        store: what is on disk.
        run: name of the run in the store.
        source: what the questions are about; labels name its rows, or the copies of one that forgets.
        given: answers that come with the data, by kind; they come first in what a learner gets.
        everyone: learn from what every run of the store has asked; then all is read each round, for any run may have added to it.
        marked: questions stay open for people: each round sees the answers up to a mark of its own
            (:mod:`~lightning_pbrl.data.outcomes`). The first open question marks the rounds from then on.
    """

    def __init__(
        self,
        store: LabelStore,
        run: str,
        source: Transitions,
        given: dict[Kind, Labels],
        everyone: bool = False,
        marked: bool = False,
    ) -> None:
        self.store, self.run, self.source, self.everyone = store, run, source, everyone
        self.given = given
        self.marks = store.marks(run)
        self.marked = marked or bool(self.marks)
        self._notes = store.notes(run)
        self._noted = sorted(self._notes)
        self._fresh = True
        self._seen: tuple[int, int] | None = None
        self._said: dict[int, list[tuple[float, int]]] = {}
        self._ended = store.ended(run)
        self._labels: dict[Kind, Growing] = {}
        self._take_over(store.questions(run, everyone))

    @property
    def questions(self) -> Questions:
        """Questions by round and number; with ``everyone`` all that are in the store, in its order."""
        return self._held(0)

    # Reading and writing ---------------------------------------------------------------------------------------------------

    def read(self, number: int) -> None:
        """Take over, as round ``number`` begins, the answers that others have given in the meantime.

        With marks these are the ones that the round before has seen, and :meth:`close` has read them.
        """
        self.fix()
        fresh, self._fresh = self._fresh, False  # the store has just been read
        if fresh and self.marked:
            before = max((self.marks[each] for each in self.marks if each < number), default=0)
            self._as_of(before, number)
        elif not fresh and not self.marked:
            self._read_newer(number)

    def close(self, number: int) -> None:
        """Take over the answers that round ``number`` learns from: up to its mark, or up to now."""
        self.marked = self.marked or len(self._open) > 0
        if self.marked:
            seen = self.marks.get(number)
            self._seen = number, (self.store.newest(self.run) if seen is None else seen)
            self._read_newer(number)
            self._as_of(self._seen[1])

    def wait(self, number: int, enough: Callable[[int, int, int], bool], told: Told | None) -> None:
        """Wait until people have answered as much of round ``number`` as a teacher wants (:meth:`Teacher.enough`).

        Args:
            number: of the round.
            enough: of the numbers of questions, of answers, and of the run's usable answers.
            told: gets the first two, as often as they change.
        """
        first = min([number, *self._open_rounds()])
        before = sum(self.seen(kind, first - 1).usable for kind in self.given)
        wait(
            lambda: self.store.answered(self.run, number),
            lambda asked, answered: enough(asked, answered, before + self.store.usable(self.run, first)),
            told,
        )

    def fix(self) -> None:
        """Mark what the round that was closed last has learned from; called when it has ended."""
        if self._seen is not None:
            self.store.mark(self.run, *self._seen)
            self.marks.setdefault(*self._seen)
            self._seen = None

    def put(
        self,
        key: AskKey,
        query: Query,
        answer: Answer,
        clips: Clips | None,
        strategy: dict[str, Any],
        teacher: dict[str, Any],
        seed: int,
        answered_by: str | Sequence[str],
    ) -> None:
        """Store a batch of questions with their answers on disk, then here (:meth:`LabelStore.put`)."""
        who: dict[str, Any] = {"strategy": strategy, "teacher": teacher, "seed": seed, "answered_by": answered_by}
        self.store.put(key, query, answer, clips=clips, **who)
        begin, end = self._round(key.round)
        number = self._held(begin, end).number
        first, last = (begin + below(number, each) for each in (key.number, key.number + len(query)))
        if last - first < len(query):  # the newest question tells what was noted
            if key.round not in self._notes:
                insort(self._noted, key.round)
            self._notes[key.round] = json.loads(json.dumps(strategy.get("notes", {})))  # as it is read again
        asked = Questions.asked(key.round, key.number, query, answer.value, answer.status)
        self._put(first, Questions.joined([asked, self._held(last)]))

    def end(self, how: Ended | None) -> None:
        """Record for the page that the run asks nothing more, or with None that it asks; of a run that people answer."""
        if self.marked and how != self._ended:
            self.store.end(self.run, how)
            self._ended = how

    # What is known ---------------------------------------------------------------------------------------------------------

    def spent(self, before_round: int | None = None) -> int:
        """Return how many questions the run has asked, answered or not, in the rounds before ``before_round``, if given."""
        if self.everyone:
            held = self.questions
            return int((held.own if before_round is None else held.own & (held.round < before_round)).sum())
        return len(self._rows) if before_round is None else below(self.questions.round, before_round)

    def asked(self, number: int) -> Questions:
        """Return the run's questions of round ``number``, in the order of asking."""
        if self.everyone:
            held = self.questions
            return held.take(held.own & (held.round == number))
        return Questions(*(column.clone() for column in self._rows.look(*self._round(number))))

    def notes(self, before_round: int) -> dict[str, Any]:
        """Return what the strategy has noted in the newest round before ``before_round``."""
        place = bisect_left(self._noted, before_round)
        return self._notes[self._noted[place - 1]] if place else {}

    def seen(self, kind: Kind, up_to_round: int | None = None) -> Seen:
        """Return the labels of a kind that are about segments of the length of those given.

        Answers that count each on its own are labels of their own.

        Args:
            kind: "pair" or "rating".
            up_to_round: of the rounds 0 .. ``up_to_round`` only; of all when None.

        Raises:
            UserError: when a label is about a segment that the data do not hold (:func:`check_labels`).
        """
        if self.everyone or self.several:
            return self._each(kind, up_to_round)
        given, known = self.given[kind], self._labels.get(kind)
        if known is None:
            nowhere = torch.full((len(given),), -1)
            known = self._labels[kind] = Growing(nowhere, given.start, given.value, given.status, _counts(given.status).cumsum(0))
        old = self._unchanged[kind]
        if old < len(self._rows):
            self._grow(kind, known, old)
            known = self._labels[kind]
        end = len(known)
        if up_to_round is not None:
            end = below(known.look()[0], self.spent(up_to_round + 1))
        _, start, value, status, counts = known.upto(end)
        return Seen(Labels(start, given.length, value, status), *(counts[-1].tolist() if end else (0, 0)))

    def _grow(self, kind: Kind, known: Growing, old: int) -> None:
        """Add to the labels of a kind what has been asked or answered since its first ``old`` questions."""
        newer = self._held(old)
        chosen = (newer.of(kind) & (newer.length == self.given[kind].length)).nonzero().squeeze(1)
        rows = newer.take(chosen)
        at = below(known.look()[0], old)
        labels = self._labelled(kind, rows, at - len(self.given[kind]))
        if not len(known) and len(labels):  # whose number of clips is that of the first questions
            known = self._labels[kind] = Growing(
                *(part[:0] for part in (chosen, labels.start, labels.value, labels.status)), _counts(labels.status)[:0]
            )
        before = known.look(at - 1, at)[-1] if at else 0
        known.put(at, (old + chosen, labels.start, labels.value, labels.status, before + _counts(labels.status).cumsum(0)))
        self._unchanged[kind] = len(self._rows)

    def _each(self, kind: Kind, up_to_round: int | None) -> Seen:
        """Return the same, looking through all questions."""
        held, given = self.questions, self.given[kind]
        chosen = held.of(kind) & (held.length == given.length)
        found = held.take(chosen if up_to_round is None else chosen & (held.round <= up_to_round))
        self._said |= self.store.said(set(found.each.tolist()) - self._said.keys())
        return Seen.of(given.then(self._labelled(kind, found.apart(self._said), 0)))

    def _labelled(self, kind: Kind, rows: Questions, first: int) -> Labels:
        """Return questions of a kind as labels about rows of the source; ``first`` is the number of the first in messages."""
        labels, copies = rows.labels(kind, self.given[kind].length), getattr(self.source, "copies", None)
        if copies is not None:
            return Labels(copies.placed(labels.start, rows.number), labels.length, labels.value, labels.status)
        check_labels(labels, self.source, f"the label store {self.store.name}", first, kind)
        return labels

    # Rows ------------------------------------------------------------------------------------------------------------------

    def _take_over(self, questions: Questions) -> None:
        """Hold these questions in place of all."""
        self._rows = Growing(*(questions if self.everyone else questions.by_round()))
        self.several = bool(questions.each.any())
        self._open = _open(self.questions)
        self._unchanged: dict[Kind, int] = dict.fromkeys(self.given, 0)

    def _put(self, first: int, rows: Questions) -> None:
        """Hold these questions in place of those from place ``first`` on; what is the same stays as it is."""
        same = rows.same(self._held(first))
        first += same
        if same == len(rows) and first == len(self._rows):
            return
        rows = rows.take(slice(same, None))
        self._rows.put(first, rows)
        self.several = self.several or bool(rows.each.any())
        self._open = torch.cat([self._open[self._open < first], first + _open(rows)])
        self._unchanged = {kind: min(place, first) for kind, place in self._unchanged.items()}

    def _read_newer(self, number: int) -> None:
        """Read the rounds from ``number`` on, and those before that have an open question."""
        if self.everyone:
            self._take_over(self.store.questions(self.run, everyone=True))
            return
        changed = []
        if early := [each for each in self._open_rounds() if each < number]:
            found = self.store.questions(self.run, rounds=early)
            for each in early:
                place, rows = self._round(each), found.take(found.round == each)
                if rows.same(self._held(*place)) < max(len(rows), place[1] - place[0]):
                    changed.append((*place, rows))
        newer = self.store.questions(self.run, from_round=number).by_round()
        changed.append((below(self.questions.round, number), len(self._rows), newer))
        parts = [changed[0][2]]
        for (_, end, _), (begin, _, rows) in pairwise(changed):
            parts += [self._held(end, begin), rows]
        self._put(changed[0][0], Questions.joined(parts))

    def _as_of(self, mark: int, before_round: int | None = None) -> None:
        """Hold the labels as they were at a mark (:meth:`LabelStore.as_of`)."""
        held = self.questions
        if (found := self.store.as_of(held, self.run, mark, before_round)) is not held:
            self._put(0, found)

    def _open_rounds(self) -> list[int]:
        """Return the rounds that have an unanswered question."""
        return self.questions.round[self._open].unique().tolist()

    def _held(self, first: int, end: int | None = None) -> Questions:
        """Return the questions between two places, which hold until others are put there."""
        return Questions(*self._rows.look(first, end))

    def _round(self, number: int) -> tuple[int, int]:
        """Return the places between which the questions of a round are."""
        return below(self.questions.round, number), below(self.questions.round, number + 1)


def _open(questions: Questions) -> Tensor:
    """Return the places of a run's own unanswered questions, (n,)."""
    return (questions.own & (questions.status == Status.PENDING)).nonzero().squeeze(1)


def _counts(status: Tensor) -> Tensor:
    """Return for each label whether it has an order and whether it is pending, (N, 2), int64."""
    usable = (status == Status.ANSWERED) | (status == Status.EQUAL)
    return torch.stack([usable, status == Status.PENDING], 1).long()
