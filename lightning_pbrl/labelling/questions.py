"""Questions as each person sees them, and the conditions by which the store's tables name them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.jsonl import starts
from lightning_pbrl.data.tables import CLOSED, QUESTIONS
from lightning_pbrl.labelling.interface import Key, OpenQuestion, Purpose
from lightning_pbrl.rng import derive

ALL = -1
"""Round and number of the entry that closes all questions of a run."""


def question_for(row: Any, person: str, last: Any, purpose: Purpose = "label") -> OpenQuestion:
    """Return a row as one person sees it.

    Args:
        row: of the table of questions.
        person: name of the person.
        last: the person's newest answer of this purpose, a row of the table of answers; None without one.
        purpose: of the person's answer.
    """
    key = key_of(row)
    start = tuple(starts(row))
    swapped = is_swapped(key, person, purpose) and len(start) > 1
    found = OpenQuestion(key, row["kind"], row["length"], start, swapped, purpose=purpose)
    if purpose == "practice":
        found = found._replace(expected=(row["value"], Status(row["status"])))
    if last is None:
        return found
    answer, strength = (last["value"], Status(last["status"])), last["strength"]
    return found._replace(answer=answer, revision=int(last["revision"]) + 1, strength=strength)


def is_swapped(key: Key, person: str, purpose: Purpose = "label") -> bool:
    """Return whether a person sees a question's segments in reverse: by chance, the same every time; anew for a repeat."""
    again = ["repeat"] if purpose == "repeat" else []
    return bool(derive(0, "side", *key, person, *again) & 1)


def key_of(row: Any) -> Key:
    """Return the name of the question that a row is about."""
    return Key(row["run"], row["round"], row["number"])


def at(table: sa.Table, key: Key) -> list[Any]:
    """Return the conditions that a row is about a question."""
    return [table.c[part] == value for part, value in key._asdict().items()]


def closed() -> Any:
    """Return the condition that nobody is asked about a row of questions any more."""
    one = sa.and_(CLOSED.c.round == QUESTIONS.c.round, CLOSED.c.number == QUESTIONS.c.number)
    return sa.exists().where(CLOSED.c.run == QUESTIONS.c.run, sa.or_(one, CLOSED.c.round == ALL))
