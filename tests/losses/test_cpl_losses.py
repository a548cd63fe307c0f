"""Losses of contrastive preference learning against numbers worked out by hand and slow loops."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl.losses.cpl import cloning_loss, contrastive_loss, preferred, ranked_contrastive_loss
from lightning_pbrl.losses.preference import preference_cross_entropy


def softplus(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def test_contrastive_loss_by_hand() -> None:
    # second preferred: softplus(.5 * 1 - 2); first: softplus(.5 * -1 - 3); tie of 2 and 2: softplus(1 - 2)
    advantage = torch.tensor([[1.0, 2.0], [3.0, -1.0], [2.0, 2.0]], dtype=torch.float64)
    label = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    expected = (softplus(-1.5) + softplus(-3.5) + softplus(-1.0)) / 3
    assert contrastive_loss(advantage, label, 0.5).item() == pytest.approx(expected, abs=1e-15)


def test_without_bias_it_is_the_cross_entropy() -> None:
    rng = torch.Generator().manual_seed(0)
    advantage = 3 * torch.randn(20, 2, generator=rng, dtype=torch.float64)
    label = (torch.arange(20) % 3).double() / 2
    torch.testing.assert_close(contrastive_loss(advantage, label), preference_cross_entropy(advantage, label), rtol=0, atol=1e-14)


def test_a_bias_pushes_the_winner_up_harder_than_the_loser_down() -> None:
    advantage = torch.zeros(1, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(contrastive_loss(advantage, torch.tensor([1.0]), 0.25), advantage)
    assert grad[0].tolist() == pytest.approx([0.125, -0.5])  # sigmoid(0) times b and -1


@pytest.mark.parametrize("bias", [0.5, 1.0])
def test_finite_for_large_advantages(bias: float) -> None:
    size = torch.tensor([-300.0, 300.0])
    advantage = torch.cartesian_prod(size, size).requires_grad_()
    for label in (0.0, 0.5, 1.0):
        loss = contrastive_loss(advantage, torch.full((4,), label), bias)
        (grad,) = torch.autograd.grad(loss, advantage)
        assert torch.isfinite(loss) and torch.isfinite(grad).all() and grad.abs().max() > 0
    # second preferred, but +300 against -300: b * 300 + 300
    assert contrastive_loss(advantage[2:3], torch.ones(1), bias).item() == pytest.approx(300 * bias + 300)
    assert math.isfinite(ranked_contrastive_loss(advantage[:, 0], torch.arange(4.0), bias).item())


@pytest.mark.parametrize("bias", [0.5, 1.0])
def test_ranked_loss_equals_a_slow_loop_over_sorted_segments(bias: float) -> None:
    rng = torch.Generator().manual_seed(2)
    advantage = torch.randn(7, generator=rng, dtype=torch.float64)
    score = torch.tensor([3.0, 1.0, 3.0, 0.0, 2.0, 1.0, 5.0], dtype=torch.float64)
    order, total, count = score.argsort(stable=True).tolist(), 0.0, 0
    for at, low in enumerate(order):
        for high in order[at + 1 :]:
            a_low, a_high = float(advantage[low]), float(advantage[high])
            won = softplus(bias * a_low - a_high)
            total += won if score[low] < score[high] else (won + softplus(bias * a_high - a_low)) / 2
            count += 1
    assert count == 21
    assert ranked_contrastive_loss(advantage, score, bias).item() == pytest.approx(total / 21, abs=1e-14)


def test_cloning_loss_by_hand() -> None:
    # pair 1 prefers the second, pair 2 the first, pair 3 neither: segments of mean -2 | -4, -6 | -8, -10 | -12
    log_prob = -2.0 * torch.arange(1, 7).view(3, 2, 1).expand(3, 2, 2) + torch.tensor([0.5, -0.5])
    label = torch.tensor([1.0, 0.0, 0.5])
    assert cloning_loss(log_prob).item() == pytest.approx(7.0)
    assert cloning_loss(log_prob, label).item() == pytest.approx((4 + 6 + 10 + 12) / 4)


def test_labels_from_scores() -> None:
    assert preferred(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([2.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
