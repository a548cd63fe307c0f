"""Content of the label store about a run, in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lightning_pbrl.asking.waiting import Told, wait
from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Kind, Labels, Query, Status
from lightning_pbrl.data.outcomes import Ended
from lightning_pbrl.data.questions import Questions
from lightning_pbrl.data.store import LabelStore


class RoundState:
    """A run's questions and answers, read from the store once a round and written once a batch.

    It only grows: a round that is over and has no unanswered question is never read again.

    Args:
        store: what is on disk.
        run: name of the run in the store.
        everyone: learn from what every run of the store has asked; then all is read each round, for any run may have added to it.
        marked: questions stay open for people: each round sees the answers up to a mark of its own
            (:mod:`~lightning_pbrl.data.outcomes`). The first open question marks the rounds from then on.
    """

    def __init__(self, store: LabelStore, run: str, everyone: bool = False, marked: bool = False) -> None:
        self.store, self.run, self.everyone = store, run, everyone
        self.marks = store.marks(run)
        self.marked = marked or bool(self.marks)
        self.questions: Questions = store.questions(run, everyone)
        self._notes = store.notes(run)
        self._fresh = True
        self._seen: tuple[int, int] | None = None
        self._said: dict[int, list[tuple[float, int]]] = {}
        self._ended = store.ended(run)

    def read(self, number: int) -> None:
        """Take over, as round ``number`` begins, the answers that others have given in the meantime.

        With marks these are the ones that the round before has seen, and :meth:`close` has read them.
        """
        self.fix()
        fresh, self._fresh = self._fresh, False  # the store has just been read
        if fresh and self.marked:
            before = max((self.marks[each] for each in self.marks if each < number), default=0)
            self.questions = self.store.as_of(self.questions, self.run, before, number)
        elif not fresh and not self.marked:
            self._read_newer(number)

    def close(self, number: int) -> None:
        """Take over the answers that round ``number`` learns from: up to its mark, or up to now."""
        self.marked = self.marked or bool((self.questions.own & (self.questions.status == Status.PENDING)).any())
        if self.marked:
            seen = self.marks.get(number)
            self._seen = number, (self.store.newest(self.run) if seen is None else seen)
            self._read_newer(number)
            self.questions = self.store.as_of(self.questions, self.run, self._seen[1])

    def wait(self, number: int, given: int, enough: Callable[[int, int, int], bool], told: Told | None) -> None:
        """Wait until people have answered as much of round ``number`` as a teacher wants (:meth:`Teacher.enough`).

        Args:
            number: of the round.
            given: usable answers that the run has from elsewhere.
            enough: of the numbers of questions, of answers, and of the run's usable answers.
            told: gets the first two, as often as they change.
        """
        wait(
            lambda: self.store.answered(self.run, number),
            lambda asked, answered: enough(asked, answered, given + self.store.usable(self.run)),
            told,
        )

    def fix(self) -> None:
        """Mark what the round that was closed last has learned from; called when it has ended."""
        if self._seen is not None:
            self.store.mark(self.run, *self._seen)
            self.marks.setdefault(*self._seen)
            self._seen = None

    def _read_newer(self, number: int) -> None:
        """Read the rounds from ``number`` on, and those before that have an open question."""
        if self.everyone:
            self.questions = self.store.questions(self.run, everyone=True)
            return
        unanswered = self.questions.round[self.questions.status == Status.PENDING]
        first = min([number, *unanswered.unique().tolist()])
        newer = self.store.questions(self.run, from_round=first)
        self.questions = self.questions.replaced(newer, self.questions.round >= first)

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
        held = self.questions
        again = held.own & (held.round == key.round) & (held.number >= key.number) & (held.number < key.number + len(query))
        if int(again.sum()) < len(query):  # the newest question tells what was noted
            self._notes[key.round] = json.loads(json.dumps(strategy.get("notes", {})))  # as it is read again
        self.questions = held.replaced(Questions.asked(key.round, key.number, query, answer.value, answer.status), again)

    def spent(self, before_round: int | None = None) -> int:
        """Return how many questions the run has asked, answered or not, in the rounds before ``before_round``, if given."""
        asked = self.questions.own
        return int((asked if before_round is None else asked & (self.questions.round < before_round)).sum())

    def asked(self, number: int) -> Questions:
        """Return the run's questions of round ``number``, in the order of asking."""
        return self.questions.take(self.questions.own & (self.questions.round == number))

    def notes(self, before_round: int) -> dict[str, Any]:
        """Return what the strategy has noted in the newest round before ``before_round``."""
        return self._notes.get(max((number for number in self._notes if number < before_round), default=-1), {})

    def labels(self, kind: Kind, length: int, up_to_round: int | None = None) -> tuple[Tensor, Labels]:
        """Return numbers (N,) and labels of the questions of a kind about segments of ``length`` steps.

        Answers that count each on its own are labels of their own, of the same number.

        Args:
            kind: "pair" or "rating".
            length: steps per segment.
            up_to_round: of the rounds 0 .. ``up_to_round`` only; of all when None.
        """
        held = self.questions
        chosen = held.of(kind) & (held.length == length)
        found = held.take(chosen if up_to_round is None else chosen & (held.round <= up_to_round))
        self._said |= self.store.said(set(found.each.tolist()) - self._said.keys())
        found = found.apart(self._said)
        return found.number, found.labels(kind, length)

    def end(self, how: Ended | None) -> None:
        """Record for the page that the run asks nothing more, or with None that it asks; of a run that people answer."""
        if self.marked and how != self._ended:
            self.store.end(self.run, how)
            self._ended = how
