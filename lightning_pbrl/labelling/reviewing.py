"""Questions that have a label, one after the other."""

from __future__ import annotations

import sqlalchemy as sa

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.tables import QUESTIONS
from lightning_pbrl.labelling.interface import Key, Reviewed
from lightning_pbrl.labelling.questions import key_of, question_for

NAME = tuple(QUESTIONS.c[part] for part in Key._fields)
"""Columns of a question's name, in the order in which questions are shown."""


def reviewed(db: sa.Connection, key: Key | None, run: str | None) -> Reviewed | None:
    """Return a question that has a label; None if there is no such question.

    Args:
        db: connection to a label store.
        key: of the question; the first when None.
        run: of this run only; of all when None.
    """
    labelled = [QUESTIONS.c.status != int(Status.PENDING), *([] if run is None else [QUESTIONS.c.run == run])]
    at = None if key is None else sa.tuple_(*NAME) == sa.tuple_(*map(sa.literal, key))
    row = (
        db.execute(sa.select(QUESTIONS).where(*labelled, *([] if at is None else [at])).order_by(*NAME).limit(1))
        .mappings()
        .first()
    )
    if row is None:
        return None
    here = key_of(row)
    name, own = sa.tuple_(*NAME), sa.tuple_(*map(sa.literal, here))
    count = sa.select(sa.func.count()).select_from(QUESTIONS).where(*labelled)
    first = sa.select(*NAME).where(*labelled).limit(1)
    before = db.execute(first.where(name < own).order_by(*(part.desc() for part in NAME))).first()
    after = db.execute(first.where(name > own).order_by(*NAME)).first()
    place, total = db.scalar(count.where(name <= own)), db.scalar(count)
    return Reviewed(
        question_for(row, "", None)._replace(swapped=False, answer=(row["value"], Status(row["status"]))),
        row["answered_by"],
        place or 0,
        total or 0,
        None if before is None else Key(*before),
        None if after is None else Key(*after),
    )
