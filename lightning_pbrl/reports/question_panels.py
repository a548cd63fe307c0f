"""Panels of questions and answers: scores, returns of the chosen segments, ratings.

Every function makes one :class:`~lightning_pbrl.reports.panels.Panel`, or returns None if the data for it do not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_pbrl.data.status import Status
from lightning_pbrl.reports.feedback_numbers import even_edges, pearson
from lightning_pbrl.reports.feedback_record import NO_QUESTIONS, PAIRS, RATING, Questions, Record, Sample
from lightning_pbrl.reports.metrics import Array
from lightning_pbrl.reports.panels import (
    BLUE,
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
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BITS, SPREAD = "information of the answer (bits)", "spread of the predicted return"
ENOUGH = 30
"""Smallest number of latest questions in a panel, if so many were asked; some methods ask two or three a round."""
HEAT_BINS = 12
"""Number of bins per side of the two-dimensional histogram."""
MOST_LEVELS = 20
"""Largest number of distinct ratings that get a bar each."""


def newest(records: Sequence[Record], *kinds: str) -> tuple[Sample, Questions] | None:
    """Return the latest questions of some kinds, from enough rounds to show :data:`ENOUGH`, and the samples of those rounds."""
    samples: list[Sample] = []
    asked = NO_QUESTIONS
    for record in reversed(records):
        some = record.questions.of(*kinds)
        if len(some) and len(asked) < ENOUGH:
            samples.append(record.sample)
            asked = Questions.join([some, asked])
    return (Sample.join(samples[::-1]), asked) if samples else None


def asked_of(records: Sequence[Record], *kinds: str) -> Questions:
    """Return all questions of some kinds."""
    return Questions.join([record.questions for record in records]).of(*kinds)


def pair_scores(records: Sequence[Record]) -> Panel | None:
    """Build a panel of the information of random pairs and of the pairs asked last."""
    found = newest(records, *PAIRS)
    if found is None:
        return None
    return _scores("pair-scores", found[0].score, found[1].score, BITS, "pairs", BLUE)


def rating_scores(records: Sequence[Record]) -> Panel | None:
    """Build a panel of the information of a rating of random segments and of the segments rated last.

    For a model without it, the spread of the predicted return is drawn.
    """
    found = newest(records, RATING)
    if found is None:
        return None
    sample, asked = found
    in_bits = bool(np.isfinite(sample.rating_score).any())
    random, axis = (sample.rating_score, BITS) if in_bits else (sample.spread, SPREAD)
    return _scores("rating-scores", random, asked.score, axis, "clips", ORANGE)


def _scores(name: str, random: Array, chosen: Array, axis: str, what: str, colour: str) -> Panel | None:
    groups = [(f"random {what}", random[np.isfinite(random)], GREY), ("asked", chosen[np.isfinite(chosen)], colour)]
    if not all(len(values) for _, values, _ in groups):
        return None
    edges = histogram_edges([values for _, values, _ in groups])

    def draw(axes: Axes) -> None:
        shares(axes, groups, edges, mark_means=True)
        label(axes, axis, f"share of {what}", f"{what} that were asked last")

    return Panel(name, histogram_table(groups, edges), draw)


def score_against_gap(records: Sequence[Record]) -> Panel | None:
    """Build a panel of the information of a pair against the true return difference of its segments."""
    found = newest(records, *PAIRS)
    if found is None:
        return None
    sample, asked = found
    true = np.concatenate([sample.true.reshape(-1, 2), asked.true])
    score = np.concatenate([sample.score, asked.score])
    gap, chosen = np.abs(true[:, 1] - true[:, 0]), np.arange(len(true)) >= len(sample.score)
    known = np.isfinite(gap) & np.isfinite(score)
    if not (known & chosen).any():
        return None

    def draw(axes: Axes) -> None:
        for which, name, colour, size in ((~chosen, "random pairs", GREY, 9), (chosen, "asked", BLUE, 16)):
            some = known & which
            text = f"{name} (n = {some.sum()})"
            axes.scatter(gap[some], score[some], s=size, color=colour, alpha=0.7, linewidths=0, label=text)
        legend(axes)
        label(axes, "|true return difference| (environment reward)", BITS, "how close were the pairs asked last?")

    return Panel("score-against-gap", {"gap": gap[known], "score": score[known], "asked": chosen[known].astype(int)}, draw)


def rated_returns(records: Sequence[Record]) -> Panel | None:
    """Build a panel of true returns of random segments and of the segments rated last."""
    found = newest(records, RATING)
    if found is None:
        return None
    groups = [("random clips", found[0].true, GREY), ("rated clips", found[1].true[:, 0], ORANGE)]
    groups = [(name, values[np.isfinite(values)], colour) for name, values, colour in groups]
    if not all(len(values) for _, values, _ in groups):
        return None
    edges = histogram_edges([values for _, values, _ in groups], 20)

    def draw(axes: Axes) -> None:
        shares(axes, groups, edges)
        label(axes, "true clip return (environment reward)", "share of clips", "clips that were rated last")

    return Panel("rated-returns", histogram_table(groups, edges), draw)


def pair_heat_map(records: Sequence[Record]) -> Panel | None:
    """Build a panel of the returns of the two segments of every pair asked so far.

    They are true returns, or predicted ones if those are unknown.
    """
    asked = asked_of(records, *PAIRS)
    which = "true" if len(asked) and np.isfinite(asked.true).all() else "predicted"
    returns = (asked.true if which == "true" else asked.predicted).astype(np.float64)
    returns = returns[np.isfinite(returns).all(1)]
    if not len(returns):
        return None
    edges = histogram_edges([returns.reshape(-1)], HEAT_BINS)
    counts, _, _ = np.histogram2d(returns[:, 0], returns[:, 1], [edges, edges])
    low, high = np.meshgrid(edges[:-1], edges[:-1], indexing="ij")
    table = {"first_low": low.ravel(), "second_low": high.ravel(), "count": counts.ravel().astype(int)}

    def draw(axes: Axes) -> None:
        shown = np.ma.masked_equal(counts.T, 0)
        mesh = axes.pcolormesh(edges, edges, shown, cmap="cividis", vmin=0)
        colour_bar(axes, mesh, "pairs asked")
        axes.plot(edges[[0, -1]], edges[[0, -1]], color="0.5", linewidth=0.8, linestyle=":")
        unit = " (environment reward)" if which == "true" else ""
        label(axes, f"{which} return, first clip{unit}", f"{which} return, second clip", f"the {len(returns)} pairs asked so far")

    return Panel("pair-returns", table, draw)


def _ratings(records: Sequence[Record]) -> Questions:
    """Return the answered ratings."""
    asked = asked_of(records, RATING)
    return asked.take((asked.status == Status.ANSWERED) & np.isfinite(asked.value))


def rating_histogram(records: Sequence[Record]) -> Panel | None:
    """Build a panel of the given ratings, and the model's predictions before it knew them."""
    asked = _ratings(records)
    if not len(asked):
        return None
    edges = level_edges(asked.value)
    guessed = np.clip(asked.rating[np.isfinite(asked.rating)].astype(np.float64), edges[0], edges[-1])
    groups = [("given", asked.value.astype(np.float64), ORANGE), ("predicted", guessed, BLUE)]
    groups = [group for group in groups if len(group[1])]

    def draw(axes: Axes) -> None:
        shares(axes, groups, edges)
        label(axes, "rating", "share of ratings", "ratings given and predicted")

    return Panel("ratings", histogram_table(groups, edges), draw)


