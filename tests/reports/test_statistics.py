"""Figures over seeds, against numbers worked out by hand and a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_pbrl.reports.statistics import (
    bootstrap_interval,
    iqm,
    mean,
    standard_deviation,
    standard_error,
    summarise,
)


def test_interquartile_mean_cuts_a_quarter_at_each_end():
    assert iqm([70.0, 0.0, 2.0, 3.0, 4.0, 5.0, -90.0, 6.0]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert iqm([0.0, 1.0, 10.0]) == pytest.approx(11 / 3)  # floor(3 / 4) = 0: nothing to cut
    assert iqm([0.0, 1.0, 3.0, 100.0, 4.0]) == pytest.approx((1 + 3 + 4) / 3)  # floor(5 / 4) = 1
    assert iqm([[0.0, 1.0, 3.0, 8.0], [5.0, 5.0, 7.0, 9.0]], axis=1) == pytest.approx([2.0, 6.0])


def test_standard_error():
    assert standard_deviation([1.0, 2.0, 3.0]) == pytest.approx(1.0)  # divisor 2
    assert standard_error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))
    assert math.isnan(standard_error([4.0]))


def test_interval_is_the_percentile_of_all_resamples():
    """Two seeds 0 and 1: a resample's mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4."""
    low, high = bootstrap_interval([[0.0, 1.0]], mean)
    assert (low, high) == (0.0, 1.0)
    low, high = bootstrap_interval([[0.0, 1.0]], mean, level=0.3)  # 35 % to 65 %: inside the middle half
    assert (low, high) == (0.5, 0.5)


def test_interval_against_a_slow_loop():
    values = np.array([0.1, 0.4, 0.5, 0.8, 0.9])
    rng = np.random.default_rng(7)
    means = [np.mean([values[rng.integers(5)] for _ in range(5)]) for _ in range(4_000)]
    low, high = bootstrap_interval([values], mean, resamples=4_000)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.02)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.02)
    assert bootstrap_interval([values], mean, resamples=50) == bootstrap_interval([values], mean, resamples=50)
    assert bootstrap_interval([values], mean, resamples=50, seed=1) != bootstrap_interval([values], mean, resamples=50)


def test_tasks_are_resampled_apart():
    """Seeds that agree within each task leave nothing to chance, however far the tasks lie apart."""
    low, high = bootstrap_interval([[0.0, 0.0], [10.0, 10.0, 10.0]], mean)
    assert low == high == pytest.approx(30 / 5)
    low, high = bootstrap_interval([[0.0, 0.0, 10.0, 10.0, 10.0]], mean)
    assert low < 4.0 < 8.0 < high


def test_points_of_a_curve_are_treated_one_by_one():
    curves = np.array([[0.0, 5.0], [1.0, 5.0]])
    low, high = bootstrap_interval([curves], mean)
    assert low == pytest.approx([0.0, 5.0])
    assert high == pytest.approx([1.0, 5.0])


def test_one_seed_has_no_interval():
    low, high = bootstrap_interval([[3.0]])
    assert math.isnan(low) and math.isnan(high)
    one = summarise([[3.0]])
    assert (one.n, one.mean, one.iqm) == (1, 3.0, 3.0)
    assert math.isnan(one.std) and math.isnan(one.low)


def test_summary():
    s = summarise([[1.0, 2.0, 3.0, 10.0]])
    assert (s.n, s.mean, s.iqm) == (4, 4.0, 2.5)
    assert s.std == pytest.approx(math.sqrt((9 + 4 + 1 + 36) / 3))
    assert s.standard_error == pytest.approx(s.std / 2)
    assert 1.0 <= s.low < 2.5 < s.high <= 10.0
