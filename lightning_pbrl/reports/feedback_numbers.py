"""Numbers behind the figures of feedback: correlations, bins, calibration. Plain numpy, one formula each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FEWEST = 3
"""Smallest number of points for a correlation; of two points it is always 1 or -1."""


def pearson(x: Array, y: Array) -> float:
    """Return the Pearson correlation over the pairs that are both finite.

    NaN for fewer than three pairs, or if one side does not vary.
    """
    x, y = _finite(x, y)
    if len(x) < FEWEST:
        return float("nan")
    dx, dy = x - x.mean(), y - y.mean()
    scale = np.sqrt(np.square(dx).sum() * np.square(dy).sum())
    return float((dx * dy).sum() / scale) if scale > 0 else float("nan")


def spearman(x: Array, y: Array) -> float:
    """Return Spearman's rank correlation, with ties at their mean rank; NaN as :func:`pearson`."""
    x, y = _finite(x, y)
    return pearson(ranks(x), ranks(y))


def ranks(x: Array) -> Array:
    """Return ranks from 0, with equal values at their mean rank, (n,), float64."""
    _, group, count = np.unique(x, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count + 1) / 2.0)[group])


def line(x: Array, y: Array) -> tuple[float, float]:
    """Return slope and intercept of the least-squares line over the finite pairs; NaN if ``x`` does not vary."""
    x, y = _finite(x, y)
    if len(x) < 2 or not np.ptp(x) > 0:
        return float("nan"), float("nan")
    dx = x - x.mean()
    slope = float((dx * (y - y.mean())).sum() / np.square(dx).sum())
    return slope, float(y.mean() - slope * x.mean())


def even_edges(values: Array, bins: int) -> Array:
    """Return edges of equal bins over the range of finite values, (bins + 1,), float64; over a range of 1 if there is none."""
    values = np.asarray(values, np.float64)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # equal but for rounding
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


class Bins(NamedTuple):
    """Correlation by bin.

    Attributes:
        low: lower edge of each bin, (b,).
        high: upper edge, (b,).
        size: number of points in it, (b,).
        r: correlation within it, (b,); NaN for fewer than three points, or if one side does not vary.
    """

    low: Array
    high: Array
    size: Array
    r: Array


def correlation_by_bin(x: Array, y: Array, bins: int = 10) -> Bins:
    """Return the Pearson correlation of ``x`` and ``y`` within ``bins`` equal bins over the range of ``x``, in one pass.

    Within a bin ``x`` varies little, so every value lies below the overall correlation: compare bins with each other.
    """
    x, y = _finite(x, y)
    edges = even_edges(x, bins)
    which = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, bins - 1)  # the last bin includes its upper edge
    count = np.bincount(which, minlength=bins)

    def total(values: Array) -> Array:
        return np.bincount(which, values, bins)

    divisor = np.maximum(count, 1)
    dx, dy = x - (total(x) / divisor)[which], y - (total(y) / divisor)[which]
    scale = np.sqrt(total(dx * dx) * total(dy * dy))
    usable = (count >= FEWEST) & (scale > 0)
    r = np.where(usable, total(dx * dy) / np.where(usable, scale, 1.0), np.nan)
    return Bins(edges[:-1], edges[1:], count, r)


class Reliability(NamedTuple):
    """Reliability diagram: observed frequency by predicted probability.

    Attributes:
        low: lower edge of each bin of the predicted probability, (b,).
        high: upper edge, (b,).
        size: number of predictions in it, (b,).
        predicted: mean prediction, (b,); NaN in an empty bin.
        observed: observed frequency, (b,); NaN in an empty bin.
        ece: expected calibration error: mean of ``|observed - predicted|`` over all predictions, in [0, 1]; NaN without any.
    """

    low: Array
    high: Array
    size: Array
    predicted: Array
    observed: Array
    ece: float


def reliability(probability: Array, outcome: Array, bins: int = 10) -> Reliability:
    """Return the reliability diagram and the expected calibration error with equal bins on [0, 1].

    Source: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (arXiv 1706.04599), sec. 2 and eq. 3.

    Args:
        probability: predicted probability, (n,), in [0, 1].
        outcome: observed outcome, 0 or 1, (n,).
        bins: number of bins.
    """
    probability, outcome = _finite(probability, outcome)
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(which, probability, bins) / count
        observed = np.bincount(which, outcome, bins) / count
    gap = np.abs(observed - predicted)[count > 0]
    ece = float((gap * count[count > 0]).sum() / count.sum()) if count.sum() else float("nan")
    return Reliability(edges[:-1], edges[1:], count, predicted, observed, ece)


def trailing_pearson(x: Array, y: Array, window: int = 10) -> Array:
    """Return the correlation over each value and the ``window`` - 1 before it, (n,); NaN where it is undefined."""
    return np.array([pearson(x[max(0, i + 1 - window) : i + 1], y[max(0, i + 1 - window) : i + 1]) for i in range(len(x))])


def _finite(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the pairs of which both are finite, float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]