def level_edges(ratings: Array) -> Array:
    """Return the bins of ratings: one around each level of an even scale, else 20 over their range."""
    levels = np.unique(np.asarray(ratings, np.float64))
    step = np.diff(levels).min() if len(levels) > 1 else 1.0
    whole = (levels - levels[0]) / step
    if np.ptp(levels) / step < MOST_LEVELS and np.allclose(whole, whole.round()):
        return np.asarray(levels[0] + step * (np.arange(round(float(np.ptp(levels) / step)) + 2) - 0.5))
    return even_edges(levels, MOST_LEVELS)


def ratings_against_returns(records: Sequence[Record]) -> Panel | None:
    """Build a panel of the rating of a segment against its true return, or against its predicted return if that is unknown."""
    asked = _ratings(records)
    if not len(asked):
        return None
    known = bool(np.isfinite(asked.true[:, 0]).all())
    returns = asked.true[:, 0] if known else asked.predicted[:, 0]
    which = "true clip return (environment reward)" if known else "predicted clip return"

    def draw(axes: Axes) -> None:
        axes.scatter(returns, asked.value, s=12, color=ORANGE, alpha=0.6, linewidths=0)
        label(axes, which, "rating given", f"{len(asked)} ratings: r = {number(pearson(returns, asked.value))}")
        axes.grid(alpha=0.3)

    return Panel("ratings-against-returns", {"return": returns, "rating": asked.value}, draw)
