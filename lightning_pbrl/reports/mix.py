"""Two kinds of question in one budget: how many of each were asked, in which share, and what each was worth by then.

Drawn from what mixing strategies log: ``labels/pair``, ``labels/rating`` (asked so far), ``query/share_pair`` (the share of pairs
in them), ``query/target_share`` (the share wanted), ``query/score_pair``, ``query/score_rating`` (bits per unit of cost, mean
over the pool). A picture is drawn where its metrics were logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.efficiency import held
from lightning_pbrl.reports.feedback_record import FILE, read_records
from lightning_pbrl.reports.metrics import Array, Metrics, Run, Series, find_runs, group, over, read_metrics
from lightning_pbrl.reports.panels import BLUE, ORANGE, SIZE, Panel, label, legend, thousands, write_table
from lightning_pbrl.reports.plot import X_AXES, new_figure, save_figure
from lightning_pbrl.reports.statistics import bootstrap_interval, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = (("pair", BLUE), ("rating", ORANGE))
"""Kinds of question and their colours."""
LABELS = tuple(f"labels/{kind}" for kind, _ in KINDS)
SHARE, TARGET = "query/share_pair", "query/target_share"
SCORES = tuple(f"query/score_{kind}" for kind, _ in KINDS)


def seed_metrics(run: Run) -> Metrics:
    """What a run has logged; how many of each kind it asked also from its records, where it was not logged."""
    metrics = read_metrics(run.path)
    if not set(LABELS) & set(metrics) and (run.path / FILE).is_file():
        records = {record.updates: record for record in read_records(run.path / FILE)}  # the later of two at one update
        step = np.array(sorted(records), np.float64)
        for name, field in zip(LABELS, ("pairs", "ratings"), strict=True):
            metrics[name] = Series(step, np.array([getattr(records[int(at)], field) for at in step], np.float64))
    return metrics


def together(seeds: Sequence[Metrics], names: Sequence[str]) -> tuple[str, Array, list[Array]] | None:
    """Metrics of all seeds that have them all, against env steps or else labels.

    Returns:
        What they are counted in, points (m,), and of each metric the values (seeds, m); None where nobody has them.
    """
    having = [metrics for metrics in seeds if all(name in metrics for name in names)]
    if not having:
        return None
    count = next((name for name in ("env_steps", "labels") if all(name in metrics for metrics in having)), "step")
    curves = [m[name] if count == "step" else over(m, name, count) for name in names for m in having]
    x, values = held(curves)
    return (count, x, list(np.split(values, len(names)))) if len(x) else None


def labels_panel(seeds: Sequence[Metrics], title: str = "") -> Panel | None:
    """Questions of each kind asked so far, stacked, mean over seeds."""
    found = together(seeds, LABELS)
    if found is None:
        return None
    count, x, values = found
    means = [mean(part, axis=0) for part in values]

    def draw(axes: Axes) -> None:
        names = [f"{kind}s, {part[-1]:,.0f}" for (kind, _), part in zip(KINDS, means, strict=True)]
        axes.stackplot(x, *means, labels=names, colors=[colour for _, colour in KINDS], alpha=0.6, step="post")
        axes.xaxis.set_major_formatter(thousands)
        axes.margins(x=0)
        axes.legend(fontsize="x-small", loc="upper left")
        label(axes, X_AXES[count], "questions asked so far", title)

    return Panel("labels", {count: x, "pair": means[0], "rating": means[1], "total": means[0] + means[1]}, draw)


def share_panel(seeds: Sequence[Metrics], title: str = "") -> Panel | None:
    """Share of pairs among the questions asked so far, with its interval over seeds, and the share that is wanted."""
    found = together(seeds, (SHARE,))
    if found is None:
        return None
    count, x, (values,) = found
    middle, (low, high) = mean(values, axis=0), bootstrap_interval([values], mean)
    wanted = together(seeds, (SHARE, TARGET))
    target = np.full(len(x), np.nan)
    if wanted is not None:
        at = np.searchsorted(wanted[1], x, side="right") - 1
        target = np.where(at >= 0, mean(wanted[2][1], axis=0)[at], np.nan)

    def draw(axes: Axes) -> None:
        axes.plot(x, middle, color=BLUE, marker=".", label=f"asked (n = {len(values)})")
        axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0)
        if np.isfinite(target).any():
            axes.plot(x, target, color="0.2", linestyle="--", linewidth=1.2, label="wanted")
        axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(thousands)
        legend(axes)
        label(axes, X_AXES[count], "share of pairs", title)

    return Panel("share", {count: x, "share": middle, "low": low, "high": high, "target": target}, draw)


def information_panel(seeds: Sequence[Metrics], title: str = "") -> Panel | None:
    """What a question of each kind is worth, bits per unit of cost, mean over the pool and over seeds."""
    return _information(seeds, title, normalised=False)


def normalised_panel(seeds: Sequence[Metrics], title: str = "") -> Panel | None:
    """The same, every seed's series divided by its own largest value: which kind fades first."""
    return _information(seeds, title, normalised=True)


