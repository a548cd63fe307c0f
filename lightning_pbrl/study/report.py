"""Report what a grid has found: for each key and value the mean over all runs that had it, whatever the other keys were."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from lightning_pbrl import run_folder
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.metrics import Run, is_run, read_metrics, read_results, run_at
from lightning_pbrl.reports.statistics import mean, standard_deviation
from lightning_pbrl.reports.tables import finals, number_text, physics_note
from lightning_pbrl.study.file import Study
from lightning_pbrl.study.naming import value_names
from lightning_pbrl.study.plan import Trial

METRICS = ("success_rate", "return_mean", "accuracy")
"""Reported when nothing is asked for: the first that the runs have."""

WINDOW = 5
"""Evaluations of the running mean whose best is reported."""

LEVELS = 8
"""A key with more values, as drawn ones have, is reported in four groups of neighbouring values."""


class Marginal(NamedTuple):
    """One line of the report.

    Attributes:
        stage: of an experiment; empty for a config.
        key: dotted key, or ``base``.
        value: its value, or a range.
        runs: how many have been measured, without those that a search has pruned.
        final: mean over them of the final value (tested, else the mean of the last evaluations).
        spread: its standard deviation over them.
        best: mean over them of the best running mean while they trained; NaN without evaluations.
        pruned: how many a search has ended early; they enter no mean.
    """

    stage: str
    key: str
    value: str
    runs: int
    final: float
    spread: float
    best: float
    pruned: int


def marginals(study: Study, trials: Sequence[Trial], metric: str) -> list[Marginal]:
    """One line per stage, key and value that has been measured, or pruned; keys with one value are left out.

    As soon as some runs of a stage have been tested, only tested ones count: what is compared has run to its end.
    """
    measured: dict[str, list[tuple[Trial, Run]]] = {}
    for trial in trials:
        base = study.bases[trial.point.base]
        for stage, job in zip(base.stages, trial.jobs, strict=True):
            if is_run(job.folder) or run_folder.pruned(job.folder):
                measured.setdefault(stage, []).append((trial, run_at(job.folder)))
    rows = []
    for name, all_runs in measured.items():
        whole = [pair for pair in all_runs if not pair[1].pruned]
        runs = [pair for pair in whole if read_results(pair[1].path)] or whole
        for key, value, found in _levels(study, runs + [pair for pair in all_runs if pair[1].pruned]):
            chosen = [run for run in found if not run.pruned]
            values = next(iter(finals(chosen, metric).values()), []) if chosen else []
            pruned = len(found) - len(chosen)
            if values or pruned:
                best = [each for run in chosen if (each := _best(run, metric)) is not None]
                final = (float(mean(values)), standard_deviation(values)) if values else (math.nan, math.nan)
                top = float(mean(best)) if best else math.nan
                rows.append(Marginal(name, key, value, len(values), *final, top, pruned))
    return rows if any(row.runs for row in rows) else []


def _levels(study: Study, runs: Sequence[tuple[Trial, Run]]) -> Iterator[tuple[str, str, list[Run]]]:
    """Key, value and its runs, for the base and every key with more than one value."""
    if len(study.bases) > 1:
        for base in study.bases:
            yield "base", base, [run for trial, run in runs if trial.point.base == base]
    for number, axis in enumerate(study.axes):
        for at, key in enumerate(axis.keys):
            column = [point[at] for point in axis.values]
            names = value_names(column)
            groups = {name: {k for k, other in enumerate(names) if other == name} for name in dict.fromkeys(names)}
            if len(groups) > LEVELS and all(type(value) in (int, float) for value in column):
                order = sorted(range(len(column)), key=lambda k: column[k])
                parts = [[int(k) for k in part] for part in np.array_split(order, 4)]
                groups = {f"{column[part[0]]:g} to {column[part[-1]]:g}": set(part) for part in parts}
            for name, places in groups.items() if len(groups) > 1 else ():
                yield key, name, [run for trial, run in runs if trial.point.place[number] in places]


def _best(run: Run, metric: str) -> float | None:
    """Return the highest mean of :data:`WINDOW` neighbouring evaluations (of all, where there are fewer)."""
    metrics = read_metrics(run.path)
    series = next((metrics[name] for prefix in ("eval", "pref") if (name := f"{prefix}/{metric}") in metrics), None)
    if series is None:
        return None
    width = min(WINDOW, len(series.value))
    return float(np.convolve(series.value, np.full(width, 1 / width), mode="valid").max())


def report_values(
    study: Study, trials: Sequence[Trial], out: Path, metric: str | None = None, console: Console | None = None
) -> list[Marginal]:
    """Print the report, and write it to ``marginals.csv`` in the study's folder.

    Raises:
        UserError: when no run that was not pruned has the metric.
    """
    rows: list[Marginal] = []
    name = ""
    for name in [metric.rsplit("/", 1)[-1]] if metric else METRICS:
        if rows := marginals(study, trials, name):
            break
    if not rows:
        if len(study.bases) == 1 and not any(len(axis.values) > 1 for axis in study.axes):
            raise UserError(f"--report compares values, and no key of {study.path} has two: see `lightning-pbrl report {out}`.")
        wanted = metric or ", ".join(METRICS)
        raise UserError(f"No run below {out} has a value of {wanted} yet; run the study first.")
    caption = f"final: tested, else last evaluations; best: highest mean of {WINDOW} neighbouring evaluations"
    if name == "normalized_score":
        folders = [job.folder for trial in trials for job in trial.jobs]
        caption += physics_note([results for folder in folders if (results := read_results(folder))])
    table = Table(title=f"{name}: mean over all runs with a value", caption=caption)
    columns = ("stage", "key", "value", "runs", "final ± sd", "best", "pruned")
    shown = [columns[0]] * any(row.stage for row in rows) + [*columns[1:-1]] + [columns[-1]] * any(row.pruned for row in rows)
    for column in shown:
        table.add_column(column, justify="right" if column in columns[3:] else "left")
    for row in rows:
        final = f"{number_text(row.final)} ± {number_text(row.spread)}" if row.runs else "-"
        cells = [row.stage, row.key, row.value, str(row.runs), final, number_text(row.best), str(row.pruned)]
        table.add_row(*(cell for column, cell in zip(columns, cells, strict=True) if column in shown))
    (console or Console()).print(table)
    with replacing(out / "marginals.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("metric", *Marginal._fields))
        writer.writerows((name, *row) for row in rows)
    return rows
