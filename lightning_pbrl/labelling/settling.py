"""Labels of questions, settled from the answers of several people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import sqlalchemy as sa

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Kind, Status
from lightning_pbrl.data.outcomes import count_each, now, record
from lightning_pbrl.data.tables import ANSWERS, QUESTIONS
from lightning_pbrl.labelling.dawid_skene import dawid_skene
from lightning_pbrl.labelling.interface import Key
from lightning_pbrl.labelling.questions import key_of
from lightning_pbrl.labelling.statements import GIVEN, LABEL, LABEL_PENDING, SAME_LABEL, named

SAME = 1e-9
"""Difference of probabilities below which two answers are equally probable."""
Combine = Literal["majority", "dawid-skene", "each"]
Said = dict[str, tuple[float | None, Status]]
"""Newest answer of each person to a question, value and status."""


class Rule(NamedTuple):
    """Rule by which answers become labels.

    Attributes:
        overlap: people who must have answered a question.
        gold: person whose answer stands, whatever others say; None for nobody.
        combine: "majority", or "dawid-skene" for the most probable answer by the error rates of each person
            (:mod:`~lightning_pbrl.labelling.dawid_skene`). Those are estimated anew, from all questions of the run and kind
            that enough people have answered, with each of them; a later answer may change the labels of earlier questions.
            With "each", learners get the answer of each person as a label of its own, and the majority's is shown.
    """

    overlap: int = 1
    gold: str | None = None
    combine: Combine = "majority"

    def settle(self, db: sa.Connection, question: Any, given: Iterable[Any] | None = None) -> None:
        """Set the label of a question from the newest answer of each person, if there are enough.

        Args:
            db: connection that writes.
            question: row of its table.
            given: rows of all answers to it, in their order; read when None.
        """
        key = key_of(question)
        rows = db.execute(GIVEN, named(key)).mappings() if given is None or self.combine == "each" else given
        last = {row["person"]: row for row in rows if row["purpose"] == "label"}
        newest = {person: (row["value"], Status(row["status"])) for person, row in last.items()}
        said = {key: newest}
        if self.gold in newest:
            said, labels = {key: {str(self.gold): newest[self.gold]}}, {key: newest[self.gold]}
        elif len(newest) < self.overlap or self.stands(question["answered_by"], question["status"]):
            return
        elif self.combine == "dawid-skene":
            said |= self._complete(db, key.run, question["kind"])
            labels = likeliest(question["kind"], said)
        else:
            labels = {key: majority(question["kind"], list(newest.values()))}
        for each, label in labels.items():
            set_label(db, each, *label, ", ".join(said[each]))
        if self.combine == "each":
            value, status = labels[key]
            apart = [] if self.gold in newest else [row["id"] for row in last.values()]
            count_each(db, {**key._asdict(), "value": value, "status": int(status)}, apart)

    def _complete(self, db: sa.Connection, run: str, kind: Kind) -> dict[Key, Said]:
        """Return the answers to the questions of a run and kind that enough people have answered, and the expert has not."""
        same = sa.and_(*(ANSWERS.c[part] == QUESTIONS.c[part] for part in Key._fields))
        stands = sa.and_(QUESTIONS.c.answered_by == (self.gold or ""), QUESTIONS.c.status != int(Status.PENDING))
        where = [QUESTIONS.c.run == run, QUESTIONS.c.kind == kind, ANSWERS.c.purpose == "label", ~stands]
        found: dict[Key, Said] = {}
        for row in db.execute(sa.select(ANSWERS).join(QUESTIONS, same).where(*where).order_by(ANSWERS.c.id)).mappings():
            found.setdefault(key_of(row), {})[row["person"]] = row["value"], Status(row["status"])
        return {key: said for key, said in found.items() if len(said) >= self.overlap}

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


MAJORITY = Rule()


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

    "Cannot tell" wins only if nobody could. A pair with as many answers for either side is equal. Of ratings the mean counts, of
    graded pairs the median. Without a majority for the best of several nobody could tell.
    """
    told = [(value, status) for value, status in answers if status != Status.SKIPPED and value is not None]
    if not told:
        return None, Status.SKIPPED
    return kinds.of(kind).settle([value for value, _ in told])


def likeliest(kind: Kind, answers: Mapping[Key, Said]) -> dict[Key, tuple[float | None, Status]]:
    """Return the most probable answer to each question of one kind, value and status.

    "Cannot tell" is no answer, and wins only if nobody could. A pair with two most probable answers is equal; of such ratings the
    lowest counts.
    """
    told = {key: {who: value for who, (value, _) in said.items() if value is not None} for key, said in answers.items()}
    told = {key: values for key, values in told.items() if values}
    levels = sorted({value for values in told.values() for value in values.values()})
    people = sorted({who for values in told.values() for who in values})
    table = np.full((len(told), len(people)), -1)
    for place, values in enumerate(told.values()):
        for who, value in values.items():
            table[place, people.index(who)] = levels.index(value)
    found: dict[Key, tuple[float | None, Status]] = dict.fromkeys(answers, (None, Status.SKIPPED))
    if told:
        right, _ = dawid_skene(table, len(levels))
        for key, row in zip(told, right, strict=True):
            best = [level for level, share in zip(levels, row, strict=True) if share > row.max() - SAME]
            found[key] = kinds.of(kind).settle(best[:1] if kind == "rating" else best)
    return found
