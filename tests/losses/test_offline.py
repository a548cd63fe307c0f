"""Losses of offline policy learning against numbers worked out by hand and slow loops."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl.losses.offline import advantage_weight, expectile_loss, td_target


def test_expectile_loss_by_hand() -> None:
    # u = 2: 0.7 * 4 = 2.8; u = -1: 0.3 * 1 = 0.3; u = 0: 0; mean 3.1 / 3
    assert expectile_loss(torch.tensor([2.0, -1.0, 0.0]), 0.7).item() == pytest.approx(3.1 / 3)


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_expectile_loss_equals_a_slow_loop(expectile: float) -> None:
    u = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slow = sum((abs(expectile - (1.0 if x < 0 else 0.0)) * x * x for x in u.tolist()), 0.0) / 50
    assert expectile_loss(u, expectile).item() == pytest.approx(slow, abs=1e-14)


def test_half_expectile_is_half_the_squared_error() -> None:
    u = torch.tensor([3.0, -3.0, 1.0])
    assert expectile_loss(u, 0.5).item() == pytest.approx(0.5 * 19 / 3)


def test_expectile_minimum_is_the_expectile() -> None:
    """Of {0, 1}: tau (1 - m) = (1 - tau) m, so m = tau."""
    m = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(expectile_loss(torch.tensor([0.0, 1.0], dtype=torch.float64) - m, 0.8), m)
    assert abs(grad.item()) < 1e-15


def test_advantage_weight_by_hand_and_its_limit() -> None:
    weight = advantage_weight(torch.tensor([0.0, 1.0, -1.0, 2.0]), 3.0)
    assert weight.tolist() == pytest.approx([1.0, math.exp(3), math.exp(-3), 100.0], rel=1e-6)  # exp(6) = 403 is cut
    assert advantage_weight(torch.tensor([1.0, 5.0]), 0.0).tolist() == [1.0, 1.0]
    assert advantage_weight(torch.tensor([9.0]), 1.0, limit=7.0).item() == 7.0


def test_no_gradient_flows_through_the_weight() -> None:
    assert not advantage_weight(torch.ones(3, requires_grad=True), 3.0).requires_grad


def test_td_target_by_hand() -> None:
    # 1 + .9 * 10 = 10; terminated: 1 alone
    target = td_target(torch.tensor([1.0, 1.0]), 0.9, torch.tensor([0.0, 1.0]), torch.tensor([10.0, 10.0]))
    assert target.tolist() == pytest.approx([10.0, 1.0])
