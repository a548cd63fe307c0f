"""Overview of people's answers, for a researcher: who answered how much, how fast, how alike."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning_pbrl.data.feedback import Status


class PersonOverview(NamedTuple):
    """One person's answers: number, median seconds, shares of "cannot tell" and of the side shown first (position bias)."""

    name: str
    answers: int
    seconds: float
    skipped: float
    left: float


class Overview(NamedTuple):
    """All people's answers.

    Attributes:
        persons: by name.
        agreement: share of pairs of people who answered a question alike; NaN where nobody shared one.
        asked: questions in the store; ``labelled`` of them have a label and ``closed`` are closed.
    """

    persons: list[PersonOverview]
    agreement: float
    asked: int
    labelled: int
    closed: int


def overview(answers: Iterable[Mapping[str, Any]], asked: int, labelled: int, closed: int) -> Overview:
    """Return the overview of all answers, of which the newest of each person and question counts."""
    newest = {(row["person"], row["run"], row["round"], row["number"]): row for row in answers}
    mine: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    shared: dict[tuple[Any, ...], list[tuple[Any, Any]]] = defaultdict(list)
    for (person, *key), row in newest.items():
        mine[person].append(row)
        shared[tuple(key)].append((row["value"], row["status"]))
    pairs = [one == two for each in shared.values() for i, one in enumerate(each) for two in each[:i]]
    persons = [_about(name, mine[name]) for name in sorted(mine)]
    return Overview(persons, sum(pairs) / len(pairs) if pairs else float("nan"), asked, labelled, closed)


def _about(name: str, rows: Sequence[Mapping[str, Any]]) -> PersonOverview:
    """Return the numbers of one person's newest answers."""
    skipped = sum(row["status"] == Status.SKIPPED for row in rows)
    chosen = [row["value"] == (1.0 if row["swapped"] else 0.0) for row in rows if row["value"] in (0.0, 1.0)]
    left = sum(chosen) / len(chosen) if chosen else float("nan")
    return PersonOverview(name, len(rows), statistics.median(row["seconds"] for row in rows), skipped / len(rows), left)
