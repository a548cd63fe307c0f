"""Numbers of a report: tasks, their stages, final values over seeds, comparisons with a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.reports.comparison import Improvement, improvement
from lightning_pbrl.reports.metrics import Run, find_runs, group, read_metrics
from lightning_pbrl.reports.run_facts import started, state, task_of
from lightning_pbrl.reports.statistics import Summary, summarise
from lightning_pbrl.reports.tables import DEFAULT_METRICS, OTHERWISE, finals

Stages = dict[str, list[Run]]
"""Name of a stage -> its runs, those alone that enter a mean."""


class Gathered(NamedTuple):
    """Runs of a report.

    Attributes:
        tasks: stages by task; one task without a name if the runs name none.
        left_out: run folders that enter no mean, with the reason.
    """

    tasks: dict[str, Stages]
    left_out: list[tuple[Path, str]]

    @property
    def stages(self) -> Stages:
        """All stages of all tasks."""
        return {name: runs for stages in self.tasks.values() for name, runs in stages.items()}


class Line(NamedTuple):
    """One stage in a table.

    Attributes:
        stage: its name.
        source: what measured the values, as in :class:`~lightning_pbrl.reports.tables.Row`.
        values: final values over seeds.
        summary: their figures.
        better: comparison with the baseline; None for the baseline itself, and where both have one seed.
        unknown: number of runs without a finite value, which are left out.
    """

    stage: str
    source: str
    values: list[float]
    summary: Summary
    better: Improvement | None
    unknown: int = 0


class Table(NamedTuple):
    """Stages of one task, compared by one metric; without a baseline where the chosen one has no value."""

    task: str
    metric: str
    baseline: str
    lines: list[Line]


def gather(paths: Sequence[Path]) -> Gathered:
    """Find all runs at or below ``paths`` and set aside those that were pruned, failed or have not finished.

    Raises:
        UserError: if a path does not exist, no run is found, or none has finished.
    """
    found = find_runs(paths)
    left = {folder: why for top in paths for folder in started(top.resolve()) if (why := state(folder))}
    left |= {run.path: why for run in found if (why := state(run.path))}
    tasks: dict[str, Stages] = {}
    for name, runs in group(found).items():
        if whole := [run for run in runs if run.path not in left]:
            tasks.setdefault(task_of(whole[0].path), {})[name] = whole
    if not tasks:
        raise UserError(
            f"None of the {len(left)} runs below {paths[0]} has finished ({next(iter(left.values()))}): run them first."
        )
    return Gathered(dict(sorted(tasks.items())), sorted(left.items()))


def tables(gathered: Gathered, metric: str | None = None, baseline: str | None = None) -> list[Table]:
    """Compare the stages of every task.

    Args:
        gathered: the runs.
        metric: a metric as :func:`~lightning_pbrl.reports.tables.finals` takes it; None for the usual ones that were measured.
        baseline: stage that the others are compared with, by its name or the last folder of it; None for each task's first.

    Returns:
        Tables, by metric, then by task.

    Raises:
        UserError: if no run has the metric, or there is no such stage.
    """
    if baseline is not None and not any(_is(baseline, name) for name in gathered.stages):
        raise UserError(f"There is no stage {baseline!r} to compare with: {nearest(baseline, list(gathered.stages))}")
    for names in ((metric,),) if metric else (DEFAULT_METRICS, OTHERWISE):
        made = [_table(task, stages, name, baseline) for name in names for task, stages in gathered.tasks.items()]
        if some := [table for table in made if table.lines]:
            return some
    runs = [run for stages in gathered.tasks.values() for some in stages.values() for run in some]
    if metric and (logged := {name for run in runs for name in read_metrics(run.path)}):
        told = f"None of these runs has a value of {metric} yet; evaluate or test them, or name another --metric"
        raise UserError(f"{told}: {nearest(metric, logged)}")
    wanted = metric or ", ".join(DEFAULT_METRICS)
    raise UserError(f"None of these runs has a value of {wanted} yet; evaluate or test them, or name another --metric.")


def _table(task: str, stages: Mapping[str, Sequence[Run]], metric: str, baseline: str | None) -> Table:
    measured: dict[str, tuple[str, list[float], int]] = {}
    for name, runs in stages.items():
        for source, values in list(finals(runs, metric).items())[:1]:
            if known := [value for value in values if np.isfinite(value)]:
                measured[name] = source, known, len(values) - len(known)
    base = next((name for name in measured if baseline is None or _is(baseline, name)), "")
    lines = [
        Line(
            name,
            source,
            values,
            summarise([values]),
            _better(values, measured[base][1]) if base and name != base else None,
            unknown,
        )
        for name, (source, values, unknown) in measured.items()
    ]
    return Table(task, metric, base, lines)


def _better(values: Sequence[float], base: Sequence[float]) -> Improvement | None:
    return improvement(values, base) if max(len(values), len(base)) > 1 else None


def _is(wanted: str, stage: str) -> bool:
    return wanted in (stage, stage.rsplit("/", 1)[-1])
