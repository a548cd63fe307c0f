"""Losses of soft actor-critic against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl.losses.sac import gaussian_kl, soft_actor_loss, soft_td_target, temperature_loss, twin_critic_loss


def test_soft_td_target_by_hand() -> None:
    # row 0: 1 + .5 (min(4, 3) - .2 * (-5)) = 1 + .5 * 4 = 3; row 1: terminated, the reward alone; row 2: 0 + .5 (-2 - .2 * 5)
    target = soft_td_target(
        reward=torch.tensor([1.0, 2.0, 0.0]),
        discount=0.5,
        terminated=torch.tensor([0.0, 1.0, 0.0]),
        next_q=torch.tensor([[4.0, 9.0, -2.0], [3.0, 9.0, 7.0]]),
        next_log_prob=torch.tensor([-5.0, 1.0, 5.0]),
        temperature=torch.tensor(0.2),
    )
    assert target.tolist() == pytest.approx([3.0, 2.0, -1.5])


def test_twin_critic_loss_by_hand() -> None:
    # first critic: (1 + 4) / 2, second: (0 + 9) / 2; their sum
    q, target = torch.tensor([[1.0, 0.0], [2.0, 5.0]]), torch.tensor([2.0, 2.0])
    assert twin_critic_loss(q, target).item() == pytest.approx(2.5 + 4.5)


def test_soft_actor_loss_by_hand_moves_neither_temperature_nor_the_larger_critic() -> None:
    log_prob = torch.tensor([1.0, -1.0], requires_grad=True)
    q = torch.tensor([[3.0, 1.0], [2.0, 4.0]], requires_grad=True)
    temperature = torch.tensor(0.5, requires_grad=True)
    loss = soft_actor_loss(log_prob, q, temperature)
    assert loss.item() == pytest.approx(((0.5 - 2.0) + (-0.5 - 1.0)) / 2)
    loss.backward()
    assert log_prob.grad.tolist() == [0.25, 0.25] and temperature.grad is None
    assert q.grad.tolist() == [[0.0, -0.5], [-0.5, 0.0]]


def test_temperature_loss_is_its_own_gradient() -> None:
    # alpha (-log pi - H): .1 * mean(2 + 3, -1 + 3) = .1 * 3.5
    log_temperature = torch.tensor(math.log(0.1), requires_grad=True)
    log_prob = torch.tensor([-2.0, 1.0], requires_grad=True)
    loss = temperature_loss(log_temperature, log_prob, -3.0)
    assert loss.item() == pytest.approx(0.35)
    loss.backward()
    assert log_temperature.grad.item() == pytest.approx(0.35) and log_prob.grad is None


def test_temperature_falls_when_the_policy_is_more_random_than_asked() -> None:
    """The gradient's sign is that of entropy - target entropy."""
    for log_prob, sign in ((-2.0, 1), (2.0, -1)):  # entropies 2 and -2, target -1
        log_temperature = torch.zeros((), requires_grad=True)
        (gradient,) = torch.autograd.grad(temperature_loss(log_temperature, torch.tensor([log_prob]), -1.0), log_temperature)
        assert gradient.sign().item() == sign


def test_gaussian_kl_by_hand_and_as_torch_has_it() -> None:
    # std 1 and 2, means 0 and 1: log 2 + (1 + 1) / 8 - 1/2, and nothing for the entry in which they agree
    mean, other = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 3.0]])
    log_std, other_log_std = torch.zeros(1, 2), torch.tensor([[math.log(2.0), 0.0]])
    assert gaussian_kl(mean, log_std, other, other_log_std).tolist() == pytest.approx([math.log(2.0) - 0.25])
    mean, log_std, other, other_log_std = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).unbind()
    one, two = (torch.distributions.Normal(m, s.exp()) for m, s in ((mean, log_std), (other, other_log_std)))
    expected = torch.distributions.kl_divergence(one, two).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean, log_std, other, other_log_std), expected)
