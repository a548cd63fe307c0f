"""Questions that measure people: practice, checks by gold questions, and repeats of their own.

A gold question is one that the named expert has answered. Practice and checks ask it of others: the first with feedback, the
second without a sign. A repeat asks a person again. None of these answers is a label or counts as progress.

What comes next is a function of the person and of what that person has answered. A reload, a second tab and a restart of the
page therefore show the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.tables import ANSWERS, QUESTIONS
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.interface import Key, OpenQuestion, Purpose
from lightning_pbrl.labelling.questions import at, closed, key_of, question_for
from lightning_pbrl.rng import derive

APART = 10
"""Answers that a person gives between a question and its repeat, at least."""
AHEAD = 2
"""Questions that a page fetches before they are due, so that their films load."""


class Quality(NamedTuple):
    """Shares of the questions that measure people.

    Attributes:
        gold: name of the expert whose answers are expected from others; None for nobody, without practice and checks.
        practice: gold questions that a new person answers first, with feedback.
        check_every: one in so many questions is a gold one; 0 for none.
        repeat_every: one in so many questions is one that the person has answered already; 0 for none.
        run: of this run only; of all when None.
    """

    gold: str | None = None
    practice: int = 5
    check_every: int = 20
    repeat_every: int = 0
    run: str | None = None

    def check(self) -> None:
        """Raise a UserError for settings that leave no room for labels, and for an empty name."""
        if self.gold is not None and not self.gold.strip():
            raise UserError("The gold person has no name: name the expert whose answers are expected from others.")
        if self.practice < 0:
            raise UserError(f"practice is {self.practice}: give a number of gold questions, 0 for none.")
        for name in ("check_every", "repeat_every"):
            if (every := getattr(self, name)) < 0 or every == 1:
                raise UserError(f"{name} is {every}: give 0 for none, or one in 2 questions or more.")

    def is_gold(self) -> Any:
        """Return the condition that a row of questions has the answer of the expert."""
        return sa.and_(QUESTIONS.c.answered_by == self.gold, QUESTIONS.c.status != int(Status.PENDING))

    def asks(self, person: str) -> bool:
        """Return True if a person may be asked other questions than those for labels."""
        return self.repeat_every > 0 or self.gold not in (None, person)

    def purpose(self, db: sa.Connection, row: Any, person: str, had: Collection[Purpose], repeat: bool) -> Purpose | None:
        """Return the purpose of a person's answer to a question; None for a repeat of what was not answered long ago.

        Args:
            db: connection to the store.
            row: of the table of questions.
            person: name of the person.
            had: purposes of the answers that the person has given to it.
            repeat: the person is asked again.
        """
        if repeat:
            past = self._past(db, person) if self.repeat_every > 0 else []
            return "repeat" if "repeat" in had or key_of(row) in _repeatable(past, len(past) + AHEAD) else None
        if first := set(had) - {"repeat"}:
            return first.pop()
        expert = self.gold not in (None, person) and row["answered_by"] == self.gold
        if not expert or row["status"] == Status.PENDING:
            return "label"
        learns = row["status"] != Status.SKIPPED and self._practised(db, person) < self.practice
        return "practice" if learns else "check"

    def among(
        self, db: sa.Connection, person: str, labels: Sequence[OpenQuestion], count: int, without: Collection[Key]
    ) -> list[OpenQuestion]:
        """Return a person's next questions: those for labels, with practice before and checks and repeats between them.

        Args:
            db: connection to the store.
            person: name of the person.
            labels: open questions for the person, in order, without those in ``without``.
            count: number of questions wanted.
            without: questions that the person has before the eyes already.
        """
        past, checked = self._past(db, person), self.gold not in (None, person)
        practice = self.practice - self._practised(db, person) if checked else 0
        gold = self._gold(db, person, count + len(without)) if checked else []
        known = {key for key, _ in past} | {key_of(row) for row in gold}
        before = sum(key not in known for key in without)  # labels that come before those that are given
        found, rest, again = list[OpenQuestion](), list(labels), set[Key]()
        for place, purpose in self._purposes(person, practice, len(past), checked):
            if purpose != "practice" and not (rest or before):
                break  # nothing is asked between labels where there are none
            row = None
            if purpose in ("practice", "check") and gold:
                row = gold.pop(0)
            elif purpose == "repeat" and (repeats := [key for key in _repeatable(past, place) if key not in again]):
                again.add(key := repeats[derive(0, "repeat", person, place) % len(repeats)])
                row = self._open(db, key)
            if row is not None:
                question = question_for(row, person, None, purpose)
            elif purpose == "practice":
                continue
            elif before:
                before -= 1
                continue
            else:
                question = rest.pop(0)
            if question.key not in without:
                found.append(question)
            if len(found) == count:
                break
        return found

    def _purposes(self, person: str, practice: int, place: int, checked: bool) -> Iterator[tuple[int, Purpose]]:
        """Yield place and purpose of a person's next questions: what is left of the practice, then all places from one on."""
        for _ in range(practice):
            yield -1, "practice"
        while True:
            checks = checked and _chosen(person, "check", place, self.check_every)
            repeats = _chosen(person, "repeat", place, self.repeat_every)
            yield place, "check" if checks else "repeat" if repeats else "label"
            place += 1

    def _past(self, db: sa.Connection, person: str) -> list[tuple[Key, Purpose]]:
        """Return the questions that a person has answered after the practice, with the purposes, in order."""
        names = [ANSWERS.c[name] for name in (*Key._fields, "purpose")]
        given = sa.select(*names).where(*self._mine(person), ANSWERS.c.purpose != "practice").order_by(ANSWERS.c.id)
        return [(Key(run, round_, number), purpose) for run, round_, number, purpose in db.execute(given)]

    def _practised(self, db: sa.Connection, person: str) -> int:
        """Return the number of practice questions that a person has answered."""
        given = sa.select(sa.func.count()).select_from(ANSWERS).where(*self._mine(person), ANSWERS.c.purpose == "practice")
        return db.scalar(given) or 0

    def _mine(self, person: str) -> list[Any]:
        """Return the conditions that a row is the first answer of a person to a question."""
        where = [ANSWERS.c.person == person, ANSWERS.c.revision == 0]
        return where + ([] if self.run is None else [ANSWERS.c.run == self.run])

    def _gold(self, db: sa.Connection, person: str, count: int) -> list[Any]:
        """Return the first gold questions that a person has not seen; those that the expert could not tell are no use."""
        seen = sa.exists().where(*(ANSWERS.c[part] == QUESTIONS.c[part] for part in Key._fields), ANSWERS.c.person == person)
        where = [self.is_gold(), QUESTIONS.c.status != int(Status.SKIPPED), ~seen, ~closed()]
        where += [] if self.run is None else [QUESTIONS.c.run == self.run]
        order = QUESTIONS.c.run, QUESTIONS.c.round, QUESTIONS.c.number
        return list(db.execute(sa.select(QUESTIONS).where(*where).order_by(*order).limit(count)).mappings())

    @staticmethod
    def _open(db: sa.Connection, key: Key) -> Any:
        """Return the row of a question; None for one that was closed."""
        return db.execute(sa.select(QUESTIONS).where(*at(QUESTIONS, key), ~closed())).mappings().first()


def _chosen(person: str, what: str, place: int, every: int) -> bool:
    """Return True for one place, drawn by chance, of every stretch of ``every``."""
    return every > 0 and place % every == derive(0, what, person, place // every) % every


def _repeatable(past: Sequence[tuple[Key, Purpose]], place: int) -> list[Key]:
    """Return the questions that may be asked again at a place: answered for a label long before it, and once."""
    again = {key for key, purpose in past if purpose == "repeat"}
    return [key for key, purpose in past[: max(place - APART, 0)] if purpose == "label" and key not in again]
