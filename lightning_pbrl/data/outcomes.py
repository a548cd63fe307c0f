"""Outcomes: the changes of questions' labels after they were asked, and which of them each round of a run has learned from.

A round that has ended marks the newest outcome that it has seen. A run that is repeated reads each label as it was then: it
sees the same answers in the same rounds, whatever people have answered or changed since.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa

from lightning_pbrl.data.database import Database
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.questions import Questions
from lightning_pbrl.data.tables import ANSWERS, COUNTED, ENDED, MARKS, OUTCOMES, QUESTIONS

Ended = Literal["asked", "ended"]
"""State of a run that asks nothing more: all is asked, and it may go on learning; or its fit has ended."""
NAME = ("run", "round", "number")
"""Columns that name a question."""


SEVERAL = sa.exists(sa.select(COUNTED.c.outcome)).label("several")
"""Column that is true if any question has several answers that count each on its own."""


def now() -> str:
    """Return the present time as stored: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def record(db: sa.Connection, row: Mapping[str, Any]) -> int:
    """Add the present label of a question to the outcomes, part of the transaction that changes it; return its number."""
    if db.dialect.name == "postgresql":  # numbers in the order of commits: a mark must not pass over one that is still open
        db.exec_driver_sql(f"LOCK TABLE {OUTCOMES.name} IN SHARE ROW EXCLUSIVE MODE")
    added = db.execute(OUTCOMES.insert(), {name: row[name] for name in (*NAME, "value", "status")} | {"time": now()})
    return int(added.inserted_primary_key[0])  # type: ignore[index]


def newest_of(*where: sa.ColumnElement[bool]) -> Any:
    """Return the selection of the newest outcome of each question among those that fulfil the conditions."""
    names = [OUTCOMES.c[name] for name in NAME]
    return sa.select(*names, sa.func.max(OUTCOMES.c.id).label("id")).where(*where).group_by(*names)


def count_each(db: sa.Connection, row: Mapping[str, Any], answers: Iterable[int]) -> None:
    """Let answers to a question count each on its own, or with none of them its label; part of the same transaction."""
    newest = newest_of(*(OUTCOMES.c[name] == row[name] for name in NAME)).subquery()
    before = set(db.scalars(sa.select(COUNTED.c.answer).join(newest, newest.c.id == COUNTED.c.outcome)))
    if (now_ := set(answers)) != before:
        outcome = record(db, row)
        for answer in sorted(now_):
            db.execute(COUNTED.insert().values(outcome=outcome, answer=answer))


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

    def usable(self, run: str, from_round: int = 0) -> int:
        """Return how many questions that a run has asked from a round on have an answer to learn from.

        Such answers are preferences, equal ones and ratings.
        """
        told = QUESTIONS.c.status.in_([int(Status.ANSWERED), int(Status.EQUAL)])
        with self._reading() as db:
            return int(
                db.scalar(
                    sa.select(sa.func.count())
                    .select_from(QUESTIONS)
                    .where(QUESTIONS.c.run == run, QUESTIONS.c.round >= from_round, told)
                )
                or 0
            )

    def said(self, outcomes: Iterable[int]) -> dict[int, list[tuple[float, int]]]:
        """Return values, NaN where there is none, and statuses of the answers that count each on its own, by outcome."""
        found: dict[int, list[tuple[float, int]]] = {}
        chosen = sa.select(COUNTED.c.outcome, ANSWERS.c.value, ANSWERS.c.status).order_by(ANSWERS.c.id)
        chosen = chosen.join(ANSWERS, ANSWERS.c.id == COUNTED.c.answer)
        wanted = set(outcomes) - {0}
        if wanted:
            with self._reading() as db:
                for outcome, value, status in db.execute(chosen.where(COUNTED.c.outcome >= min(wanted))):
                    if outcome in wanted:
                        found.setdefault(outcome, []).append((math.nan if value is None else value, status))
        return found

    def _counted(self, db: sa.Connection) -> dict[tuple[str, int, int], int]:
        """Return the newest outcome of each question whose answers count each on its own."""
        newest = newest_of().subquery()
        chosen = sa.select(newest).where(sa.exists().where(COUNTED.c.outcome == newest.c.id))
        return {(row.run, row.round, row.number): row.id for row in db.execute(chosen)}

    def ended(self, run: str) -> Ended | None:
        """Return the state of a run that asks nothing more; None for one that asks."""
        with self._reading() as db:
            return db.scalar(sa.select(ENDED.c.how).where(ENDED.c.run == run))

    def end(self, run: str, how: Ended | None) -> None:
        """Record that a run asks nothing more, or with None that it asks again."""
        with self._writing() as db:
            db.execute(ENDED.delete().where(ENDED.c.run == run))
            if how is not None:
                db.execute(ENDED.insert().values(run=run, how=how, time=now()))

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
            last = sa.select(newest_of(OUTCOMES.c.run == run, OUTCOMES.c.id <= mark).subquery().c.id)
            each = sa.exists().where(COUNTED.c.outcome == OUTCOMES.c.id).label("each")
            rows = db.execute(sa.select(OUTCOMES, each).where(OUTCOMES.c.id.in_(last))).all()
        known = {(row.round, row.number): row for row in rows}
        value, status, apart = questions.value.clone(), questions.status.clone(), questions.each.clone()
        names = zip(questions.own.tolist(), questions.round.tolist(), questions.number.tolist(), strict=True)
        for place, (own, round_, number) in enumerate(names):
            if own and (round_, number) in changed and (before_round is None or round_ < before_round):
                row = known.get((round_, number))
                status[place] = int(Status.PENDING) if row is None else row.status
                value[place] = math.nan if row is None or row.value is None else row.value
                apart[place] = row.id if row is not None and row.each else 0
        return Questions(*questions[:-3], value, status, apart)
