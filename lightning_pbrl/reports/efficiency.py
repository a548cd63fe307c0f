"""Label-efficiency curves: performance of query strategies against env steps and against answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.reports.metrics import Array, Metrics, Series, find_runs, group, over, read_metrics, replicas, whole
from lightning_pbrl.reports.panels import PALETTE, Panel, draw_sheet, label, thousands
from lightning_pbrl.reports.plot import AXIS, FRACTIONS, STYLES, X_AXES, Curve
from lightning_pbrl.reports.statistics import bootstrap_interval, iqm, mean
from lightning_pbrl.reports.tables import write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Count = Literal["labels", "env_steps"]
Middle = Literal["mean", "iqm"]
MIDDLES = {"mean": mean, "iqm": iqm}
"""Summary statistic over seeds by name."""
METRICS = ("eval/success_rate", "eval/return_mean", "eval/normalized_score", "reward/pearson", "pref/accuracy")
"""Metrics that are compared by default, as far as they were logged."""
NAMES = {**AXIS, "reward/pearson": "r of true and predicted clip returns", "reward/spearman": "rank correlation of clip returns"}
"""Metric -> axis name with unit."""


def held(curves: Sequence[Series]) -> tuple[Array, Array]:
    """Hold each curve's last value at the union of all points, within the range that all cover.

    A backward as-of join: it uses the last measurement, never a later one.

    Returns:
        Points, (m,), and values, (number of curves, m).
    """
    first, last = max(curve.step[0] for curve in curves), min(curve.step[-1] for curve in curves)
    points = np.unique(np.concatenate([curve.step for curve in curves]))
    x = points[(points >= first) & (points <= last)]
    return x, np.stack([curve.value[np.searchsorted(curve.step, x, side="right") - 1] for curve in curves])


def curve_of(seeds: Sequence[Metrics], name: str, metric: str, count: Count, middle: Middle = "mean") -> Curve | None:
    """Return a group's metric against a count; None if no seed has logged both."""
    found = [over(metrics, replica, count) for metrics in seeds if count in metrics for replica in replicas(metrics, metric)]
    if not found:
        return None
    x, values = held(found)
    statistic = MIDDLES[middle]
    low, high = bootstrap_interval([values], statistic) if len(x) else (x, x)
    return Curve(name, len(found), x, statistic(values, axis=0), low, high)


def panel_of(groups: Mapping[str, Sequence[Metrics]], metric: str, count: Count, middle: Middle = "mean") -> Panel | None:
    """Return a panel of all groups; a group keeps its colour in every panel."""
    curves = {name: curve_of(seeds, name, metric, count, middle) for name, seeds in groups.items()}
    made = [curve for curve in curves.values() if curve is not None]
    if not made:
        return None

    def draw(axes: Axes) -> None:
        for number, curve in enumerate(curves.values()):
            if curve is None:
                continue
            colour, style = PALETTE[number % len(PALETTE)], STYLES[number // len(PALETTE) % len(STYLES)]
            axes.plot(curve.x, curve.middle, style, color=colour, marker=".", label=f"{curve.group} (n = {curve.seeds})")
            if curve.seeds > 1:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small" if len(made) <= 6 else "xx-small", framealpha=0.7)
        if metric.rsplit("/", 1)[-1] in FRACTIONS:
            axes.set_ylim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(thousands)
        label(axes, X_AXES[count], NAMES.get(metric, metric))

    columns = {name: np.concatenate([getattr(curve, name) for curve in made]) for name in ("x", "middle", "low", "high")}
    sizes = [len(curve.x) for curve in made]
    table = {
        "group": np.repeat([curve.group for curve in made], sizes),
        "seeds": np.repeat([curve.seeds for curve in made], sizes),
        count: columns.pop("x"),
        middle: columns.pop("middle"),
        **columns,
    }
    return Panel(f"{metric.replace('/', '-').replace('_', '-')}-by-{count.replace('_', '-')}", table, draw)


def plot_efficiency(
    run_paths: str | Path | Iterable[str | Path],
    out: str | Path,
    metric: str | None = None,
    count: Count | None = None,
    middle: Middle = "mean",
) -> Path:
    """Compare strategies, one line per stage, against env steps and against labels, with the numbers as CSV files.

    Args:
        run_paths: run folders, or folders that hold some.
        out: the figure; its ending chooses the format (png, pdf, svg).
        metric: metric to compare; None compares those of :data:`METRICS` that were logged.
        count: the x axis; None draws both, as far as they were logged.
        middle: mean, or interquartile mean.

    Raises:
        UserError: if no run is found, or none has logged the metric with the count.
    """
    groups = {name: [read_metrics(run.path) for run in runs] for name, runs in whole(group(find_runs(run_paths))).items()}
    logged = {key for seeds in groups.values() for metrics in seeds for key in metrics}
    if metric is not None and metric not in logged:
        raise UserError(f"No run has logged the metric {metric!r}: {nearest(metric, logged)}")
    names = [name for name in METRICS if name in logged] if metric is None else [metric]
    counts: tuple[Count, ...] = ("env_steps", "labels") if count is None else (count,)
    panels = [panel for name in names for each in counts if (panel := panel_of(groups, name, each, middle)) is not None]
    if not panels:
        wanted = " or ".join(X_AXES[each] for each in counts)
        what = metric or "a metric to compare"
        raise UserError(f"None of these runs has logged {what} together with {wanted}; let one round end.")
    columns = len(panels) // len(names) if len(panels) % len(names) == 0 else len(counts)
    middles = {"mean": "mean", "iqm": "interquartile mean"}
    for panel in panels:
        write_table(panel.table, Path(out).with_name(f"{Path(out).stem}-{panel.name}.csv"))
    return draw_sheet(panels, out, f"{middles[middle]} over seeds, 95 % bootstrap interval", columns=columns)
