"""Metrics and test results that runs have written to disk.

A run folder holds ``csv/version_*/metrics.csv`` (one version per start of the run) and ``results.json``. An experiment keeps its
run folders as ``<experiment>/<stage>/seed<k>``.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_pbrl import run_folder
from lightning_pbrl.data.guard import reading
from lightning_pbrl.errors import UserError

Array = npt.NDArray[np.float64]


class Series(NamedTuple):
    """One metric of one run.

    Attributes:
        step: number of gradient updates when it was logged, (n,), strictly increasing.
        value: values of the metric, (n,).
    """

    step: Array
    value: Array


Metrics = dict[str, Series]
"""Metric name -> its values."""

TESTED_TOO = ("pref/", "embedding/")
"""Metrics that a test after the fit logs on other pairs under the names of validation; a curve shows validation's."""


class Run(NamedTuple):
    """Run folder with its experiment, stage and seed, as its location tells them.

    Attributes:
        path: the folder.
        experiment: name of the experiment's folder; empty for a run that stands alone.
        stage: name of the stage, or of the folder.
        seed: the k of ``seed<k>``, None for a run that stands alone.
    """

    path: Path
    experiment: str
    stage: str
    seed: int | None

    @property
    def pruned(self) -> bool:
        """True of a run that a search has ended early: its figures are of a part of it, and enter no mean."""
        return run_folder.pruned(self.path)


