"""Mixed feedback in one budget: number, share and information of pairs and ratings over a run.

The panels show metrics that mixing strategies log: ``labels/pair``, ``labels/rating`` (asked so far), ``query/share_pair`` (the
share of pairs among them), ``query/target_share`` (the target share of a round), ``query/score_pair``, ``query/score_rating``
(bits per unit of cost, mean over the pool). A panel is drawn if its metrics were logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.efficiency import Count, held
from lightning_pbrl.reports.feedback_record import CORRECTION, FILE, PAIR, RATING, read_records
from lightning_pbrl.reports.metrics import Array, Metrics, Run, Series, find_runs, group, over, read_metrics, whole
from lightning_pbrl.reports.panels import BLUE, ORANGE, SIZE, Panel, label, legend, thousands
from lightning_pbrl.reports.plot import X_AXES, new_figure, save_figure
from lightning_pbrl.reports.statistics import bootstrap_interval, mean
from lightning_pbrl.reports.tables import write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = (("pair", BLUE), ("rating", ORANGE))
"""Kinds of question and their colours."""
LABELS = tuple(f"labels/{kind}" for kind, _ in KINDS)
SHARE, TARGET = "query/share_pair", "query/target_share"
SCORES = tuple(f"query/score_{kind}" for kind, _ in KINDS)


def seed_metrics(run: Run) -> Metrics:
    """Return the metrics of a run; counts of each kind come from its records if they were not logged."""
    metrics = read_metrics(run.path)
    if not set(LABELS) & set(metrics) and (run.path / FILE).is_file():
        records = {record.updates: record for record in read_records(run.path / FILE)}  # the later of two at one update
        step = np.array(sorted(records), np.float64)
        for name, field, kinds in zip(LABELS, ("pairs", "ratings"), ((PAIR, CORRECTION), (RATING,)), strict=True):
            now = [getattr(record, field) + len(record.questions.of(*kinds)) for _, record in sorted(records.items())]
            metrics[name] = Series(step, np.array(now, np.float64))
    return metrics


def together(seeds: Sequence[Metrics], names: Sequence[str], count: Count | None = None) -> tuple[str, Array, list[Array]] | None:
    """Return metrics of all seeds that have all of them, against ``count``; None prefers env steps to labels.

    Returns:
        Name of the x axis, points (m,), and the values (seeds, m) of each metric; None if no seed has them.
    """
    needed = [*names, count] if count else names
    having = [metrics for metrics in seeds if all(name in metrics for name in needed)]
    if not having:
        return None
    known = [name for name in ("env_steps", "labels") if all(name in metrics for metrics in having)]
    axis = count or (known[0] if known else "step")
    curves = [m[name] if axis == "step" else over(m, name, axis) for name in names for m in having]
    x, values = held(curves)
    return (axis, x, list(np.split(values, len(names)))) if len(x) else None


def labels_panel(seeds: Sequence[Metrics], title: str = "", count: Count | None = None) -> Panel | None:
    """Build a panel of the questions of each kind asked so far, stacked.

    Each layer shows the mean over seeds with its interval.
    """
    found = together(seeds, LABELS, count)
    if found is None:
        return None
    axis, x, values = found
    means = [mean(part, axis=0) for part in values]
    spreads = [bootstrap_interval([part], mean) for part in values]

    def draw(axes: Axes) -> None:
        step: Literal["post"] | None = None if axis == "labels" else "post"  # against labels both grow between the points
        names = [f"{kind}s, {part[-1]:,.0f}" for (kind, _), part in zip(KINDS, means, strict=True)]
        axes.stackplot(x, *means, labels=names, colors=[colour for _, colour in KINDS], alpha=0.6, step=step)
        base = np.zeros(len(x))
        for middle, (low, high) in zip(means, spreads, strict=True):
            if np.isfinite(low).all():
                axes.fill_between(x, base + low, base + high, color="0.2", alpha=0.35, linewidth=0, step=step)
                axes.plot(x, base + middle, drawstyle=f"steps-{step}" if step else "default", color="0.2", linewidth=1.0)
            base = base + middle
        axes.xaxis.set_major_formatter(thousands)
        axes.margins(x=0)
        axes.legend(fontsize="x-small", loc="upper left")
        label(axes, X_AXES[axis], "questions asked so far", title)

    table = {axis: x, **_columns(means, spreads), "total": means[0] + means[1]}
    return Panel("labels", table, draw)


def _columns(means: Sequence[Array], spreads: Sequence[tuple[Array, Array]]) -> dict[str, Array]:
    """Return mean and interval bounds of each kind."""
    table: dict[str, Array] = {}
    for (kind, _), middle, (low, high) in zip(KINDS, means, spreads, strict=True):
        table |= {kind: middle, f"{kind}_low": low, f"{kind}_high": high}
    return table


def share_panel(seeds: Sequence[Metrics], title: str = "", count: Count | None = None) -> Panel | None:
    """Build a panel of the share of pairs among the questions asked so far, with its interval over seeds, and the target share.

    The target share is that of a single round, the asked share that of all rounds so far.
    """
    asked, wanted = together(seeds, (SHARE,), count), together(seeds, (TARGET,), count)
    logged = [found for found in (asked, wanted) if found is not None]
    if not logged:
        return None
    axis, x = logged[0][0], np.unique(np.concatenate([found[1] for found in logged]))
    (share, low, high), (target, target_low, target_high) = (_by_then(found, x) for found in (asked, wanted))

    def draw(axes: Axes) -> None:
        if asked is not None:
            axes.plot(x, share, color=BLUE, marker=".", label=f"asked (n = {len(asked[2][0])})")
            axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0)
        if wanted is not None:
            text = f"wanted (n = {len(wanted[2][0])})"
            axes.plot(x, target, color="0.2", linestyle="--", marker=".", markersize=3, linewidth=1.2, label=text)
            axes.fill_between(x, target_low, target_high, color="0.2", alpha=0.15, linewidth=0)
        axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(thousands)
        legend(axes)
        label(axes, X_AXES[axis], "share of pairs", title)

    columns = {"share": share, "low": low, "high": high, "target": target, "target_low": target_low, "target_high": target_high}
    return Panel("share", {axis: x, **columns}, draw)


def _by_then(found: tuple[str, Array, list[Array]] | None, x: Array) -> tuple[Array, Array, Array]:
    """Return mean over seeds and interval of a result of :func:`together`, as known at ``x``, three of (m,); NaN outside."""
    if found is None:
        return (np.full(len(x), np.nan),) * 3
    values = found[2][0]
    curves = mean(values, axis=0), *bootstrap_interval([values], mean)
    at, inside = np.searchsorted(found[1], x, side="right") - 1, (x >= found[1][0]) & (x <= found[1][-1])
    middle, low, high = (np.where(inside, curve[at], np.nan) for curve in curves)
    return middle, low, high


def information_panel(seeds: Sequence[Metrics], title: str = "", count: Count | None = None) -> Panel | None:
    """Build a panel of the information of a question of each kind, bits per unit of cost, mean over the pool and over seeds."""
    return _information(seeds, title, count, normalised=False)


def normalised_panel(seeds: Sequence[Metrics], title: str = "", count: Count | None = None) -> Panel | None:
    """Build a panel of the information of each kind, every seed's series divided by its maximum.

    It shows which kind declines first.
    """
    return _information(seeds, title, count, normalised=True)


def _information(seeds: Sequence[Metrics], title: str, count: Count | None, normalised: bool) -> Panel | None:
    found = together(seeds, SCORES, count)
    if found is None:
        return None
    axis, x, values = found
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
        label(axes, X_AXES[axis], unit, title)

    table = {axis: x, **_columns(means, spreads)}
    return Panel("information-normalised" if normalised else "information", table, draw)


PANELS = (labels_panel, share_panel, information_panel, normalised_panel)


def plot_mix(run_paths: str | Path | Iterable[str | Path], out: str | Path, count: Count | None = None) -> Path:
    """Draw each strategy's split of its budget, one row per stage, with the numbers as CSV files.

    Args:
        run_paths: run folders, or folders that hold some.
        out: the figure; its ending chooses the format (png, pdf, svg).
        count: the x axis; None draws env steps, and labels for runs that do not act.

    Raises:
        UserError: if no run is found, or none has asked, or none has logged ``count``.
    """
    rows: list[tuple[str, list[Panel]]] = []
    for name, runs in whole(group(find_runs(run_paths))).items():
        seeds = [seed_metrics(run) for run in runs]
        made = [panel for make in PANELS if (panel := make(seeds, name, count)) is not None]
        if made:
            rows.append((name, made))
    if not rows and count:
        raise UserError(f"None of these runs has logged how it mixed together with {X_AXES[count]}: leave --x out.")
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
