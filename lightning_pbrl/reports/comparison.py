"""Comparisons of stages over their seeds: probability of improvement and performance profile.

Sources: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264), section
4.2 for profiles and 4.3 for the probability of improvement, which is Mann and Whitney's U over the number of pairs. SciPy's
bootstrap makes its interval. Differences: rliable averages the probability over tasks; here every task has one of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_pbrl.reports.statistics import RESAMPLES, Array, bootstrap_interval, mean

LARGEST = 4_000_000
"""Number of compared pairs that a batch of resamples may hold in memory."""


class Improvement(NamedTuple):
    """Probability that a run of one stage beats a run of another.

    Attributes:
        probability: P(new > old) + P(new = old) / 2, in [0, 1].
        low: lower end of its 95 % bootstrap interval; NaN if one of the stages has a single seed.
        high: upper end.
    """

    probability: float
    low: float
    high: float


def share_of_wins(new: npt.ArrayLike, old: npt.ArrayLike, axis: int = -1) -> Array:
    """Return the share of pairs (new, old) in which the new value is larger, ties counted half.

    Args:
        new: values along ``axis``, (..., n).
        old: values along ``axis``, (..., m).
        axis: axis of the seeds.

    Returns:
        Shares, (...), in [0, 1]; U / (n m) of Mann and Whitney.
    """
    x, y = (np.moveaxis(np.asarray(values, np.float64), axis, -1) for values in (new, old))
    x, y = x[..., :, None], y[..., None, :]
    return np.asarray(((x > y) + 0.5 * (x == y)).mean(axis=(-2, -1)))


def improvement(new: npt.ArrayLike, old: npt.ArrayLike, level: float = 0.95, seed: int = 0) -> Improvement:
    """Estimate the probability of improvement, with a percentile bootstrap over the seeds of both stages.

    Args:
        new: final values of one stage, (n,).
        old: final values of the baseline, (m,).
        level: confidence level.
        seed: seed of the interval's random numbers.
    """
    x, y = np.asarray(new, np.float64), np.asarray(old, np.float64)
    found = float(share_of_wins(x, y))
    if min(x.size, y.size) < 2:
        return Improvement(found, float("nan"), float("nan"))
    from scipy.stats import bootstrap

    interval = bootstrap(
        (x, y),
        share_of_wins,
        n_resamples=RESAMPLES,
        batch=max(1, LARGEST // (x.size * y.size)),
        vectorized=True,
        axis=-1,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Improvement(found, float(interval.low), float(interval.high))


class Profile(NamedTuple):
    """Performance profile of one stage.

    Attributes:
        score: scores, (k,), increasing.
        share: share of runs whose value is above each, (k,), in [0, 1].
        low: lower end of its 95 % bootstrap interval, (k,); NaN for one seed.
        high: upper end, (k,).
    """

    score: Array
    share: Array
    low: Array
    high: Array


def profile(values: npt.ArrayLike, scores: npt.ArrayLike) -> Profile:
    """Return the share of runs above each score, with a band for every score alone.

    Args:
        values: final values over seeds, (n,).
        scores: scores, (k,), increasing.
    """
    score = np.asarray(scores, np.float64)
    above = (np.asarray(values, np.float64)[:, None] > score).astype(np.float64)
    return Profile(score, mean(above, axis=0), *bootstrap_interval([above], mean))
