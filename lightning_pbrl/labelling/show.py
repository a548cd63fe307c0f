"""Tables of a label store: questions by run, answers by person, agreement."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.labelling.agreement import agreement
from lightning_pbrl.labelling.formats.records import Given, Record


def tables(records: Sequence[Record], answers: Sequence[Given]) -> Iterator[RenderableType]:
    """Yield the tables of a store.

    Args:
        records: all questions.
        answers: all answers of all persons.
    """
    yield by_run(records)
    if answers:
        yield by_person(answers)
    for kind in sorted({each.kind for each in answers}):
        found = agreement(answers, kind)
        if not found.shared:
            continue
        yield (
            f"Agreement about {found.shared} shared {kind}s: {found.equal:.0%} equal, "
            f"Fleiss' kappa {_number(found.fleiss)}, Krippendorff's alpha {_number(found.alpha)}"
        )
        for (one, two), (kappa, common) in found.cohen.items():
            yield f"  Cohen's kappa of {_name(one)} and {_name(two)}: {_number(kappa)} ({common} questions)"


def by_run(records: Iterable[Record]) -> Table:
    """Return the questions of each run and kind, by status."""
    counts: dict[tuple[str, str], dict[Status, int]] = {}
    for row in records:
        found = counts.setdefault((row["run"], row["kind"]), dict.fromkeys(Status, 0))
        found[Status(row["status"])] += 1
    table = _table("questions", "run", "kind", "asked", "answered", "equal", "skipped", "pending")
    for (run, kind), found in counts.items():
        shown = (sum(found.values()), *(found[s] for s in (Status.ANSWERED, Status.EQUAL, Status.SKIPPED, Status.PENDING)))
        table.add_row(_name(run), kind, *map(str, shown))
    return table


def by_person(answers: Iterable[Given]) -> Table:
    """Return the answers of each person in each run.

    ``first`` is the share of the first segment among strict preferences, ``left`` that of the left side where it is known, and
    ``seconds`` the median time.
    """
    groups: dict[tuple[str, str], list[Given]] = {}
    for each in answers:
        groups.setdefault((each.person, each.key[0]), []).append(each)
    table = _table("answers", "by", "run", "answers", "equal", "skipped", "first", "left", "seconds")
    for (person, run), found in sorted(groups.items()):
        strict = [each for each in found if kinds.of(each.kind).clips == 2 and each.status == Status.ANSWERED]
        sides = [((each.value or 0) > 0.5) == each.swapped for each in strict if each.swapped is not None]
        seconds = [each.seconds for each in found if each.seconds is not None]
        table.add_row(
            _name(person),
            _name(run),
            str(len(found)),
            *(_share([each.status == status for each in found]) for status in (Status.EQUAL, Status.SKIPPED)),
            _share([(each.value or 0) < 0.5 for each in strict]),
            _share(sides),
            f"{statistics.median(seconds):.1f}" if seconds else "-",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at < 2 else "right", overflow="fold")
    return table


def _share(marks: Sequence[bool]) -> str:
    return f"{sum(marks) / len(marks):.0%}" if marks else "-"


def _number(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.2f}"


def _name(text: str) -> str:
    """Return a text from a file as it can be printed."""
    return escape(text if text.isprintable() else ascii(text)[1:-1])
