"""Statements that the page sends to a label store for every answer, built once: building one costs more than running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.tables import ANSWERS, QUESTIONS
from lightning_pbrl.labelling.interface import Key
from lightning_pbrl.labelling.questions import closed

NAME = {part: f"at_{part}" for part in Key._fields}
"""Parameters that name a question."""
SHOWN = [QUESTIONS.c[name] for name in ("run", "round", "number", "kind", "length", "start_0", "start_1", "others")]
"""Columns of a question that people see."""


def named(key: Key) -> dict[str, Any]:
    """Return the parameters of the statements about a question."""
    return dict(zip(NAME.values(), key, strict=True))


def _at(table: sa.Table) -> list[Any]:
    """Return the conditions that a row is about the named question."""
    return [table.c[part] == sa.bindparam(name) for part, name in NAME.items()]


QUESTION = sa.select(QUESTIONS, closed().label("closed")).where(*_at(QUESTIONS))
"""A question, and whether it is closed."""
GIVEN = sa.select(ANSWERS).where(*_at(ANSWERS)).order_by(ANSWERS.c.id)
"""Every answer to a question, in the order in which they were given."""
_VALUE, _STATUS = (sa.bindparam(f"new_{name}", type_=QUESTIONS.c[name].type) for name in ("value", "status"))
_DIFFERS = sa.or_(QUESTIONS.c.value.is_distinct_from(_VALUE), QUESTIONS.c.status != _STATUS)
LABEL = QUESTIONS.update().where(*_at(QUESTIONS), _DIFFERS)
LABEL = LABEL.values(value=_VALUE, status=_STATUS, answered_by=sa.bindparam("new_by"), time=sa.bindparam("new_time"))
"""Change of a question's label; of no row where it is the same."""
LABEL_PENDING = LABEL.where(QUESTIONS.c.status == int(Status.PENDING))
"""The same, of a question without a label."""
SAME_LABEL = QUESTIONS.update().where(*_at(QUESTIONS), QUESTIONS.c.answered_by != sa.bindparam("new_by"))
SAME_LABEL = SAME_LABEL.values(answered_by=sa.bindparam("new_by"))
"""Change of who is named with a label that stays."""


def open_questions(overlap: int, run: str | None, further: Sequence[Any] = ()) -> Any:
    """Return the selection of questions that the parameter ``person`` could answer, with the number of people who have.

    Args:
        overlap: people who answer each question.
        run: of this run only; of all when None.
        further: conditions that a question fulfils, too.
    """
    same = [ANSWERS.c[part] == QUESTIONS.c[part] for part in Key._fields]
    given = sa.select(sa.func.count(ANSWERS.c.person.distinct())).where(*same, ANSWERS.c.purpose == "label").scalar_subquery()
    own = sa.exists().where(*same, ANSWERS.c.person == sa.bindparam("person"))
    wanted = QUESTIONS.c.status == int(Status.PENDING)
    if overlap > 1:
        wanted = sa.or_(wanted, sa.and_(given > 0, given < overlap))
    where = [wanted, ~own, ~closed(), *further, *([] if run is None else [QUESTIONS.c.run == run])]
    return sa.select(*SHOWN, given.label("given")).where(*where)


def first(questions: Any) -> Any:
    """Return the selection of the first ``most`` of some questions from the named one on, the oldest first."""
    order = [QUESTIONS.c[part] for part in Key._fields]
    named_or_later = sa.tuple_(*order) >= sa.tuple_(*(sa.bindparam(name) for name in NAME.values()))
    return questions.where(named_or_later).order_by(*order).limit(sa.bindparam("most"))


def answered(run: str | None) -> Any:
    """Return the number of questions for labels that the parameter ``person`` has answered."""
    own = [
        ANSWERS.c.person == sa.bindparam("person"),
        ANSWERS.c.purpose == "label",
        *([] if run is None else [ANSWERS.c.run == run]),
    ]
    return sa.select(sa.func.count()).select_from(ANSWERS).where(*own, ANSWERS.c.revision == 0)


def counts(questions: Any, run: str | None) -> Any:
    """Return how many questions were asked, how many of ``questions`` there are, and how many the newest round waits for."""
    runs = [] if run is None else [QUESTIONS.c.run == run]
    asked = sa.select(sa.func.count()).select_from(QUESTIONS).where(*runs)
    newest = sa.select(sa.func.max(QUESTIONS.c.round)).where(*runs).scalar_subquery()
    waits = asked.where(QUESTIONS.c.status == int(Status.PENDING), QUESTIONS.c.round == newest)
    left = sa.select(sa.func.count()).select_from(questions.subquery())
    return sa.select(*(part.scalar_subquery() for part in (asked, left, waits)))
