"""Losses of PPO and its advantages, against numbers worked out by hand and a slow loop."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl.losses.ppo import (
    approximate_kl,
    clipped_surrogate,
    explained_variance,
    gae,
    gaussian_entropy,
    standardised,
    suffix_sums,
    value_loss,
)


def test_gae_by_hand() -> None:
    """Discount .5, lambda .5, one environment: a time limit after step 0, a fall after step 2, the rollout's end after step 3."""
    column = {
        "reward": [1.0, 2.0, 3.0, 4.0],
        "value": [1.0, 0.0, 2.0, 8.0],
        "next_value": [6.0, 2.0, 100.0, 4.0],
        "terminated": [0.0, 0.0, 1.0, 0.0],
        "ended": [1.0, 0.0, 1.0, 0.0],
    }
    advantage = gae(**{key: torch.tensor(values)[:, None] for key, values in column.items()}, discount=0.5, gae_lambda=0.5)
    # deltas: 1 + .5 * 6 - 1 = 3; 2 + .5 * 2 - 0 = 3; 3 - 2 = 1; 4 + .5 * 4 - 8 = -2. Only step 1 looks ahead: 3 + .25 * 1
    assert advantage.flatten().tolist() == pytest.approx([3.0, 3.25, 1.0, -2.0])


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 37])
def test_gae_is_the_slow_loop(steps: int) -> None:
    rng = torch.Generator().manual_seed(steps)
    reward, value, next_value = (torch.randn(steps, 3, generator=rng, dtype=torch.float64) for _ in range(3))
    ended = (torch.rand(steps, 3, generator=rng) < 0.2).double()
    terminated = ended * (torch.rand(steps, 3, generator=rng) < 0.5)
    ours = gae(reward, value, next_value, terminated, ended, 0.99, 0.95)
    for env in range(3):
        ahead = 0.0
        for t in reversed(range(steps)):
            bootstrap = 0.0 if terminated[t, env] else 0.99 * next_value[t, env].item()
            delta = reward[t, env].item() + bootstrap - value[t, env].item()
            ahead = delta + (0.0 if ended[t, env] else 0.99 * 0.95 * ahead)
            assert ours[t, env].item() == pytest.approx(ahead, abs=1e-12)


def test_suffix_sums_by_hand() -> None:
    x, factor = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 0.5, 99.0])
    assert suffix_sums(x, factor).tolist() == [36.0, 3.5, 3.0]  # 1 + 10 * 3.5, 2 + .5 * 3, 3


def test_standardised_by_hand() -> None:
    # mean 2, unbiased deviation sqrt((1 + 0 + 1) / 2) = 1
    assert standardised(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert standardised(torch.tensor([7.0])).tolist() == [7.0]
    assert standardised(torch.tensor([4.0, 4.0])).tolist() == [0.0, 0.0]


def test_clipped_surrogate_by_hand_and_where_its_gradient_ends() -> None:
    log_ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0]).log().requires_grad_(True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 3.0])
    # min(1.5, 1.2), min(-1.5, -1.2), min(.5, .8), min(-.5, -.8), 3
    loss = clipped_surrogate(log_ratio.exp(), advantage, torch.tensor(0.2))
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 3.0) / 5)
    loss.backward()
    # d(rho A) / d log rho = rho A, and none where clipping has taken away what was won already
    assert log_ratio.grad.tolist() == pytest.approx([0.0, 1.5 / 5, -0.5 / 5, 0.0, -3.0 / 5])


def test_value_loss_by_hand() -> None:
    assert value_loss(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])).item() == pytest.approx(2.5)


def test_entropy_is_torchs() -> None:
    log_std = torch.tensor([[0.0, -1.0], [0.5, 2.0]])
    law = torch.distributions.Normal(torch.zeros(2, 2), log_std.exp())
    torch.testing.assert_close(gaussian_entropy(log_std), law.entropy().sum(-1))


def test_kl_by_hand() -> None:
    assert approximate_kl(torch.zeros(3), torch.ones(3)).item() == 0.0
    log_ratio = torch.tensor([math.log(2.0), math.log(0.5)])
    assert approximate_kl(log_ratio, log_ratio.exp()).item() == pytest.approx(((1 - math.log(2)) + (-0.5 + math.log(2))) / 2)


def test_explained_variance_by_hand() -> None:
    target = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    assert explained_variance(target, target).item() == 1.0
    assert explained_variance(torch.full((2, 2), 9.0), target).item() == pytest.approx(0.0)
    assert explained_variance(target / 2, target).item() == pytest.approx(0.75)
