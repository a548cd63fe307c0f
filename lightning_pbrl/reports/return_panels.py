"""Panels of true against predicted returns: of random segments, by bin, and of whole episodes.

Every function makes one :class:`~lightning_pbrl.reports.panels.Panel`, or returns None if the data for it do not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_pbrl.reports.feedback_numbers import correlation_by_bin, line, pearson, trailing_pearson
from lightning_pbrl.reports.feedback_record import Record
from lightning_pbrl.reports.metrics import Array, Metrics
from lightning_pbrl.reports.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Panel,
    colour_bar,
    histogram_edges,
    histogram_table,
    label,
    legend,
    number,
    shares,
    thousands,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRUE, PREDICTED = "true clip return (environment reward)", "predicted clip return"
WINDOW = 10
"""Number of evaluations over which episode returns are correlated."""


def _ages(record: Record, known: Array) -> list[tuple[str, Array, str]]:
    """Return name, mask and colour of the segments before the last record and of those since, restricted to ``known``."""
    new = record.sample.new
    if new.all() or not new.any():
        return [("all clips", known, BLUE)]
    return [("past clips", known & ~new, GREY), ("new clips", known & new, BLUE)]


def returns_scatter(record: Record) -> Panel | None:
    """Build a panel of predicted against true return of random segments, with the least-squares line and r."""
    true, predicted, new = record.sample.true, record.sample.predicted, record.sample.new
    if not np.isfinite(true).any():
        return None
    slope, intercept = line(true, predicted)
    r, r_new = pearson(true, predicted), pearson(true[new], predicted[new])

    def draw(axes: Axes) -> None:
        for group, some, colour in _ages(record, np.isfinite(true)):
            text = f"{group} (n = {some.sum()})"
            axes.scatter(true[some], predicted[some], s=9, color=colour, alpha=0.6, linewidths=0, label=text)
        if slope == slope:
            ends = np.array([np.nanmin(true), np.nanmax(true)])
            axes.plot(ends, intercept + slope * ends, color=ORANGE, linewidth=1.6, label=f"fit, slope {number(slope)}")
        of_new = f", new clips {number(r_new)}" if new.any() and not new.all() else ""
        label(axes, TRUE, PREDICTED, f"true and predicted: r = {number(r)}{of_new}")
        axes.legend(fontsize="x-small", framealpha=0.7)

    return Panel("returns", {"true": true, "predicted": predicted, "spread": record.sample.spread, "new": new.astype(int)}, draw)


def steps_scatter(record: Record) -> Panel | None:
    """Build a panel of learned against true reward of single steps, with the least-squares line and r."""
    true, learned = record.steps
    if not np.isfinite(true).any():
        return None
    slope, intercept = line(true, learned)

    def draw(axes: Axes) -> None:
        axes.scatter(true, learned, s=9, color=BLUE, alpha=0.5, linewidths=0, label=f"steps (n = {len(true)})")
        if slope == slope:
            ends = np.array([np.nanmin(true), np.nanmax(true)])
            axes.plot(ends, intercept + slope * ends, color=ORANGE, linewidth=1.6, label=f"fit, slope {number(slope)}")
        label(axes, "true reward of a step", "learned reward of a step", f"single steps: r = {number(record.pearson_step)}")
        legend(axes)

    return Panel("steps", {"true": true, "learned": learned}, draw)


def true_histogram(record: Record) -> Panel | None:
    """Build a panel of true returns of past and of new segments."""
    return _histogram(record, record.sample.true, "true-histogram", TRUE, "true returns of the pool")


def predicted_histogram(record: Record) -> Panel | None:
    """Build a panel of predicted returns of past and of new segments."""
    return _histogram(record, record.sample.predicted, "predicted-histogram", PREDICTED, "predicted returns of the pool")


def _histogram(record: Record, values: Array, name: str, axis: str, title: str) -> Panel | None:
    groups = [(group, values[some], colour) for group, some, colour in _ages(record, np.isfinite(values))]
    if not any(len(part) for _, part, _ in groups):
        return None
    edges = histogram_edges([part for _, part, _ in groups])

    def draw(axes: Axes) -> None:
        shares(axes, groups, edges)
        label(axes, axis, "share of clips", title)

    return Panel(name, histogram_table(groups, edges), draw)


def binned_correlation(record: Record) -> Panel | None:
    """Build a panel of the correlation of predicted with true returns within bins of the true return.

    It shows in which range the model can tell segments apart.
    """
    true, predicted = record.sample.true, record.sample.predicted
    if not np.isfinite(true).any():
        return None
    bins = correlation_by_bin(true, predicted)

    def draw(axes: Axes) -> None:
        centre, width = (bins.low + bins.high) / 2, bins.high - bins.low
        axes.bar(centre, np.nan_to_num(bins.r), 0.9 * width, color=np.where(bins.r >= 0, GREEN, ORANGE))
        for x, r, n in zip(centre, bins.r, bins.size, strict=True):
            if n:
                above = not r < 0  # NaN above the axis
                place = (0.02 if above else -0.02) + (r if r == r else 0.0)
                axes.text(x, place, str(n), ha="center", va="bottom" if above else "top", fontsize=6, color="0.35")
        axes.axhline(0, color="0.3", linewidth=0.8)
        axes.set_ylim(-1.1, 1.1)
        label(axes, TRUE, "r within the bin", "correlation by bin (with number of clips)")

    return Panel("correlation-by-bin", bins._asdict(), draw)


def episode_returns(metrics: Metrics) -> Panel | None:
    """Build a panel of learned against true episode returns, one point per evaluation."""
    found = _episodes(metrics)
    if found is None:
        return None
    steps, true, learned = found

    def draw(axes: Axes) -> None:
        dots = axes.scatter(true, learned, c=steps, s=16, cmap="viridis")
        colour_bar(axes, dots, "env steps", thousands)
        r = number(pearson(true, learned))
        label(axes, "true episode return (environment reward)", "learned episode return", f"episodes: r = {r} over the run")

    return Panel("episodes", {"env_steps": steps, "true": true, "learned": learned}, draw)


def episode_correlation(metrics: Metrics) -> Panel | None:
    """Build a panel of the correlation of true and learned episode returns over the run."""
    found = _episodes(metrics)
    if found is None or len(found[0]) < 3:
        return None
    steps, true, learned = found
    r = trailing_pearson(true, learned, WINDOW)

    def draw(axes: Axes) -> None:
        axes.plot(steps, r, color=BLUE, marker="o", markersize=3)
        axes.axhline(0, color="0.3", linewidth=0.8)
        axes.set_ylim(-1.05, 1.05)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(thousands)
        label(axes, "env steps", f"r of the last {WINDOW} evaluations", "do true and learned return move together?")

    return Panel("episode-correlation", {"env_steps": steps, "r": r}, draw)


def _episodes(metrics: Metrics) -> tuple[Array, Array, Array] | None:
    """Return env steps, true and learned return of the newest episodes at every evaluation, as known by then."""
    if not all(key in metrics for key in ("train/learned_return_mean", "train/return_mean", "env_steps")):
        return None
    learned, true, steps = metrics["train/learned_return_mean"], metrics["train/return_mean"], metrics["env_steps"]
    at = [np.searchsorted(series.step, learned.step, side="right") - 1 for series in (true, steps)]
    known = (at[0] >= 0) & (at[1] >= 0)
    return steps.value[at[1][known]], true.value[at[0][known]], learned.value[known]
