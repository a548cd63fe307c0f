"""Information of answers: numbers by hand, exact zeros, bounds, quadrature."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from lightning_pbrl.losses.information import (
    bald,
    entropy_bits,
    margin,
    mixture_bald,
    pair_probability,
    predictive_entropy,
    rating_probability,
    spread,
)

rng = torch.Generator().manual_seed(0)


def entropy(*p: float) -> float:
    return -sum(x * math.log2(x) for x in p if x > 0)


@pytest.mark.parametrize("draws", [2, 3, 20])
def test_a_clip_with_itself_tells_nothing(draws: int) -> None:
    """Exactly: whatever a draw thinks of the clip, it thinks it twice."""
    clip = 100 * torch.randn(draws, 50, generator=rng)
    assert torch.equal(bald(pair_probability(torch.stack([clip, clip], -1))), torch.zeros(50, dtype=torch.float64))


def test_pairs_by_hand() -> None:
    """Two draws that say 3/4 and 1/4 of the second: the mean is a coin toss, each draw is worth H(1/4) = 0.811 bits."""
    gap = torch.tensor([math.log(3), -math.log(3)])
    returns = torch.stack([torch.zeros(2), gap], -1).unsqueeze(1)
    probability = pair_probability(returns)
    assert probability[:, 0, 1].tolist() == pytest.approx([0.75, 0.25])
    assert bald(probability).item() == pytest.approx(1 - entropy(0.25, 0.75), abs=1e-6)
    assert predictive_entropy(probability).item() == pytest.approx(1.0)
    assert margin(probability).item() == pytest.approx(1.0)
    assert spread(gap.unsqueeze(1)).item() == pytest.approx(math.log(3) ** 2)


def test_agreement_and_full_disagreement() -> None:
    agreed = pair_probability(torch.tensor([[[0.0, 2.0]], [[5.0, 7.0]]]))
    assert bald(agreed).item() == pytest.approx(0.0, abs=1e-12)
    assert predictive_entropy(agreed).item() == pytest.approx(entropy(*torch.sigmoid(torch.tensor([2.0, -2.0])).tolist()))
    opposed = pair_probability(torch.tensor([[[0.0, 1e4]], [[1e4, 0.0]]]))  # probabilities of exactly 0 and 1
    assert bald(opposed).item() == 1.0 and margin(opposed).item() == 1.0
    assert margin(pair_probability(torch.tensor([[[0.0, 1e4]]]))).item() == 0.0


def test_bounds() -> None:
    pairs = bald(pair_probability(30 * torch.randn(20, 500, 2, generator=rng)))
    assert pairs.min() >= 0 and pairs.max() <= 1
    mean, variance = 5 + 20 * torch.randn(20, 500, generator=rng), 0.01 + torch.rand(20, 500, generator=rng)
    ratings = bald(rating_probability(mean, variance, 10))
    assert ratings.min() >= 0 and ratings.max() <= math.log2(10)
    assert mixture_bald(mean, variance).max() <= math.log2(20) + 1e-9
    apart = torch.arange(20.0).unsqueeze(1) * 1e3  # twenty draws that any answer tells apart
    assert mixture_bald(apart, torch.ones(20, 1)).item() == pytest.approx(math.log2(20))
    classes = bald(rating_probability(torch.arange(8.0).unsqueeze(1), torch.full((8, 1), 1e-6), 8))
    assert classes.item() == pytest.approx(3.0)


def test_rating_probabilities_by_hand() -> None:
    """N(1, 1) rounded to 0, 1, 2: Phi(-1/2), the middle, and the rest; the first and the last bin are open."""
    probability = rating_probability(torch.tensor([1.0]), torch.tensor([1.0]), 3)[0]
    tail = 0.5 * (1 + math.erf(-0.5 / math.sqrt(2)))
    assert probability.tolist() == pytest.approx([tail, 1 - 2 * tail, tail])
    far = rating_probability(torch.tensor([-50.0, 50.0]), torch.tensor([1.0, 1.0]), 10)
    assert far[0, 0] == 1 and far[1, -1] == 1
    wide = rating_probability(torch.randn(7, 5, generator=rng), torch.rand(7, 5, generator=rng) + 0.1, 6)
    assert torch.allclose(wide.sum(-1), torch.ones(7, 5, dtype=torch.float64))


def test_ratings_against_a_slow_sum() -> None:
    mean, variance = 3 * torch.randn(4, 3, generator=rng) + 2, torch.rand(4, 3, generator=rng) + 0.2
    found = bald(rating_probability(mean, variance, 5))
    for b in range(3):
        rows = []
        for d in range(4):
            sd = math.sqrt(variance[d, b])
            below = [0.0, *(0.5 * (1 + math.erf((k + 0.5 - mean[d, b].item()) / sd / math.sqrt(2))) for k in range(4)), 1.0]
            rows.append([after - before for before, after in pairwise(below)])
        together = [sum(column) / 4 for column in zip(*rows, strict=True)]
        assert found[b].item() == pytest.approx(entropy(*together) - sum(entropy(*row) for row in rows) / 4, abs=1e-6)


def test_the_mixture_against_quadrature() -> None:
    """20 components, against the integral on a fine grid over the whole line."""
    mean, variance = 3 * torch.randn(20, 6, generator=rng).double(), 0.3 + torch.rand(20, 6, generator=rng).double()
    y = torch.linspace(-25, 25, 200_001, dtype=torch.float64)
    for b in range(6):
        density = torch.zeros_like(y)
        for d in range(20):
            density += torch.exp(-0.5 * (y - mean[d, b]) ** 2 / variance[d, b]) / (2 * math.pi * variance[d, b]).sqrt() / 20
        joint = -torch.trapezoid(torch.special.xlogy(density, density), y) / math.log(2)
        own = (0.5 * (2 * math.pi * math.e * variance[:, b]).log2()).mean()
        assert mixture_bald(mean[:, b : b + 1], variance[:, b : b + 1]).item() == pytest.approx((joint - own).item(), abs=1e-6)


def test_many_fine_bins_tell_as_much_as_the_number_itself() -> None:
    """Rounding to bins that are narrow beside the noise loses next to nothing."""
    mean, variance = 50 + 20 * torch.randn(10, 4, generator=rng), torch.full((10, 4), 16.0)
    assert torch.allclose(bald(rating_probability(mean, variance, 100)), mixture_bald(mean, variance), atol=0.01)
    coarse = bald(rating_probability(mean / 25, variance / 625, 4))
    assert (coarse < mixture_bald(mean, variance)).all()


def test_entropy_of_certainty_is_zero() -> None:
    assert entropy_bits(torch.tensor([0.0, 1.0, 0.0])).item() == 0.0
    assert entropy_bits(torch.full((8,), 1 / 8)).item() == pytest.approx(3.0)
