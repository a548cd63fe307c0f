"""Labels of questions, settled from the answers of several people."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from lightning_pbrl.data.feedback import Kind, Status
from lightning_pbrl.data.outcomes import now, record
from lightning_pbrl.data.tables import ANSWERS, QUESTIONS
from lightning_pbrl.labelling.interface import Key
from lightning_pbrl.labelling.questions import key_of
from lightning_pbrl.labelling.statements import GIVEN, LABEL, LABEL_PENDING, SAME_LABEL, named


class Rule(NamedTuple):
    """Rule by which answers become labels.

    Attributes:
        overlap: people who must have answered a question.
        gold: person whose answer stands, whatever others say; None for nobody.
    """

    overlap: int = 1
    gold: str | None = None

    def settle(self, db: sa.Connection, question: Any, given: Iterable[Any] | None = None) -> None:
        """Set the label of a question from the newest answer of each person, if there are enough.

        Args:
            db: connection that writes.
            question: row of its table.
            given: rows of all answers to it, in their order; read when None.
        """
        key = key_of(question)
        rows = db.execute(GIVEN, named(key)).mappings() if given is None else given
        newest = {row["person"]: (row["value"], Status(row["status"])) for row in rows if row["purpose"] == "label"}
        if self.gold in newest:
            set_label(db, key, *newest[self.gold], str(self.gold))
        elif len(newest) >= self.overlap and not self.stands(question["answered_by"], question["status"]):
            set_label(db, key, *majority(question["kind"], list(newest.values())), ", ".join(newest))

    def stands(self, answered_by: str, status: int) -> bool:
        """Return True if a label is that of the person whose answer stands."""
        return answered_by == self.gold and status != Status.PENDING

    def adopt(self, db: sa.Connection) -> None:
        """Settle every question that the person whose answer stands has answered, perhaps before that was known."""
        if self.gold is not None:
            same = [ANSWERS.c[part] == QUESTIONS.c[part] for part in Key._fields]
            theirs = sa.exists().where(*same, ANSWERS.c.person == self.gold, ANSWERS.c.purpose == "label")
            for question in db.execute(sa.select(QUESTIONS).where(theirs)).mappings().all():
                self.settle(db, question)


def set_label(
    db: sa.Connection, key: Key, value: float | None, status: Status, answered_by: str, only_pending: bool = False
) -> None:
    """Write a question's label and who gave it, and record a change of the label as an outcome."""
    about = {"new_value": value, "new_status": int(status), "new_by": answered_by[:256], "new_time": now()}
    if db.execute(LABEL_PENDING if only_pending else LABEL, named(key) | about).rowcount:
        record(db, {**key._asdict(), "value": value, "status": int(status)})
    elif not only_pending:
        db.execute(SAME_LABEL, named(key) | {"new_by": about["new_by"]})


def majority(kind: Kind, answers: Sequence[tuple[float | None, Status]]) -> tuple[float | None, Status]:
    """Return the answer that most people gave, value and status.

    "Cannot tell" wins only if nobody could. A pair with as many answers for either side is equal. Of ratings the mean counts.
    """
    told = [(value, status) for value, status in answers if status != Status.SKIPPED and value is not None]
    if not told:
        return None, Status.SKIPPED
    if kind == "rating":
        return statistics.fmean(value for value, _ in told), Status.ANSWERED
    (first, count), *others = Counter(told).most_common()
    return (0.5, Status.EQUAL) if others and others[0][1] == count else first
