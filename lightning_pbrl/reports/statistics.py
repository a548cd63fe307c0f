"""Statistics over seeds: mean, standard deviation, interquartile mean and a bootstrap interval.

Sources: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264). The
interquartile mean (section 4.3) is as robust as the median and uses more of the data. Intervals come from the percentile
bootstrap, stratified by task (section 4.1). For the bootstrap: Efron & Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Statistic = Callable[..., Array]
"""Function ``statistic(values, axis=...)`` that reduces one axis."""

RESAMPLES = 2_000
"""Number of bootstrap resamples; an interval's end then varies by about 2 % of its width from seed to seed."""


class Summary(NamedTuple):
    """Figures of one metric over seeds.

    Attributes:
        n: number of seeds (over all tasks).
        mean: arithmetic mean.
        std: sample standard deviation; NaN for one seed.
        standard_error: standard error of the mean; NaN for one seed.
        iqm: interquartile mean.
        low: lower end of the interval of the interquartile mean; NaN if a task has one seed.
        high: upper end of that interval.
    """

    n: int
    mean: float
    std: float
    standard_error: float
    iqm: float
    low: float
    high: float


def mean(values: npt.ArrayLike, axis: int | None = None) -> Array:
    """Return the arithmetic mean."""
    return np.asarray(np.mean(np.asarray(values, dtype=np.float64), axis=axis))


def standard_deviation(values: npt.ArrayLike) -> float:
    """Return the sample standard deviation, divisor n - 1; NaN for one value."""
    x = np.asarray(values, dtype=np.float64)
    return float(x.std(ddof=1)) if x.size > 1 else float("nan")


def standard_error(values: npt.ArrayLike) -> float:
    """Return the standard error of the mean, s / sqrt(n); NaN for one value."""
    return standard_deviation(values) / float(np.sqrt(np.size(values)))


def iqm(values: npt.ArrayLike, axis: int | None = None) -> Array:
    """Return the interquartile mean: the mean after floor(n / 4) values are cut at each end.

    Up to three values nothing is cut, so it is the mean.
    """
    array = np.asarray(values, dtype=np.float64)
    if axis is None:
        array, axis = array.ravel(), 0
    cut = array.shape[axis] // 4
    array = np.moveaxis(array, axis, 0)
    middle = np.partition(array, (cut, len(array) - cut - 1), axis=0)[cut : len(array) - cut]
    return np.asarray(middle.mean(axis=0))


def bootstrap_interval(
    tasks: Sequence[npt.ArrayLike],
    statistic: Statistic = iqm,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Return the percentile bootstrap interval of a statistic over all seeds of all tasks.

    Seeds are resampled with replacement within each task, so every resample holds every task as often as the data do.

    Args:
        tasks: one array per task with seeds along the first axis, (n, ...); further axes (for instance points of a
            curve) are treated one by one.
        statistic: statistic to estimate.
        level: confidence level.
        resamples: number of resamples.
        seed: seed of the interval's own random numbers.

    Returns:
        Lower and upper end, each (...); NaN if a task has fewer than two seeds, which show no spread.
    """
    arrays = [np.asarray(task, dtype=np.float64) for task in tasks]
    if min(len(array) for array in arrays) < 2:
        nothing = np.full(arrays[0].shape[1:], np.nan)
        return nothing, nothing
    rng = np.random.default_rng(seed)
    drawn = [np.moveaxis(array, 0, -1)[..., rng.integers(0, len(array), (resamples, len(array)))] for array in arrays]
    found = statistic(np.concatenate(drawn, axis=-1), axis=-1)  # (..., resamples)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return np.asarray(low), np.asarray(high)


def summarise(tasks: Sequence[npt.ArrayLike], seed: int = 0) -> Summary:
    """Compute all figures of one metric.

    Args:
        tasks: final values per seed, one array (n,) per task.
        seed: seed of the interval's random numbers.
    """
    values = np.concatenate([np.asarray(task, dtype=np.float64) for task in tasks])
    low, high = bootstrap_interval(tasks, iqm, seed=seed)
    spread, error = standard_deviation(values), standard_error(values)
    return Summary(values.size, float(mean(values)), spread, error, float(iqm(values)), float(low), float(high))
