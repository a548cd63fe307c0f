"""Questions as people see them, and the fate of their answers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from lightning_pbrl.data.feedback import Kind, Status
from lightning_pbrl.rng import derive

Role = Literal["labeller", "researcher"]


class Key(NamedTuple):
    """Name of a question."""

    run: str
    round: int
    number: int


class OpenQuestion(NamedTuple):
    """A question as one person is asked it.

    Attributes:
        key: its name.
        kind: "pair" or "rating".
        length: steps per segment.
        start: row ids of the segments' first steps, one or two.
        swapped: show the second segment on the left; the same whenever this person sees it.
        answer: this person's present answer, value and status; None without one.
        revision: revision of that answer; -1 without one.
    """

    key: Key
    kind: Kind
    length: int
    start: tuple[int, ...]
    swapped: bool
    answer: tuple[float | None, Status] | None
    revision: int = -1
    practice: bool = False


class Person(NamedTuple):
    """A person who may answer."""

    name: str
    role: Role


class Kept(NamedTuple):
    """Fate of an answer.

    Attributes:
        how: kept; again (the same answer was there, as after a double click); late (another revision came first); closed; or
            unknown (no such question).
        revision: the present revision of this person's answer.
    """

    how: Literal["kept", "again", "late", "closed", "unknown"]
    revision: int


class Progress(NamedTuple):
    """Counts of one person's run.

    Attributes:
        answered: questions that this person has answered.
        asked: questions of the run.
        open: questions that this person could still answer.
        waits_for: questions of the newest round that still have no label.
    """

    answered: int
    asked: int
    open: int
    waits_for: int


def question_for(row: Any, person: str, last: Any) -> OpenQuestion:
    """Return a row as one person sees it."""
    key = Key(row["run"], row["round"], row["number"])
    start = (row["start_0"],) if row["start_1"] is None else (row["start_0"], row["start_1"])
    swapped = is_swapped(key, person) and len(start) == 2
    answer = None if last is None else (last["value"], Status(last["status"]))
    return OpenQuestion(key, row["kind"], row["length"], start, swapped, answer, -1 if last is None else int(last["revision"]))


def is_swapped(key: Key, person: str) -> bool:
    """Return the side on which a person sees a question's first segment: by chance, the same every time."""
    return bool(derive(0, "side", key.run, key.round, key.number, person) & 1)


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
