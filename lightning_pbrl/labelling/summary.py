"""Numbers of people's answers for a researcher: who answered how much, how fast, how alike."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_pbrl.data.feedback import Kind, Status
from lightning_pbrl.labelling.agreement import agreement
from lightning_pbrl.labelling.formats.records import Given
from lightning_pbrl.labelling.interface import PersonSummary


def summaries(answers: Iterable[Mapping[str, Any]]) -> list[PersonSummary]:
    """Return the numbers of each person's newest answers, by name."""
    mine: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in _newest(answers):
        mine[row["person"]].append(row)
    return [_summary(name, mine[name]) for name in sorted(mine)]


def agreed(answers: Iterable[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Return Fleiss' kappa and Krippendorff's alpha of the pairs, or of the ratings where there are no pairs; None undefined."""
    rows = _newest(answers)
    kind: Kind = "pair" if any(row["kind"] == "pair" for row in rows) else "rating"
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
    """Return the newest answer of each person to each question."""
    return list({(row["person"], row["run"], row["round"], row["number"]): row for row in answers}.values())


def _summary(name: str, rows: Sequence[Mapping[str, Any]]) -> PersonSummary:
    """Return the numbers of one person's answers."""
    skipped = sum(row["status"] == Status.SKIPPED for row in rows) / len(rows)
    first = [
        row["value"] == (1.0 if row["swapped"] else 0.0) for row in rows if row["value"] in (0.0, 1.0) and row["kind"] == "pair"
    ]
    share = sum(first) / len(first) if first else None
    return PersonSummary(name, len(rows), statistics.median(row["seconds"] for row in rows), skipped, share, None)
