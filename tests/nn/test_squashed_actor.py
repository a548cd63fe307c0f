"""SAC's policy: its density against numerical integration and PyTorch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl.nn import SquashedGaussianActor


def actor(obs_dim: int = 3, action_dim: int = 2, **settings: object) -> SquashedGaussianActor:
    torch.manual_seed(0)
    return SquashedGaussianActor(obs_dim, action_dim, (16, 16), **settings).double()  # type: ignore[arg-type]


def pinned(mean: float, raw: float) -> SquashedGaussianActor:
    """One action entry whose mean and raw log std do not depend on the state."""
    policy = actor(1, 1)
    with torch.no_grad():
        policy.net.weights[-1].zero_()
        policy.net.biases[-1].copy_(torch.tensor([mean, raw]))
    return policy


def test_density_by_hand() -> None:
    """Raw log std 0 is the middle of [-5, 2]: std = exp(-1.5). Noise 1 at mean 0.3, the log density in full."""
    std = math.exp(-1.5)
    x = 0.3 + std
    expected = -0.5 - math.log(std) - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(x) ** 2)
    action, log_prob = pinned(0.3, 0.0).sample(torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    assert action.item() == pytest.approx(math.tanh(x), abs=1e-7)
    assert log_prob.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("raw", "log_std"), [(50.0, 2.0), (-50.0, -5.0), (0.0, -1.5), (1.0, -5 + 3.5 * (math.tanh(1) + 1))])
def test_log_std_is_bounded_by_a_tanh(raw: float, log_std: float) -> None:
    _, found = pinned(0.0, raw)(torch.zeros(1, 1).double())
    assert found.item() == pytest.approx(log_std)


def test_density_integrates_to_one() -> None:
    a = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[:, None]
    density = pinned(0.4, 0.5).log_prob(torch.zeros(len(a), 1).double(), a).exp()
    assert torch.trapezoid(density[1:-1], a[1:-1, 0]).item() == pytest.approx(1.0, abs=1e-4)


def test_density_is_that_of_a_transformed_normal() -> None:
    policy, rng = actor(), torch.Generator().manual_seed(1)
    obs, noise = (torch.randn(64, n, generator=rng, dtype=torch.float64) for n in (3, 2))
    action, log_prob = policy.sample(obs, noise)
    mean, log_std = policy(obs)
    tanh = torch.distributions.transforms.TanhTransform(cache_size=1)
    law = torch.distributions.TransformedDistribution(torch.distributions.Normal(mean, log_std.exp()), tanh)
    torch.testing.assert_close(log_prob, law.log_prob((mean + log_std.exp() * noise).tanh()).sum(-1), rtol=0, atol=1e-8)
    torch.testing.assert_close(policy.log_prob(obs, action), log_prob, rtol=0, atol=1e-8)


def test_far_outside_the_density_and_its_gradient_stay_finite() -> None:
    """tanh(50) is 1 in float32, where log(1 - tanh^2) would be minus infinity: it is 2 (log 2 - 50) to rounding."""
    policy = pinned(50.0, -50.0).float()
    action, log_prob = policy.sample(torch.zeros(1, 1), torch.zeros(1, 1))
    assert action.item() == 1.0
    assert log_prob.item() == pytest.approx(5.0 - 0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 50), rel=1e-6)
    gradients = torch.autograd.grad(log_prob.sum(), list(policy.parameters()))
    assert all(torch.isfinite(g).all() for g in gradients)
    assert torch.isfinite(policy.log_prob(torch.zeros(2, 1), torch.tensor([[1.0], [-1.0]]))).all()


def test_acting() -> None:
    policy = actor()
    obs = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(policy.act(obs), policy(obs)[0].tanh())
    one, two = (policy.act(obs, sample=True, generator=torch.Generator().manual_seed(s)) for s in (3, 3))
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.equal(one, two) and torch.equal(one, policy.sample(obs, noise)[0])
    assert not torch.equal(one, policy.act(obs, sample=True))


def test_weights_are_orthogonal_and_biases_zero() -> None:
    for weight, bias in zip(actor().net.weights, actor().net.biases, strict=True):
        small = weight if weight.shape[0] <= weight.shape[1] else weight.T
        torch.testing.assert_close(small @ small.T, torch.eye(len(small)).double(), rtol=0, atol=1e-6)
        assert not bias.any()
