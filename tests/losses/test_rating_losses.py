"""Rating losses against numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl.losses.rating import class_boundaries, class_log_probability, gaussian_nll, rbrl_cross_entropy, squared_error


def test_gaussian_by_hand() -> None:
    mean, variance = torch.tensor([1.0, 4.0]), torch.tensor([1.0, 4.0])
    rating = torch.tensor([2.0, 0.0])  # 1/2 (0 + 1) and 1/2 (ln 4 + 16 / 4)
    assert gaussian_nll(mean, variance, rating).item() == pytest.approx((0.5 + 0.5 * (math.log(4) + 4)) / 2)
    reference = torch.nn.GaussianNLLLoss(eps=1e-6)(mean, rating, variance)
    assert gaussian_nll(mean, variance, rating).item() == pytest.approx(reference.item())
    assert squared_error(mean, rating).item() == (1 + 16) / 2
    assert torch.isfinite(gaussian_nll(mean, torch.zeros(2), rating))


def test_members_have_their_own_loss_and_none_has_zero() -> None:
    mean = torch.tensor([[1.0, 4.0], [2.0, 0.0]])
    rating = torch.tensor([2.0, 0.0])
    assert gaussian_nll(mean, torch.ones(2, 2), rating).tolist() == [(0.5 + 8) / 2, 0.0]
    assert gaussian_nll(torch.empty(3, 0), torch.empty(3, 0), torch.empty(0)).tolist() == [0.0] * 3
    assert squared_error(torch.empty(3, 0), torch.empty(0)).tolist() == [0.0] * 3


def test_boundaries_match_the_class_shares() -> None:
    """Ratings 0, 0, 1, 2, 2 of five clips: two fall below the first cut, three below the second, none is rated 3."""
    returns = torch.tensor([0.0, 10.0, 2.0, 8.0, 4.0])
    rating = torch.tensor([0.0, 2.0, 0.0, 2.0, 1.0])
    assert class_boundaries(returns, rating, 3).tolist() == [0.0, 3.0, 6.0, 10.0]
    assert class_boundaries(returns, rating, 4).tolist() == [0.0, 3.0, 6.0, 10.0, 10.0]
    both = class_boundaries(torch.stack([returns, 2 * returns]), torch.stack([rating, rating]), 3)
    assert both.tolist() == [[0.0, 3.0, 6.0, 10.0], [0.0, 6.0, 12.0, 20.0]]


def test_class_probabilities_by_hand() -> None:
    """Two classes cut in the middle of [0, 10]: at R = 2 the scaled products are (.2)(-.3) and (-.3)(-.8)."""
    log = class_log_probability(torch.tensor([2.0]), torch.tensor([0.0, 5.0, 10.0]), sharpness=10.0)[0]
    odds = math.exp(10 * 0.06 - (-10 * 0.24))
    assert log.exp().tolist() == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])
    inside = class_log_probability(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([0.0, 3.0, 6.0, 10.0]), sharpness=30.0)
    assert inside.argmax(-1).tolist() == [0, 1, 2]


def test_cross_entropy_is_the_mean_log_probability_and_moves_the_returns() -> None:
    returns = torch.tensor([[0.0, 10.0, 2.0, 8.0, 4.0]], requires_grad=True)
    rating = torch.tensor([0.0, 2.0, 0.0, 2.0, 1.0])
    loss = rbrl_cross_entropy(returns, rating, 3)
    log = class_log_probability(returns, torch.tensor([[0.0, 3.0, 6.0, 10.0]]), 30.0)[0]
    assert loss.item() == pytest.approx(-sum(log[i, int(k)].item() for i, k in enumerate(rating)) / 5)
    wrong = rbrl_cross_entropy(returns, rating.flip(0), 3)
    assert loss.item() < wrong.item()
    (slope,) = torch.autograd.grad(wrong.sum(), returns)
    assert slope.abs().max() > 0
