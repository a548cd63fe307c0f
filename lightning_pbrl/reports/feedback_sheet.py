"""Feedback sheet of a run: every figure for which the run has data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_pbrl.errors import UserError
from lightning_pbrl.reports import answer_panels, question_panels, return_panels
from lightning_pbrl.reports.embedding import run_name
from lightning_pbrl.reports.feedback_record import FILE, Record, read_records
from lightning_pbrl.reports.metrics import Metrics, find_runs, read_metrics
from lightning_pbrl.reports.panels import Panel, draw_sheet, write_tables

OF_CLIPS = (
    return_panels.returns_scatter,
    return_panels.steps_scatter,
    return_panels.true_histogram,
    return_panels.predicted_histogram,
    return_panels.binned_correlation,
)
"""Panels of one record."""
OF_EPISODES = (return_panels.episode_returns, return_panels.episode_correlation)
"""Panels of the logged metrics."""
OF_QUESTIONS = (
    answer_panels.calibration,
    answer_panels.agreement,
    answer_panels.graded_gaps,
    answer_panels.chosen_ranks,
    question_panels.pair_scores,
    question_panels.score_against_gap,
    question_panels.pair_heat_map,
    question_panels.rating_scores,
    question_panels.rated_returns,
    question_panels.rating_histogram,
    question_panels.ratings_against_returns,
)
"""Panels of all records up to one."""


def panels_of(records: Sequence[Record], metrics: Metrics) -> list[Panel]:
    """Return every panel for which there are data; ``records`` up to the one that is shown, at least one."""
    made = [
        *(make(records[-1]) for make in OF_CLIPS),
        *(make(metrics) for make in OF_EPISODES),
        *(make(records) for make in OF_QUESTIONS),
    ]
    return [panel for panel in made if panel is not None]


def write_sheet(records: Sequence[Record], metrics: Metrics, out: str | Path, title: str = "") -> list[Panel]:
    """Draw the sheet as of the last of ``records`` and return its panels.

    Raises:
        UserError: if the figure cannot be written.
    """
    panels, last = panels_of(records, metrics), records[-1]
    steps = f", {last.env_steps:,} env steps" if last.env_steps else ""
    counts = ((last.pairs, "pairs"), (last.ratings, "ratings"), (last.others, "other answers"))
    learned = " and ".join(f"{count:,} {name}" for count, name in counts if count)
    draw_sheet(panels, out, f"{title}: round {last.round}, {learned or 'no answers'} learned from{steps}")
    return panels


def plot_feedback(run_paths: str | Path | Iterable[str | Path], out: str | Path, round_number: int | None = None) -> list[Path]:
    """Draw a sheet per run and write the numbers behind every panel as CSV files beside it.

    Args:
        run_paths: run folders, or folders that hold some.
        out: the figure; its ending chooses the format (png, pdf, svg). Several runs add their names to it.
        round_number: round to show, by the newest record up to it; None for the newest round.

    Returns:
        Paths of the figures.

    Raises:
        UserError: if no run is found, none has a record, or none up to that round.
    """
    runs = [run for run in find_runs(run_paths) if (run.path / FILE).is_file()]
    if not runs:
        raise UserError(
            f"None of these runs has a {FILE}: methods that ask and predict returns write it during a fit, unless "
            "feedback.clips is 0."
        )
    figures = []
    for run in runs:
        records = read_records(run.path / FILE)
        metrics = read_metrics(run.path)
        if round_number is not None:
            metrics = {} if round_number < records[-1].round else metrics
            first, records = records[0].round, [record for record in records if record.round <= round_number]
            if not records:
                raise UserError(f"{run.path} has no record up to round {round_number}: its first is of round {first}.")
        name = run_name(run)
        slug = re.sub(r"[^A-Za-z0-9.=]+", "-", name)
        path = Path(out) if len(runs) == 1 else Path(out).with_name(f"{Path(out).stem}-{slug}{Path(out).suffix}")
        write_tables(write_sheet(records, metrics, path, name), path)
        figures.append(path)
    return figures
