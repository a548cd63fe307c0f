"""Panels of how well a model foresees the answers of every kind, before it learns from them.

Every function makes one :class:`~lightning_pbrl.reports.panels.Panel`, or returns None if the data for it do not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_pbrl.data.status import Status
from lightning_pbrl.reports.feedback_numbers import reliability
from lightning_pbrl.reports.feedback_record import CORRECTION, RATING, Questions, Record
from lightning_pbrl.reports.metrics import Array
from lightning_pbrl.reports.panels import BLUE, GREEN, GREY, PALETTE, Panel, label, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENOUGH = 30
"""Smallest number of latest answers that a share is of, once there are so many."""
LEVELS = {0.0: "first\nmuch better", 0.25: "first\nbetter", 0.5: "equal", 0.75: "second\nbetter", 1.0: "second\nmuch better"}
"""Answers about graded pairs, in words."""


def _kinds(records: Sequence[Record]) -> dict[str, str]:
    """Return the name of each kind of choice that was asked, pairs first, and its colour."""
    asked = {str(kind) for record in records for kind in record.questions.kind} - {RATING}
    others = [colour for colour in PALETTE if colour != BLUE]
    found = {kind: others[place % len(others)] for place, kind in enumerate(sorted(asked - {"pair"}))}
    return {**({"pair": BLUE} if "pair" in asked else {}), **found}


def _name(kind: str) -> str:
    """Return what questions of a kind are called, in the plural."""
    base, _, axis = kind.partition(":")
    name = {"pair": "asked pairs", "graded": "graded pairs", "best": "best of several", CORRECTION: "corrections"}.get(base, base)
    return f"{name}, {axis}" if axis else name


def agreement(records: Sequence[Record]) -> Panel | None:
    """Build a panel of the share of answers whose preferred segment had the largest predicted return, by kind, over the run.

    Predictions are those before the answers were learned from. Each share is of a round's answers, or of the latest
    :data:`ENOUGH` where it has fewer. Chance is 1 / k for questions about k segments.
    """
    table: dict[str, list[object]] = {"kind": [], "learned": [], "count": [], "share": [], "chance": []}
    lines: list[tuple[str, str, list[int], list[float], float]] = []
    for kind, colour in _kinds(records).items():
        learned, shares, right, sizes = [], [], np.zeros(0, bool), np.zeros(0, int)
        for record in records:
            asked = record.questions.of(kind)
            known = np.isfinite(asked.lead)
            if not known.any():
                continue
            right = np.concatenate([right, asked.lead[known] > 0])
            sizes = np.concatenate([sizes, np.isfinite(asked.predicted[known]).sum(1)])
            latest = max(ENOUGH, int(known.sum()))
            learned.append(record.answers)
            shares.append(float(right[-latest:].mean()))
            row = (_name(kind), record.answers, len(right[-latest:]), shares[-1], float((1 / sizes[-latest:]).mean()))
            for column, value in zip(table.values(), row, strict=True):
                column.append(value)
        if learned:
            text = f"{_name(kind)} ({right.mean():.0%} of {len(right):,})"
            lines.append((text, colour, learned, shares, float((1 / sizes).mean())))
    if not lines:
        return None

    def draw(axes: Axes) -> None:
        for text, colour, learned, shares, chance in lines:
            axes.plot(learned, shares, color=colour, marker="o", markersize=3, label=text)
            axes.axhline(chance, color=colour, linestyle=":", linewidth=1.0)
        axes.set_ylim(-0.03, 1.35)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.grid(alpha=0.3)
        legend(axes)
        label(axes, "answers learned from", "share foreseen (dotted: chance)", "were new answers foreseen?")

    return Panel("agreement", table, draw)


def graded_gaps(records: Sequence[Record]) -> Panel | None:
    """Build a panel of the predicted difference of returns by the answer about a graded pair.

    Strong answers should lie further out, equal ones around 0.
    """
    asked = Questions.join([record.questions for record in records]).of("graded")
    gap = asked.predicted[:, 1] - asked.predicted[:, 0]
    known = np.isfinite(asked.value) & np.isfinite(gap)
    value, gap, true = asked.value[known], gap[known], (asked.true[:, 1] - asked.true[:, 0])[known]
    if not len(gap):
        return None

    def draw(axes: Axes) -> None:
        for level in LEVELS:
            some = gap[value == level]
            if len(some):
                axes.scatter(level + np.linspace(-0.07, 0.07, len(some)), some, s=9, color=GREEN, alpha=0.5, linewidths=0)
                axes.hlines(some.mean(), level - 0.1, level + 0.1, color="0.2", linewidth=1.6)
        axes.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
        axes.set_xticks(list(LEVELS), list(LEVELS.values()))
        label(axes, "answer", "predicted return, second less first", f"{len(gap):,} graded pairs, with means")
        axes.tick_params(axis="x", labelsize="x-small")

    return Panel("graded-gaps", {"answer": value, "predicted_gap": gap, "true_gap": true}, draw)


def chosen_ranks(records: Sequence[Record]) -> Panel | None:
    """Build a panel of the place of the chosen segment of k in the order of predicted returns, 1 for the largest."""
    asked = Questions.join([record.questions for record in records]).of("best")
    asked = asked.take(np.isfinite(asked.lead))
    if not len(asked):
        return None
    chosen = np.take_along_axis(asked.predicted, asked.value.astype(np.int64)[:, None], 1)
    rank, clips = 1 + (asked.predicted > chosen).sum(1), np.isfinite(asked.predicted).sum(1)
    places = np.arange(1, clips.max() + 1)
    counts = np.bincount(rank, minlength=len(places) + 1)[1:]
    chance = np.array([(np.where(clips >= place, 1 / clips, 0)).mean() for place in places])

    def draw(axes: Axes) -> None:
        axes.bar(places, counts / len(rank), color=GREEN, alpha=0.6, label=f"chosen (n = {len(rank):,})")
        axes.plot(places, chance, color="0.3", linestyle="--", marker=".", label="chance")
        axes.set_xticks(places)
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
        legend(axes)
        text = f"the model's first was chosen in {counts[0] / len(rank):.0%}"
        label(axes, "place of the chosen clip by predicted return", "share of questions", text)

    return Panel("chosen-ranks", {"place": places, "count": counts, "chance": chance}, draw)


def calibration(records: Sequence[Record]) -> Panel | None:
    """Build the calibration panel: the frequency with which the second segment was better, by predicted probability.

    Predictions are those before the answer. Asked pairs are evaluated by their answers, random ones by their true returns. A
    strategy asks where the model is uncertain, so only the random pairs show its calibration in general. Of the best of several
    it is the segment that the model finds likeliest, and how often it was chosen. Of corrections, how often they were given.
    """
    asked, sample = Questions.join([record.questions for record in records]), records[-1].sample
    true = sample.true.reshape(-1, 2)
    strict = np.isfinite(true).all(1) & (true[:, 0] != true[:, 1])
    groups = [("random pairs", sample.probability[strict], (true[:, 1] > true[:, 0])[strict], GREY)]
    groups += [(_name(kind), *_outcomes(asked.of(kind), kind), colour) for kind, colour in _kinds(records).items()]
    found = [(name, reliability(p, outcome), colour) for name, p, outcome, colour in groups if len(p)]
    if not found:
        return None
    table: dict[str, list[object]] = {"pairs": [], "low": [], "high": [], "count": [], "predicted": [], "observed": [], "ece": []}
    for name, bins, _ in found:
        for i in range(len(bins.size)):
            values = (name, bins.low[i], bins.high[i], bins.size[i], bins.predicted[i], bins.observed[i], bins.ece)
            for column, value in zip(table.values(), values, strict=True):
                column.append(value)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="0.5", linewidth=0.8, linestyle=":")
        for name, bins, colour in found:
            some = bins.size > 0
            sizes = 15 + 60 * bins.size[some] / bins.size.max()
            axes.plot(bins.predicted[some], bins.observed[some], color=colour, linewidth=1.2)
            text = f"{name} (n = {bins.size.sum()}, ECE {bins.ece:.2f})"
            axes.scatter(bins.predicted[some], bins.observed[some], s=sizes, color=colour, label=text, zorder=2)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.3), yticks=np.linspace(0, 1, 6))
        axes.legend(fontsize="x-small", loc="upper left")
        several = any(name == _name("best") for name, *_ in found)
        what = "predicted P(second better; chosen of k)" if several else "predicted P(second clip is better)"
        label(axes, what, "share in which it was", "calibration of the preferences")

    return Panel("calibration", table, draw)


def _outcomes(asked: Questions, kind: str) -> tuple[Array, Array]:
    """Return predicted probability and outcome of the answered questions of a kind; none of a kind that is not known here."""
    decided = (asked.status == Status.ANSWERED) & np.isfinite(asked.value)
    if kind == CORRECTION:
        judged = decided | (asked.status == Status.SKIPPED)
        return asked.probability[judged], decided[judged]
    if kind == "best":
        decided &= np.isfinite(asked.lead)
        return asked.probability[decided], (asked.lead > 0)[decided]
    if kind.partition(":")[0] not in ("pair", "graded"):
        return asked.probability[:0], asked.value[:0]
    return asked.probability[decided], (asked.value > 0.5)[decided]