def _information(seeds: Sequence[Metrics], title: str, normalised: bool) -> Panel | None:
    found = together(seeds, SCORES)
    if found is None:
        return None
    count, x, values = found
    if normalised:
        largest = [part.max(1, keepdims=True) for part in values]
        values = [part / np.where(top > 0, top, 1.0) for part, top in zip(values, largest, strict=True)]
    means = [mean(part, axis=0) for part in values]
    spreads = [bootstrap_interval([part], mean) for part in values]

    def draw(axes: Axes) -> None:
        for (kind, colour), middle, (low, high) in zip(KINDS, means, spreads, strict=True):
            axes.plot(x, middle, "-" if kind == "pair" else "--", color=colour, marker=".", label=f"{kind}s")
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(thousands)
        legend(axes)
        unit = "information (share of its largest)" if normalised else "information (bits per unit of cost)"
        label(axes, X_AXES[count], unit, title)

    table = {count: x}
    for (kind, _), middle, (low, high) in zip(KINDS, means, spreads, strict=True):
        table |= {kind: middle, f"{kind}_low": low, f"{kind}_high": high}
    return Panel("information-normalised" if normalised else "information", table, draw)


PANELS = (labels_panel, share_panel, information_panel, normalised_panel)


def plot_mix(run_paths: str | Path | Iterable[str | Path], out: str | Path) -> Path:
    """How strategies shared their budget out, one row per stage; the numbers as CSV beside the picture.

    Args:
        run_paths: run folders, or folders that hold some.
        out: the figure; its ending chooses the format (png, pdf, svg).

    Raises:
        UserError: when no run is found, or none has asked.
    """
    rows: list[tuple[str, list[Panel]]] = []
    for name, runs in group(find_runs(run_paths)).items():
        seeds = [seed_metrics(run) for run in runs]
        made = [panel for make in PANELS if (panel := make(seeds, name)) is not None]
        if made:
            rows.append((name, made))
    if not rows:
        raise UserError(
            f"None of these runs has logged {LABELS[0]} or {SHARE}, and none has a {FILE}: mixing strategies log them as they "
            "ask."
        )
    columns = max(len(made) for _, made in rows)
    figure, axes = new_figure(columns * len(rows), columns=columns, size=SIZE)
    for i, (name, made) in enumerate(rows):
        places = axes[i * columns : (i + 1) * columns]
        slug = "" if len(rows) == 1 else "-" + re.sub(r"[^A-Za-z0-9.=]+", "-", name)
        for panel, place in zip(made, places, strict=False):
            panel.draw(place)
            write_table(panel.table, Path(out).with_name(f"{Path(out).stem}-{panel.name}{slug}.csv"))
        for unused in places[len(made) :]:
            unused.remove()
    return save_figure(figure, out, "mean over seeds, 95 % bootstrap interval")
