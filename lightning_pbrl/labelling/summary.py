"""Numbers of people's answers for a researcher: who answered how much, how fast, how alike."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Kind, Status
from lightning_pbrl.labelling.agreement import agreement
from lightning_pbrl.labelling.formats.records import Given
from lightning_pbrl.labelling.interface import Key, PersonSummary
from lightning_pbrl.labelling.questions import key_of


def summaries(
    answers: Iterable[Mapping[str, Any]], expected: Mapping[Key, tuple[float | None, int]] | None = None
) -> list[PersonSummary]:
    """Return the numbers of each person's newest answers, by name.

    Args:
        answers: of all purposes, in the order in which they were given.
        expected: answers of the expert, value and status, by gold question.
    """
    mine: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in _newest(answers):
        mine[row["person"]].append(row)
    return [_summary(name, mine[name], expected or {}) for name in sorted(mine)]


def agreed(answers: Iterable[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Return Fleiss' kappa and Krippendorff's alpha of the pairs, or without pairs of another kind; None undefined."""
    rows = [row for row in _newest(answers) if row["purpose"] == "label"]
    there = {row["kind"] for row in rows}
    kind: Kind = min(there - {"pair", "rating"} or {"rating"}) if "pair" not in there else "pair"
    given = [
        Given(
            (row["run"], row["round"], row["number"]),
            row["kind"],
            row["person"],
            row["value"],
            Status(row["status"]),
            row["seconds"],
        )
        for row in rows
    ]
    found = agreement(given, kind)
    kappa, alpha = (None if math.isnan(number) else number for number in (found.fleiss, found.alpha))
    return kappa, alpha


def _newest(answers: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the newest answer of each person to each question, for each purpose."""
    return list({(row["person"], row["purpose"], key_of(row)): row for row in answers}.values())


def _summary(name: str, rows: Sequence[Mapping[str, Any]], expected: Mapping[Key, tuple[float | None, int]]) -> PersonSummary:
    """Return the numbers of one person's answers."""
    labels = {key_of(row): row for row in rows if row["purpose"] == "label"}
    seconds = [row["seconds"] for row in labels.values() if row["seconds"] is not None]
    strict = [row for row in labels.values() if row["value"] not in (None, 0.5) and kinds.of(row["kind"]).clips == 2]
    first = [(row["value"] > 0.5) == bool(row["swapped"]) for row in strict if row["swapped"] is not None]
    gold = [_told(row) == expected[key_of(row)] for row in rows if row["purpose"] == "check" and key_of(row) in expected]
    again = [_told(row) == _told(labels[key_of(row)]) for row in rows if row["purpose"] == "repeat" and key_of(row) in labels]
    return PersonSummary(
        name,
        len(labels),
        statistics.median(seconds) if seconds else None,
        _share([row["status"] == Status.SKIPPED for row in labels.values()]),
        _share(first),
        _share(gold),
        _share(again),
    )


def _told(row: Mapping[str, Any]) -> tuple[float | None, int]:
    """Return value and status of an answer."""
    return row["value"], row["status"]


def _share(marks: Sequence[bool]) -> float | None:
    """Return the share of what is true; None of nothing."""
    return sum(marks) / len(marks) if marks else None
