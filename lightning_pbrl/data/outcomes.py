"""Outcomes: the changes of questions' labels after they were asked, and which of them each round of a run has learned from.

A round that has ended marks the newest outcome that it has seen. A run that is repeated reads each label as it was then: it
sees the same answers in the same rounds, whatever people have answered or changed since.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from lightning_pbrl.data.database import Database
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.questions import Questions
from lightning_pbrl.data.tables import MARKS, OUTCOMES, QUESTIONS


def now() -> str:
    """Return the present time as stored: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def record(db: sa.Connection, row: Mapping[str, Any]) -> None:
    """Add the present label of a question to the outcomes; part of the transaction that changes it."""
    if db.dialect.name == "postgresql":  # numbers in the order of commits: a mark must not pass over one that is still open
        db.exec_driver_sql(f"LOCK TABLE {OUTCOMES.name} IN SHARE ROW EXCLUSIVE MODE")
    names = ("run", "round", "number", "value", "status")
    db.execute(OUTCOMES.insert(), {name: row[name] for name in names} | {"time": now()})


class Outcomes(Database):
    """The outcomes and marks of a label store."""

    def newest(self, run: str) -> int:
        """Return the number of a run's newest outcome; 0 without one."""
        with self._reading() as db:
            return int(db.scalar(sa.select(sa.func.max(OUTCOMES.c.id)).where(OUTCOMES.c.run == run)) or 0)

    def mark(self, run: str, round: int, outcome: int) -> None:  # noqa: A002 - as in AskKey
        """Record the newest outcome that a round has learned from; a round that has a mark keeps it."""
        at = sa.and_(MARKS.c.run == run, MARKS.c.round == round)
        with self._writing() as db:
            if db.scalar(sa.select(MARKS.c.outcome).where(at)) is None:
                db.execute(MARKS.insert().values(run=run, round=round, outcome=outcome, time=now()))

    def answered(self, run: str, round: int, numbers: Sequence[int] | None = None) -> tuple[int, int]:  # noqa: A002
        """Return how many questions a round of a run has asked, and how many of them are answered; of ``numbers`` if given."""
        where = [QUESTIONS.c.run == run, QUESTIONS.c.round == round]
        if numbers is not None:
            where.append(QUESTIONS.c.number.between(min(numbers), max(numbers)))
        done = sa.func.sum(sa.case((QUESTIONS.c.status != int(Status.PENDING), 1), else_=0))
        with self._reading() as db:
            asked, found = db.execute(sa.select(sa.func.count(), done).where(*where)).one()
        return int(asked), int(found or 0)

    def usable(self, run: str) -> int:
        """Return how many questions of a run have an answer to learn from: a preference, an equal one or a rating."""
        told = QUESTIONS.c.status.in_([int(Status.ANSWERED), int(Status.EQUAL)])
        with self._reading() as db:
            return int(db.scalar(sa.select(sa.func.count()).select_from(QUESTIONS).where(QUESTIONS.c.run == run, told)) or 0)

    def marks(self, run: str) -> dict[int, int]:
        """Return the marks of a run by round."""
        with self._reading() as db:
            rows = db.execute(sa.select(MARKS.c.round, MARKS.c.outcome).where(MARKS.c.run == run)).all()
        return {int(round_): int(outcome) for round_, outcome in rows}

    def as_of(self, questions: Questions, run: str, mark: int, before_round: int | None = None) -> Questions:
        """Return questions with the labels that they had at a mark; those answered later are pending.

        Args:
            questions: of any run; those of ``run`` are its own.
            run: the run's name.
            mark: newest outcome that counts.
            before_round: only of the rounds before; the others keep their present labels. All when None.
        """
        later = sa.select(OUTCOMES.c.round, OUTCOMES.c.number).where(OUTCOMES.c.run == run, OUTCOMES.c.id > mark).distinct()
        with self._reading() as db:
            changed = {(row.round, row.number) for row in db.execute(later)}
            if not changed:
                return questions
            last = sa.select(sa.func.max(OUTCOMES.c.id)).where(OUTCOMES.c.run == run, OUTCOMES.c.id <= mark)
            last = last.group_by(OUTCOMES.c.round, OUTCOMES.c.number)
            rows = db.execute(sa.select(OUTCOMES).where(OUTCOMES.c.id.in_(last))).all()
        known = {(row.round, row.number): row for row in rows}
        value, status = questions.value.clone(), questions.status.clone()
        names = zip(questions.own.tolist(), questions.round.tolist(), questions.number.tolist(), strict=True)
        for place, (own, round_, number) in enumerate(names):
            if own and (round_, number) in changed and (before_round is None or round_ < before_round):
                row = known.get((round_, number))
                status[place] = int(Status.PENDING) if row is None else row.status
                value[place] = math.nan if row is None or row.value is None else row.value
        return Questions(*questions[:-2], value, status)
