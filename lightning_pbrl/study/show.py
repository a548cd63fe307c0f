"""Print a study before it runs: stages x tasks x values x seeds as one table."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import Progress
from rich.syntax import Syntax

from lightning_pbrl.job import Job
from lightning_pbrl.study.plan import Planned, Trial, check_keys, distinct_values, validate

HEADS = ("task", "base", "values", "stage", "seeds", "state", "after", "folder")


def dry_run(plans: Sequence[Planned]) -> None:
    """Print the plan as one table and the settings of the first trial's stages; build every value of every key once.

    Raises:
        UserError: for the first key or value that is wrong.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    rows = [row for each in plans for row in _rows(each)]
    for line in _table([HEADS, *rows]):
        console.print(line)
    first = plans[0].trials[0]
    for job in first.jobs:
        console.print(f"\n{job.label}:")
        files = "".join(f"# {file}\n" for file in job.files)
        console.print(Syntax(files + yaml.safe_dump(job.overlay, sort_keys=False), "yaml"))
    built = []
    for each in plans:
        check_keys(each.study)
        built += distinct_values(each.trials)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        for job in bar.track([job for trial in built for job in trial.jobs], description="building stages"):
            questions = validate(job)
            if questions is not None:
                console.print(f"\n{job.label}:")
                console.print(questions)
    trials = [trial for each in plans for trial in each.trials]
    states = ", ".join(f"{count} {state}" for state, count in Counter(trial.state.split()[0] for trial in trials).items())
    places = len({(each.out, trial.folder) for each in plans for trial in each.trials})
    jobs = sum(len(trial.jobs) for trial in trials)
    console.print(
        f"{_count(jobs, 'job')} in {_count(len(trials), 'trial')} of {_count(places, 'configuration')} ({states}). "
        f"{_count(len(built), 'trial')} had to be built to see every value with every base. Nothing was trained."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _rows(each: Planned) -> Iterator[tuple[str, ...]]:
    """Yield a line for every configuration and stage, with all of its seeds."""
    study = each.study
    varied = [key for axis in study.axes if len(axis.values) > 1 for key in axis.keys]
    lines: dict[tuple[Path, str], list[tuple[Trial, Job]]] = {}
    for trial in each.trials:
        for job in trial.jobs:
            lines.setdefault((trial.folder, job.stage), []).append((trial, job))
    for (folder, _), pairs in lines.items():
        trial, job = pairs[0]
        base = trial.point.base if len(study.bases) > 1 else ""
        stage = job.folder.parent.name if job.folder.parent != folder else ""
        values = _pairs({key: trial.point.values[key] for key in varied})
        states = Counter(job.state for _, job in pairs)
        state = ", ".join(f"{count} {name}" if len(pairs) > 1 else name for name, count in states.items())
        after = ", ".join(needed.folder.parent.name for needed in job.after)
        yield study.row, base, values, stage, ranges(job.seed for _, job in pairs), state, after, str(job.folder.parent)


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def ranges(seeds: Iterable[int]) -> str:
    """Return seeds as ``--seeds`` takes them: 0-2,5."""
    runs: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table without the columns in which nothing stands."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    for cells in zip(*columns, strict=True):
        yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
