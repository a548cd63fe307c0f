"""Content of the label store about a run, in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Kind, Labels, Query, Status
from lightning_pbrl.data.questions import Questions
from lightning_pbrl.data.store import LabelStore


class RoundState:
    """A run's questions and answers, read from the store once a round and written once a batch.

    It only grows: a round that is over and has no unanswered question is never read again.

    Args:
        store: what is on disk.
        run: name of the run in the store.
        everyone: learn from what every run of the store has asked; then all is read each round, for any run may have added to it.
    """

    def __init__(self, store: LabelStore, run: str, everyone: bool = False) -> None:
        self.store, self.run, self.everyone = store, run, everyone
        self.questions: Questions = store.questions(run, everyone)
        self._notes = store.notes(run)
        self._fresh = True

    def read(self, number: int) -> None:
        """Take over, as round ``number`` begins, the answers that others have given in the meantime."""
        if self._fresh:  # the store has just been read
            self._fresh = False
        elif self.everyone:
            self.questions = self.store.questions(self.run, everyone=True)
        else:
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

        Args:
            kind: "pair" or "rating".
            length: steps per segment.
            up_to_round: of the rounds 0 .. ``up_to_round`` only; of all when None.
        """
        held = self.questions
        chosen = held.of(kind) & (held.length == length)
        found = held.take(chosen if up_to_round is None else chosen & (held.round <= up_to_round))
        return found.number, found.labels(kind, length)
