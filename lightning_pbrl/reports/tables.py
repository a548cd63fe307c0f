"""Tables: final figures over seeds for the terminal, as CSV and as Markdown; the numbers behind a figure as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.metrics import Run, find_runs, group, read_metrics, read_results, replicas
from lightning_pbrl.reports.statistics import Summary, summarise

DEFAULT_METRICS = ("success_rate", "return_mean", "normalized_score", "accuracy", "return_pearson", "clear_ratio", "auc")
"""Metrics by the last part of their names, so that ``test/success_rate`` and ``eval/success_rate`` share a row."""

OTHERWISE = ("teacher/clear_ratio", "embedding/auc_asked")
"""Metrics of runs that have none of the default ones."""

LAST_EVALUATIONS = 5
"""Number of evaluations averaged for a run that was not tested: one is noisy, more would reach back into learning."""

EVALUATED = ("eval", "pref", "embedding")
"""Prefixes of metrics that are measured again at every evaluation."""
LAST = "last logged"
"""Source of figures that no evaluation measures."""

HEADER = ("stage", "metric", "source", "seeds", "mean", "std", "iqm", "ci_low", "ci_high")


_HEADINGS = {"success_rate": "success rate", "normalized_score": "D4RL score", "return_mean": "return"}
"""Columns of a comparison of policies; measured ones are shown, with an interval for the first."""


class Row(NamedTuple):
    """One line of a table.

    Attributes:
        stage: name of the stage.
        metric: the metric as it was requested.
        source: "test" (results.json), "last 5 evals" (mean of the last evaluations), "final eval", or "last logged".
        summary: the figures over seeds.
    """

    stage: str
    metric: str
    source: str
    summary: Summary


def finals(runs: Sequence[Run], metric: str) -> dict[str, list[float]]:
    """Return final values of a metric per seed, by source.

    The sources are test results if every run has been tested; else the mean of the last evaluations, and the final one alone. For
    metrics that no evaluation measures, it is the last logged value.

    Args:
        runs: the seeds of one stage.
        metric: its name, such as ``eval/success_rate`` (``test/success_rate`` in a test) or ``train/return_mean``; or the last
            part alone, ``success_rate``, for metrics of evaluations and tests.
    """
    kind, rest = metric.split("/", 1) if "/" in metric else ("", metric)
    kinds = [kind] if kind else ["test", "pref", "teacher", "embedding"]
    tested: list[list[float]] = []
    for run in runs:
        results = read_results(run.path)
        values = {} if results is None else results["metrics"]
        names = [name for each in kinds if (name := f"{'test' if each == 'eval' else each}/{rest}") in values]
        tested.append([float(values[key]) for name in names[:1] for key in replicas(values, name)])
    if all(tested):
        return {"test": [value for seeds in tested for value in seeds]}
    kinds = [each for each in EVALUATED if kind in ("", each)]
    averaged, final, last = list[float](), list[float](), list[float]()
    for run in runs:
        metrics = read_metrics(run.path)
        names = [name for each in kinds if (name := f"{each}/{rest}") in metrics]
        for key in replicas(metrics, names[0]) if names else []:
            averaged.append(float(metrics[key].value[-LAST_EVALUATIONS:].mean()))
            final.append(float(metrics[key].value[-1]))
        last += [float(metrics[key].value[-1]) for key in replicas(metrics, metric)]
    if final:
        return {f"last {LAST_EVALUATIONS} evals": averaged, "final eval": final}
    return {LAST: last} if last else {}


def summary(
    run_paths: str | Path | Iterable[str | Path], metrics: Sequence[str] | None = None, stages: Sequence[str] = ()
) -> list[Row]:
    """Return the figures of every stage and metric, without runs that a search has pruned.

    Args:
        run_paths: run folders, or folders that hold some.
        metrics: their names, or the last parts alone, see :func:`finals`; None for :data:`DEFAULT_METRICS`.
        stages: stages, in this order; all if empty.

    Raises:
        UserError: if no run is found, or none has any of the metrics.
    """
    found = find_runs(run_paths)
    groups = {stage: [run for run in runs if not run.pruned] for stage, runs in group(found).items()}
    for names in (DEFAULT_METRICS, OTHERWISE) if metrics is None else (metrics,):
        rows = [
            Row(stage, name, source, summarise([values]))
            for stage in (stages or groups)
            if groups.get(stage)
            for name in dict.fromkeys(names)
            for source, values in finals(groups[stage], name).items()
        ]
        if rows:
            return rows
    wanted = ", ".join(DEFAULT_METRICS if metrics is None else metrics)
    aside = f" (the {pruned} pruned ones aside)" if (pruned := sum(run.pruned for run in found)) else ""
    raise UserError(f"None of these runs{aside} has a value of {wanted} yet; evaluate or test them first.")


def summary_table(run_paths: str | Path | Iterable[str | Path], metrics: Sequence[str] | None = None) -> Table:
    """Return a terminal table of seeds, mean, standard deviation, interquartile mean and its 95 % bootstrap interval."""
    rows = summary(run_paths, metrics)
    logged = [row.metric for row in rows if row.source == LAST]
    title = f"Last logged values of {', '.join(dict.fromkeys(logged))}" if len(logged) == len(rows) else "Final figures"
    wrapped = 2 if any("/" in row.metric for row in rows) else 1  # columns of long names
    scored = [row.stage for row in rows if row.metric.endswith("normalized_score")]
    caption = f"n seeds; IQM: interquartile mean, 95 % bootstrap interval{score_note(run_paths, scored)}"
    table = Table(title=f"{title} over seeds", caption=caption, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, name in enumerate(("stage", "metric", "source", "n", "mean ± std", "IQM [95 % interval]")):
        table.add_column(name, justify="left" if number < 3 else "right", no_wrap=number >= wrapped, overflow="fold")
    for row in rows:
        s = row.summary
        spread = f"{number_text(s.mean)} ± {number_text(s.std)}"
        table.add_row(row.stage, row.metric, row.source, str(s.n), spread, f"{number_text(s.iqm)} {interval_text(s.low, s.high)}")
    for stage, count in _pruned(run_paths):
        table.add_row(stage, "", "pruned", str(count), "", "")
    return table


def _pruned(run_paths: str | Path | Iterable[str | Path]) -> list[tuple[str, int]]:
    """Return the stages of which a search has ended runs early, and how many."""
    counts = [(stage, sum(run.pruned for run in runs)) for stage, runs in group(find_runs(run_paths)).items()]
    return [(stage, count) for stage, count in counts if count]


def write_csv(rows: Sequence[Row], path: str | Path) -> Path:
    """Write the rows with all digits, one line each under :data:`HEADER`."""
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for stage, metric, source, s in rows:
            writer.writerow([stage, metric, source, s.n, s.mean, s.std, s.iqm, s.low, s.high])
    return Path(path)


def write_table(table: Mapping[str, Sequence[Any] | npt.NDArray[Any]], path: Path) -> Path:
    """Write columns of one length as CSV with a header; unknown numbers are empty cells."""
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        for row in zip(*table.values(), strict=True):
            writer.writerow(["" if isinstance(cell, float | np.floating) and cell != cell else cell for cell in row])
    return path


def print_comparison(
    experiment: str | Path,
    stages: Sequence[str] = (),
    title: str = "Success and return on unseen episodes",
    console: Console | None = None,
) -> list[Row]:
    """Print the tested policies of an experiment side by side: one line per stage, mean ± standard error over seeds.

    Args:
        experiment: folder of the experiment.
        stages: stages, in this order; if empty, every stage with a tested policy.
        title: title of the table.
        console: console to print to.

    Returns:
        The rows behind the table.

    Raises:
        UserError: if no stage has been tested.
    """
    rows = [row for row in summary(experiment, tuple(_HEADINGS), stages) if row.source == "test"]
    if not rows:
        raise UserError(f"No policy below {experiment} has been tested; fit its stages with then_test, or test them.")
    first, *others = [metric for metric in _HEADINGS if any(row.metric == metric for row in rows)]
    caption = "mean ± standard error over seeds; interval: bootstrap of the IQM (up to 3 seeds: of the mean)"
    scored = [row.stage for row in rows if row.metric == "normalized_score"]
    table = Table(title=title, caption=caption + score_note(experiment, scored))
    for name in ("policy", "seeds", _HEADINGS[first], "95 % interval", *(_HEADINGS[metric] for metric in others)):
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=name != "policy", overflow="fold")
    figures = {(row.stage, row.metric): row.summary for row in rows}
    for stage in dict.fromkeys(row.stage for row in rows):
        main, *rest = [figures.get((stage, metric)) for metric in (first, *others)]
        seeds = next(str(known.n) for known in (main, *rest) if known)
        interval = interval_text(main.low, main.high) if main else ""
        table.add_row(stage, seeds, _with_error(main), interval, *map(_with_error, rest))
    for stage, count in _pruned(experiment):
        if not stages or stage in stages:
            table.add_row(stage, str(count), "pruned")
    (console or Console()).print(table)
    return rows


def score_note(run_paths: str | Path | Iterable[str | Path], stages: Sequence[str]) -> str:
    """Return the part of a caption about the physics of D4RL scores; empty if no stage has one.

    Args:
        run_paths: run folders, or folders that hold some.
        stages: stages with a D4RL score, by the names that :func:`summary` gives them.
    """
    runs = [run for stage, members in group(find_runs(run_paths)).items() if stage in stages for run in members]
    return physics_note([results for run in runs if (results := read_results(run.path))]) if runs else ""


def physics_note(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the same part of a caption from the results of the tested runs."""
    if not results:
        return "; physics of the D4RL score: in each run's config.yaml"
    own = sum(bool(each.get("d4rl_physics")) for each in results)
    share = "" if own == len(results) else f": {own} of {len(results)} tested runs (docs/d4rl.md)"
    return f"; D4RL score in D4RL's physics{share}"


def _with_error(s: Summary | None) -> str:
    if s is None:
        return ""
    return number_text(s.mean) if s.n < 2 else f"{number_text(s.mean)} ± {number_text(s.standard_error)}"


def interval_text(low: float, high: float) -> str:
    """Format ``[low, high]``; a dash if there is none."""
    return "-" if low != low else f"[{number_text(low)}, {number_text(high)}]"


def number_text(value: float) -> str:
    """Format with three decimals below 10, one below 1,000, then none; a dash for NaN."""
    if value != value:
        return "-"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"
