"""Losses of inverse preference learning against numbers worked out by hand and slow loops."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl.losses.ipl import clip_next_value, gumbel_loss, implied_preference_loss, implied_reward, mean_by_source
from lightning_pbrl.losses.offline import advantage_weight, expectile_loss
from lightning_pbrl.losses.preference import preference_cross_entropy


def test_implied_reward_by_hand() -> None:
    # members 2 and 3; gamma .9 and V(s') = 10: 2 - 9, 3 - 9; a terminal step implies Q itself
    q = torch.tensor([[2.0, 2.0], [3.0, 3.0]])
    reward = implied_reward(q, torch.tensor([0.9, 0.0]), torch.tensor([10.0, 10.0]))
    torch.testing.assert_close(reward, torch.tensor([[-7.0, 2.0], [-6.0, 3.0]]))


def test_a_critic_built_from_a_reward_implies_that_reward() -> None:
    rng = torch.Generator().manual_seed(0)
    reward, value = torch.randn(2, 50, generator=rng, dtype=torch.float64), torch.randn(50, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(implied_reward(reward + 0.99 * value, 0.99, value), reward, rtol=0, atol=1e-15)


def test_preference_loss_by_hand() -> None:
    """Two members, two pairs of two steps: sums 1, 2 | 0, 3 and 0, 0 | 4, 0."""
    reward = torch.tensor(
        [[[[0.5, 0.5], [1.5, 0.5]], [[1.0, -1.0], [1.0, 2.0]]], [[[0.0, 0.0], [0.0, 0.0]], [[4.0, 0.0], [0.0, 0.0]]]]
    )
    label = torch.tensor([1.0, 0.5])

    def softplus(x: float) -> float:
        return math.log(1 + math.exp(x))

    # logits 1 and 3 | 0 and -4: softplus(z) - y z
    expected = (softplus(1) - 1 + softplus(3) - 1.5 + softplus(0) + softplus(-4) + 2) / 4
    assert implied_preference_loss(reward, label).item() == pytest.approx(expected, rel=1e-6)


def test_swapping_segments_and_labels_changes_nothing_and_a_tie_of_equals_pulls_nowhere() -> None:
    reward = torch.randn(2, 8, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.tensor([0, 1, 0.5, 1, 0, 0.5, 1, 1], dtype=torch.float64)
    swapped = implied_preference_loss(reward.flip(2), 1 - label)
    torch.testing.assert_close(implied_preference_loss(reward, label), swapped, rtol=0, atol=1e-15)
    equal = torch.randn(2, 3, 1, 5, dtype=torch.float64).expand(-1, -1, 2, -1).clone().requires_grad_()
    (grad,) = torch.autograd.grad(implied_preference_loss(equal, torch.full((3,), 0.5)), equal)
    assert grad.abs().max() < 1e-16


def test_a_reward_model_and_a_critic_built_from_it_agree() -> None:
    rng = torch.Generator().manual_seed(1)
    reward = torch.randn(1, 6, 2, 4, generator=rng, dtype=torch.float64)
    value = 10 * torch.randn(6, 2, 4, generator=rng, dtype=torch.float64)
    label = torch.tensor([0, 1, 1, 0, 0.5, 1], dtype=torch.float64)
    of_critic = implied_preference_loss(implied_reward(reward + 0.99 * value, 0.99, value), label)
    torch.testing.assert_close(of_critic, preference_cross_entropy(reward.sum(-1), label).mean(), rtol=0, atol=1e-13)


def test_members_do_not_feel_each_other_and_the_value_feels_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    q, value = torch.randn(2, 8, generator=rng).requires_grad_(), torch.randn(8, generator=rng)
    label = torch.tensor([1.0, 0.0])

    def gradient(q: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(implied_preference_loss(implied_reward(q, 0.99, value).view(2, 2, 2, 2), label), q)[0]

    other = torch.stack([q[0].detach(), 2 * q[1].detach()]).requires_grad_()  # a shift would cancel
    assert torch.equal(gradient(q)[0], gradient(other)[0])
    assert not torch.equal(gradient(q)[1], gradient(other)[1])


def test_chi2_alone_drives_the_implied_reward_to_zero() -> None:
    q, value = torch.full((1, 4), 3.0, requires_grad=True), torch.tensor([1.0, -2.0, 0.0, 5.0])
    sgd = torch.optim.SGD([q], lr=0.5)
    for _ in range(60):  # each entry shrinks by 1 - .5 * 2 / 4 = 3/4 per step
        sgd.zero_grad()
        mean_by_source(torch.mean, implied_reward(q, 0.9, value).square(), 4, None).backward()
        sgd.step()
    torch.testing.assert_close(q.detach(), 0.9 * value.unsqueeze(0), rtol=0, atol=1e-6)


def test_mean_by_source_by_hand() -> None:
    values = torch.tensor([1.0, 3.0, 10.0])  # two of segments, one replayed
    assert mean_by_source(torch.mean, values, 2, 0.5).item() == 6.0
    assert mean_by_source(torch.mean, values, 2, 0.25).item() == 0.75 * 2 + 0.25 * 10
    assert mean_by_source(torch.mean, values, 2, 0.0).item() == 2.0
    assert mean_by_source(torch.mean, values, 2, 1.0).item() == 10.0
    assert mean_by_source(torch.mean, values, 2, None).item() == pytest.approx(14 / 3)
    assert mean_by_source(torch.mean, values, 3, 0.9).item() == pytest.approx(14 / 3)  # nothing replayed: inert
    members = torch.tensor([[1.0, 3.0, 10.0], [5.0, 7.0, 20.0]])
    assert mean_by_source(torch.mean, members, 2, 0.5).item() == 0.5 * 4 + 0.5 * 15


def test_mean_by_source_takes_losses_that_are_not_linear() -> None:
    # expectile .7: .7 * 4 = 2.8 for u = 2, .3 * 1 for u = -1, .7 * 1 for u = 1
    u = torch.tensor([2.0, -1.0, 1.0])
    found = mean_by_source(lambda u: expectile_loss(u, 0.7), u, 2, 0.5)
    assert found.item() == pytest.approx(0.5 * (2.8 + 0.3) / 2 + 0.5 * 0.7)


def test_next_values_are_clipped_where_the_paper_says() -> None:
    # lambda = 4, gamma = .99: 1 / (4 * .01) = 25
    found = clip_next_value(torch.tensor([-30.0, -25.0, 3.0, 24.9, 1e9]), 4.0, 0.99)
    assert found.tolist() == pytest.approx([-25.0, -25.0, 3.0, 24.9, 25.0], rel=1e-5)


def test_gumbel_loss_by_hand() -> None:
    # beta 2: z = 1, -2: e - 2 and e^-2 + 1
    found = gumbel_loss(torch.tensor([2.0, -4.0], dtype=torch.float64), 2.0)
    assert found.item() == pytest.approx((math.e - 2 + math.exp(-2) + 1) / 2, abs=1e-15)
    assert gumbel_loss(torch.zeros(3), 0.5).item() == 0.0


def test_the_minimum_of_the_gumbel_loss_is_the_soft_maximum() -> None:
    q, beta = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), 0.5
    value = (beta * (q / beta).exp().mean().log()).requires_grad_()
    (grad,) = torch.autograd.grad(gumbel_loss(q - value, beta), value)
    assert abs(grad.item()) < 1e-14


def test_the_gumbel_loss_goes_on_as_its_tangent() -> None:
    """Beyond the clip the value is finite and the gradient is that at the clip, in the right direction."""
    u = torch.tensor([3.0, 1e4], dtype=torch.float64, requires_grad=True)
    loss = gumbel_loss(u, 1.0, clip=2.0) * 2
    # at z = 3: e^2 (1 + 1) - 3 - 1
    assert loss.item() == pytest.approx(2 * math.exp(2) - 4 + math.exp(2) * (1e4 - 1) - 1e4 - 1, rel=1e-14)
    (grad,) = torch.autograd.grad(loss, u)
    assert grad.tolist() == pytest.approx([math.exp(2) - 1] * 2, rel=1e-12)


def test_policy_weights_are_capped_and_finite() -> None:
    weight = advantage_weight(torch.tensor([1e4, -1e4, 0.0]), 1 / 0.3333, 100.0)
    assert weight.tolist() == [100.0, 0.0, 1.0]
