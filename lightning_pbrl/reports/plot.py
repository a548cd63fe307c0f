"""Learning curves: of one run during training, and of many with the spread over their seeds.

Figures are drawn straight to a file, without pyplot: no window, no global state, safe in a training process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.reports.metrics import Array, Metrics, Series, find_runs, group, over, read_metrics, replicas, whole
from lightning_pbrl.reports.statistics import bootstrap_interval, mean
from lightning_pbrl.reports.tables import print_comparison, summary_table, write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["AXIS", "aligned", "learning_curve", "new_figure", "plot", "print_comparison", "save_figure", "summary_table"]

AXIS = {
    "eval/success_rate": "success (fraction of episodes)",
    "eval/return_mean": "return (environment reward)",
    "eval/normalized_score": "D4RL score (0 random, 100 expert)",
    "pref/accuracy": "accuracy (fraction of held-out pairs)",
    "pref/return_pearson": "Pearson correlation with true returns",
    "teacher/clear_ratio": "clear answers (fraction of questions)",
    "embedding/auc": "embedding AUC (held-out pairs)",
    "embedding/auc_asked": "embedding AUC (answered pairs)",
}
"""Metrics that are drawn by default: metric -> axis name with unit."""

FRACTIONS = ("success_rate", "accuracy", "clear_ratio", "auc", "auc_asked")
"""Metrics between 0 and 1, by the last part of their names; their panels share one range."""


DPI = 120
"""Resolution of a picture, pixels per inch."""

STYLES = ("-", "--", ":", "-.")
"""Line styles of the first ten groups, the next ten ...: colours repeat after ten."""


def learning_curve(metrics: Metrics, out: str | Path, title: str = "") -> Path | None:
    """Draw one run's evaluation metrics, one panel each; return None if it has none yet.

    Replicas are drawn as thin lines behind their mean.
    """
    names = [name for name in AXIS if name in metrics]
    if not names:
        return None
    figure, panels = new_figure(len(names))
    for axes, name in zip(panels, names, strict=True):
        for replica in replicas(metrics, name):
            if replica != name:
                axes.plot(*_curve(metrics, replica), color="C0", alpha=0.35, linewidth=0.8)
        axes.plot(*_curve(metrics, name), color="C0", marker="o", markersize=3)
        decorate(axes, name, X_AXES[_count(metrics, name)])
    return save_figure(figure, out, title)


class Curve(NamedTuple):
    """One metric of one group over its seeds.

    Attributes:
        group: the stage.
        seeds: number of runs or replicas, n.
        x: updates, env steps or labels, (m,).
        middle: mean or interquartile mean over the seeds, (m,).
        low: lower end of its 95 % bootstrap interval, (m,); NaN for one seed.
        high: upper end, (m,).
        number: index of the group among those drawn, so that it keeps its colour in every panel.
        x_is: unit of ``x``, a key of :data:`X_AXES`.
    """

    group: str
    seeds: int
    x: Array
    middle: Array
    low: Array
    high: Array
    number: int = 0
    x_is: str = "step"


def plot(run_paths: str | Path | Iterable[str | Path], out: str | Path, metric: str | None = None) -> Path:
    """Draw learning curves with one line per stage: mean over seeds with a shaded 95 % bootstrap interval of that mean.

    The numbers of every panel are written beside the figure, as ``<figure>-<metric>.csv``.

    Seeds are run folders ``seed<k>``, or replicas within a run. Seeds that were evaluated at different points are interpolated
    linearly and drawn where all of them have values. A stage with one seed has no shade.

    Args:
        run_paths: run folders, or folders that hold some.
        out: the figure; its ending chooses the format (png, pdf, svg).
        metric: metric to draw; None draws every metric of :data:`AXIS` that was logged, one panel each.

    Raises:
        UserError: if no run is found, or none has logged the metric.
    """
    groups = [(label, [read_metrics(run.path) for run in runs]) for label, runs in whole(group(find_runs(run_paths))).items()]
    logged = {key for _, seeds in groups for metrics in seeds for key in metrics}
    if metric is None:
        names = [name for name in AXIS if name in logged]
        if not names:
            raise UserError("None of these runs has been evaluated yet: wait for a round to end, then draw its curve.")
    elif metric in logged:
        names = [metric]
    else:
        raise UserError(f"No run has logged the metric {metric!r}: {nearest(metric, logged)}")
    figure, panels = new_figure(len(names))
    tables: dict[str, list[Curve]] = {}
    for axes, name in zip(panels, names, strict=True):
        curves = tables[name] = curves_of(groups, name)
        for c in curves:
            style = STYLES[c.number // 10 % len(STYLES)]
            axes.plot(c.x, c.middle, style, color=f"C{c.number}", marker=".", label=f"{c.group} (n = {c.seeds})")
            if c.seeds > 1 and len(c.x):
                axes.fill_between(c.x, c.low, c.high, color=f"C{c.number}", alpha=0.2, linewidth=0)
        decorate(axes, name, X_AXES[curves[-1].x_is])
    lines = {str(line.get_label()): line for axes in panels for line in axes.get_lines()}
    columns = 2 * min(len(panels), 3)
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=columns, fontsize="small")
    drawn = save_figure(figure, out, "mean over seeds, 95 % bootstrap interval")
    for name, curves in tables.items():
        slug = name.replace("/", "-").replace("_", "-")
        write_table(_columns(curves), drawn.with_name(f"{drawn.stem}-{slug}.csv"))
    return drawn


def curves_of(groups: Sequence[tuple[str, Sequence[Metrics]]], name: str) -> list[Curve]:
    """Return the curves of a metric for every stage that has logged it."""
    found = []
    for number, (stage, seeds) in enumerate(groups):
        curves = [_curve(metrics, replica) for metrics in seeds for replica in replicas(metrics, name)]
        if not curves:
            continue
        x, values = aligned(curves)
        low, high = bootstrap_interval([values], mean) if len(x) else (x, x)
        count = next(_count(metrics, name) for metrics in seeds if replicas(metrics, name))
        found.append(Curve(stage, len(curves), x, mean(values, axis=0), low, high, number, count))
    return found


def _columns(curves: Sequence[Curve]) -> dict[str, Array]:
    """Concatenate the points of all stages; ``x_is`` names the unit of ``x``."""
    sizes = [len(curve.x) for curve in curves]
    named = {name: np.repeat([getattr(curve, name) for curve in curves], sizes) for name in ("group", "seeds", "x_is")}
    points = {"x": "x", "mean": "middle", "low": "low", "high": "high"}
    return named | {name: np.concatenate([getattr(curve, field) for curve in curves]) for name, field in points.items()}


def aligned(curves: Sequence[Series]) -> tuple[Array, Array]:
    """Interpolate curves linearly at the union of all points, within the range that all cover.

    Returns:
        Points, (n,), and values, (number of curves, n).
    """
    first, last = max(curve.step[0] for curve in curves), min(curve.step[-1] for curve in curves)
    points = np.unique(np.concatenate([curve.step for curve in curves]))
    x = points[(points >= first) & (points <= last)]
    return x, np.stack([np.interp(x, curve.step, curve.value) for curve in curves])


X_AXES = {"env_steps": "env steps", "labels": "labels (questions asked)", "step": "gradient updates"}
"""Names of the x axes by count."""


def _count(metrics: Metrics, name: str) -> str:
    """Return the x axis of a metric.

    Runs that act use env steps. In other runs feedback metrics use labels and policies use gradient updates.
    """
    if "env_steps" in metrics:
        return "env_steps"
    feedback = name.split("/")[0] in ("pref", "teacher", "embedding")
    return "labels" if feedback and "labels" in metrics else "step"


def _curve(metrics: Metrics, name: str) -> Series:
    count = _count(metrics, name)
    return metrics[name] if count == "step" else over(metrics, name, count)


def new_figure(count: int, columns: int = 3, size: tuple[float, float] = (4.4, 3.4)) -> tuple[Figure, list[Axes]]:
    """Create a figure of ``count`` panels, at most ``columns`` per row, each of ``size`` (width, height) inches."""
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def decorate(axes: Axes, name: str, x_axis: str) -> None:
    """Name both axes of a metric's curve, with the range of fractions and thousands as k."""
    axes.set_xlabel(x_axis)
    axes.set_ylabel(AXIS.get(name, name))
    axes.grid(alpha=0.3)
    if name.rsplit("/", 1)[-1] in FRACTIONS:
        axes.set_ylim(-0.03, 1.03)
    if "labels" not in x_axis:
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if abs(x) >= 1000 else f"{x:g}")


def save_figure(figure: Figure, out: str | Path, title: str) -> Path:
    """Write the figure atomically: a reader never sees half of it.

    Names of runs and stages are never parsed as formulas.
    """
    from matplotlib.text import Text

    out = Path(out)
    if title:
        figure.suptitle(title, fontsize="medium")
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.set_dpi(DPI)
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine(None)  # savefig would draw everything twice for it
    try:
        with replacing(out) as part:
            figure.savefig(part, dpi=DPI, format=out.suffix.removeprefix(".") or "png")
    except UserError:
        raise
    except ValueError as error:  # matplotlib names the formats it knows
        raise UserError(f"The figure {out} cannot be drawn: {error}") from error
    return out