def run_at(path: str | Path) -> Run:
    """Return the run at a run folder, from its location: ``<experiment>/<stage>/seed<k>``, or a folder of its own."""
    path = Path(path).resolve()
    match = re.fullmatch(r"seeds?_?(\d+).*", path.name)
    if match is None:
        return Run(path, "", path.name, None)
    return Run(path, path.parent.parent.name, path.parent.name, int(match[1]))


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs that differ only in their seed, by the name of their stage.

    Runs of several experiments, and trials of a sweep, are named by the folders in which they differ: ``demo/learned``,
    ``iql/drawer-open/lr=0.001``.
    """
    folders = {run: run.path if run.seed is None else run.path.parent for run in runs}
    shared = os.path.commonpath(list(folders.values())) if runs else ""
    groups: dict[str, list[Run]] = {}
    for run, folder in folders.items():
        label = os.path.relpath(folder, shared)
        groups.setdefault(run.stage if label == "." else label, []).append(run)
    return groups


def whole(groups: Mapping[str, list[Run]]) -> dict[str, list[Run]]:
    """Return groups without runs that a search has pruned; one that has no others keeps them, and its name says so."""
    kept = {name: [run for run in runs if not run.pruned] for name, runs in groups.items()}
    return {name if kept[name] else f"{name} (pruned)": kept[name] or runs for name, runs in groups.items()}


def is_run(path: Path) -> bool:
    """Return True if ``path`` holds metrics or results of a run."""
    return (path / "results.json").is_file() or any(path.glob("csv/version_*/metrics.csv"))


def find_runs(paths: str | Path | Iterable[str | Path]) -> list[Run]:
    """Find all run folders at or below ``paths``, by folder, seeds in numerical order.

    A run made from a file that has changed since is left out and named on stderr.

    Raises:
        UserError: if a path does not exist or no run is found below it.
    """
    found: dict[Path, Run] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        top = Path(path)
        if not top.is_dir():
            raise UserError(f"There is no folder {top}; give run folders, or a folder that holds some.")
        all_below = [folder for folder in _folders(top) if is_run(folder)]
        below = [run_at(folder) for folder in all_below if not _left_out(folder)]
        if all_below and not below:
            raise UserError(f"All runs below {top} were made from files that have changed since: run them again.")
        if not below:
            raise UserError(f"No run below {top} has logged a metric or a result yet; give folders of a fit.")
        found.update({run.path: run for run in below})
    return sorted(found.values(), key=lambda run: (run.path.parent, -1 if run.seed is None else run.seed, run.path.name))


@functools.cache
def _say_once(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _left_out(folder: Path) -> bool:
    """Return True if a run was made from inputs that have changed since."""
    if path := run_folder.outdated(folder):
        _say_once(f"{folder} is left out: it was made from {path}, which has changed since; run it again")
    return path is not None


def _folders(top: Path) -> Iterable[Path]:
    """Yield ``top`` and the folders below it, without entering runs."""
    yield top
    if not is_run(top):
        for child in sorted(top.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _folders(child)


def read_metrics(run_dir: str | Path) -> Metrics:
    """Read every metric that a run has logged during training; empty if there is none.

    A resumed run repeats the rounds since its last checkpoint. A later version therefore replaces earlier ones from its own first
    training step on. Versions without a training step (``test``, ``validate``) are left out: their step says nothing about
    training.
    """
    return read_versions(Path(run_dir) / "csv")


def read_versions(folder: Path) -> Metrics:
    """Read metrics as :func:`read_metrics` does, from the folder that holds ``version_0``, ``version_1`` ..."""
    files = sorted(folder.glob("version_*/metrics.csv"), key=lambda file: int(file.parent.name.split("_")[1]))
    merged: dict[str, dict[float, float]] = {}
    for file in files:
        rows = _rows(file)
        trained = [row["step"] for row in rows if any(key.startswith("train/") for key in row)]
        if not trained:
            continue
        for values in merged.values():
            for step in [step for step in values if step >= trained[0]]:
                del values[step]
        for row in rows:
            for key, value in row.items():
                if key in ("step", "epoch"):
                    continue
                values = merged.setdefault(key, {})
                if row["step"] not in values or not key.startswith(TESTED_TOO):  # logged twice at one step: the later counts
                    values[row["step"]] = value
    return {key: Series(*np.array(sorted(values.items())).T) for key, values in sorted(merged.items()) if values}


def _rows(file: Path) -> list[dict[str, float]]:
    """Return the rows of one file without their empty cells.

    A damaged row, such as a last one cut off by a crash, is left out.
    """
    rows = []
    with file.open(newline="", encoding="utf-8", errors="replace") as lines:
        for raw in csv.DictReader(lines):
            try:
                row = {key: float(cell) for key, cell in raw.items() if key and cell not in ("", None)}
            except (TypeError, ValueError):
                continue
            if "step" in row:
                rows.append(row)
    return rows


def over(metrics: Mapping[str, Series], name: str, count: str = "labels") -> Series:
    """Return a metric against the number of questions asked (or of env steps) so far, instead of gradient updates.

    If several values belong to one number, the last is kept. Metrics of a round's questions are logged at the start of the round,
    before its updates. They belong to the labels of the updates that follow; all others belong to those before.
    """
    series, counted = metrics[name], metrics[count]
    after = np.searchsorted(counted.step, series.step, side="right")
    index = after if name.startswith(("teacher/", "query/", "labels/")) and count == "labels" else after - 1
    so_far = counted.value[index.clip(0, len(counted.value) - 1)]
    last = np.append(so_far[1:] != so_far[:-1], True)
    return Series(so_far[last], series.value[last])


def replicas(names: Iterable[str], metric: str) -> list[str]:
    """Return the names of ``metric`` per replica of a run, ``metric/replica_0`` ...; ``[metric]`` for a run of one seed."""
    present = set(names)
    found = [key for key in present if re.fullmatch(re.escape(metric) + r"/replica_\d+", key)]
    if found:
        return sorted(found, key=lambda key: int(key.rsplit("_", 1)[1]))
    return [metric] if metric in present else []


def read_results(run_dir: str | Path) -> dict[str, Any] | None:
    """Read the content of ``results.json``; None if the run has not been tested.

    Raises:
        UserError: if the file is damaged.
    """
    path = Path(run_dir) / "results.json"
    if not path.is_file():
        return None
    with reading(path, "is damaged", "test the run again to rewrite it"):
        results = dict(json.loads(path.read_text(encoding="utf-8")))
        results["metrics"] = {key: float(value) for key, value in results["metrics"].items()}
    return results
