"""Probability of improvement and performance profiles, by hand and beside SciPy's U."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from lightning_pbrl.reports.comparison import improvement, profile, share_of_wins


def test_share_of_wins_by_hand() -> None:
    # 3 > 1, 3 > 2, 2 > 1, and 2 = 2 counts half: 3.5 of 4
    assert share_of_wins([3.0, 2.0], [1.0, 2.0]) == 0.875
    assert share_of_wins([1.0, 2.0], [3.0, 2.0]) == 0.125
    assert share_of_wins([5.0], [5.0]) == 0.5
    two = share_of_wins(np.array([[3.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 2.0], [1.0, -1.0]]))
    assert two.tolist() == [0.875, 0.5]


def test_share_of_wins_is_mann_whitney() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 7).astype(float), rng.integers(0, 6, 5).astype(float)  # with ties, of different length
    assert share_of_wins(x, y) == pytest.approx(mannwhitneyu(x, y, method="asymptotic").statistic / 35)


def test_improvement_by_hand() -> None:
    # of two 1s and 3s against 2 and 2: {1, 1} wins nothing, {3, 3} everything, each a quarter of the resamples
    assert improvement([1.0, 3.0], [2.0, 2.0]) == (0.5, 0.0, 1.0)
    assert improvement([3.0, 4.0, 5.0], [1.0, 2.0]) == (1.0, 1.0, 1.0)
    single = improvement([3.0], [1.0, 2.0])
    assert single.probability == 1.0
    assert np.isnan([single.low, single.high]).all()


def test_improvement_of_more_seeds_is_surer() -> None:
    rng = np.random.default_rng(1)
    few, many = (improvement(rng.normal(1, 1, n), rng.normal(0, 1, n)) for n in (5, 40))
    true = 0.7602  # Phi(1 / sqrt 2)
    assert few.low < true < few.high
    assert many.low < true < many.high
    assert many.high - many.low < 0.5 * (few.high - few.low)
    assert improvement([1.0, 2.0, 4.0], [0.0, 3.0, 2.0]) == improvement([1.0, 2.0, 4.0], [0.0, 3.0, 2.0])  # same numbers again


def test_profile_by_hand() -> None:
    found = profile([0.2, 0.6], [0.0, 0.2, 0.5, 0.6])
    assert found.share.tolist() == [1.0, 0.5, 0.5, 0.0]  # above, not at
    assert found.low.tolist() == [1.0, 0.0, 0.0, 0.0]  # both resampled seeds are the 0.2 in a quarter of the cases
    assert found.high.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert np.isnan(profile([0.2], [0.0, 0.5]).low).all()
