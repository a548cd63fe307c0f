"""Questions as each person sees them, and the label that several answers make."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lightning_pbrl.data.feedback import Kind, Status
from lightning_pbrl.labelling.interface import Key, OpenQuestion
from lightning_pbrl.rng import derive


def question_for(row: Any, person: str, last: Any) -> OpenQuestion:
    """Return a row as one person sees it."""
    key = Key(row["run"], row["round"], row["number"])
    start = (row["start_0"],) if row["start_1"] is None else (row["start_0"], row["start_1"])
    swapped = is_swapped(key, person) and len(start) == 2
    answer = None if last is None else (last["value"], Status(last["status"]))
    revision = 0 if last is None else int(last["revision"]) + 1
    return OpenQuestion(key, row["kind"], row["length"], start, swapped, answer, revision=revision)


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
