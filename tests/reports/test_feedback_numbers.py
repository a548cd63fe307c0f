"""Correlations, bins and calibration, against numbers worked out by hand or by a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lightning_pbrl.reports.feedback_numbers import (
    correlation_by_bin,
    even_edges,
    line,
    pearson,
    reliability,
    spearman,
    trailing_pearson,
)

NAN = float("nan")


def test_correlations_of_what_is_known():
    x, y = np.array([1.0, 2.0, NAN, 3.0]), np.array([1.0, 3.0, 9.0, 2.0])
    assert pearson(x, y) == pytest.approx(0.5)  # deviations (-1, 0, 1) and (-1, 1, 0): 1 / 2
    assert math.isnan(pearson(x[:3], y[:3]))  # two points always lie on a line
    assert math.isnan(pearson(np.ones(5), np.arange(5.0)))
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 50).astype(float), rng.integers(0, 5, 50).astype(float)  # many ties
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_line_by_hand():
    # x - 2 = (-1, 0, 1), y - 3 = (-1, -1, 2): slope 3 / 2, intercept 3 - 3 = 0.
    assert line(np.array([1.0, 2.0, 3.0, NAN]), np.array([2.0, 2.0, 5.0, 1.0])) == pytest.approx((1.5, 0.0))
    assert all(math.isnan(value) for value in line(np.ones(3), np.arange(3.0)))


def test_correlation_by_bin_by_hand():
    x = np.array([0, 1, 2, 10, 11, 12, 20.0])
    y = np.array([0, 1, 2, 12, 11, 10, 5.0])
    bins = correlation_by_bin(x, y, 2)  # [0, 10) and [10, 20]: the upper edge counts
    assert bins.low.tolist() == [0, 10] and bins.high.tolist() == [10, 20] and bins.size.tolist() == [3, 4]
    dx, dy = np.array([-3.25, -2.25, -1.25, 6.75]), np.array([2.5, 1.5, 0.5, -4.5])
    assert bins.r == pytest.approx([1.0, (dx * dy).sum() / math.sqrt((dx**2).sum() * (dy**2).sum())])


def test_correlation_by_bin_equals_a_loop():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(1e4, 3, 300), [NAN]])  # far from zero: a sum of squares would lose the digits
    y = x + rng.normal(0, 2, 301)
    bins = correlation_by_bin(x, y, 8)
    edges = np.linspace(np.nanmin(x), np.nanmax(x), 9)
    for k in range(8):
        inside = (x >= edges[k]) & ((x < edges[k + 1]) | ((k == 7) & (x <= edges[8])))
        assert bins.size[k] == inside.sum()
        expected = stats.pearsonr(x[inside], y[inside]).statistic if inside.sum() >= 3 else NAN
        assert bins.r[k] == pytest.approx(expected, nan_ok=True)


def test_few_points_have_no_correlation():
    bins = correlation_by_bin(np.array([0.0, 1.0, 10.0]), np.array([0.0, 1.0, 2.0]), 2)
    assert np.isnan(bins.r).all() and bins.size.tolist() == [2, 1]


def test_bins_of_values_that_are_equal_but_for_rounding():
    assert even_edges(np.array([2.0, 2.0]), 2).tolist() == [1.5, 2.0, 2.5]
    assert even_edges(np.array([1e6, 1e6 + 1e-8]), 4).tolist() == pytest.approx(
        [1e6 - 0.5, 1e6 - 0.25, 1e6, 1e6 + 0.25, 1e6 + 0.5]
    )
    assert even_edges(np.array([]), 1).tolist() == [0, 1]


def test_reliability_by_hand():
    # [0, .5): .1 and .3, of which one came: |.5 - .2| = .3; [.5, 1]: .5, .9 and 1, of which two: |2/3 - .8| = .1333.
    found = reliability(np.array([0.1, 0.3, 0.5, 0.9, 1.0, NAN]), np.array([1, 0, 0, 1, 1, 1.0]), 2)
    assert found.size.tolist() == [2, 3]
    assert found.predicted == pytest.approx([0.2, 0.8]) and found.observed == pytest.approx([0.5, 2 / 3])
    assert found.ece == pytest.approx((2 * 0.3 + 3 * (0.8 - 2 / 3)) / 5)
    empty = reliability(np.array([0.95]), np.array([1.0]), 10)
    assert np.isnan(empty.observed[:9]).all() and empty.ece == pytest.approx(0.05)
    assert math.isnan(reliability(np.array([]), np.array([])).ece)


def test_trailing_correlation():
    x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 0])
    found = trailing_pearson(x, y, 3)
    assert np.isnan(found[:2]).all()
    assert found[2:] == pytest.approx([1.0, pearson(x[1:], y[1:])])
