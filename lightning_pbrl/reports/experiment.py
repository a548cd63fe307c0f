"""Report of a complete experiment: one table, one figure, one CSV file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.metrics import find_runs, read_results
from lightning_pbrl.reports.plot import plot
from lightning_pbrl.reports.tables import print_comparison, summary, summary_table, write_csv


def report(out: Path, settings: Mapping[str, Any], command: str = "", console: Console | None = None) -> None:
    """Print the comparison of the tested stages; write the figure, the numbers and the video of the first stage to ``out``.

    ``results.csv`` holds the figures over seeds; ``experiment.json`` holds every run's own figures with versions and the command.

    Args:
        out: the experiment's folder.
        settings: the experiment's ``report:`` key; ``show`` names the stages of the table in order.
        command: the command line, for the record.
        console: console to print to.
    """
    console = console or Console()
    shown = list(settings.get("show", ()))
    try:
        rows = summary(out)
        if any(row.source == "test" and row.metric in ("success_rate", "return_mean") for row in rows):
            print_comparison(out, shown, console=console)
        else:  # feedback alone, no policy
            console.print(summary_table(out))
        write_csv(rows, out / "results.csv")
        tested = {str(run.path.resolve().relative_to(out.resolve())): read_results(run.path) for run in find_runs(out)}
        evidence = {"command": command, "runs": {name: results for name, results in tested.items() if results}}
        (out / "experiment.json").write_text(json.dumps(evidence, indent=1))
        drawn = [out / stage for stage in shown if (out / stage).is_dir()] or [out]
        plot(drawn, out / "learning_curve.png")
    except UserError as error:  # nothing was tested: an experiment of fits alone
        console.print(str(error), markup=False)
        return
    for run in find_runs(drawn):  # the first stage of the table is the one to look at
        film = run.path / "video.mp4"
        if film.is_file():
            shutil.copyfile(film, out / "video.mp4")
            break
    console.print(
        f"Everything is in {out}: learning_curve.png, results.csv and a folder per stage and seed.", soft_wrap=True, markup=False
    )
