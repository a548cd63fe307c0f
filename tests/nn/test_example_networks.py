"""Contrastive critic, picture encoder, tailed density, initialisation: numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_pbrl.nn import MLP, AtariTorso, ContrastiveCritic, SquashedGaussianActor, TwinValue
from lightning_pbrl.nn.squashed_actor import BORDER, log_ndtr, tailed_log_density


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Initialisation and frozen weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "limits"), [("fan_in", (3 / 100, 3 / 400)), ("fan_avg", (3 / 250, 3 / 250))])
@pytest.mark.parametrize("members", [None, 2])
def test_uniform_initialisation(kind: str, limits: tuple[float, float], members: int | None) -> None:
    """Layers 100 -> 400 -> 100: limits sqrt(3 / fan), nearly reached by 40,000 draws; biases 0."""
    torch.manual_seed(0)
    net = MLP(100, 100, (400,), members, uniform_init=kind)  # type: ignore[arg-type]
    for weight, bias, limit in zip(net.weights, net.biases, limits, strict=True):
        assert 0.999 * limit**0.5 < weight.abs().max().item() <= limit**0.5
        assert weight.var().item() == pytest.approx(limit / 3, rel=0.03) and not bias.any()


@pytest.mark.parametrize("layout", ["loop", "batched"])
def test_a_frozen_network_passes_the_gradient_of_its_input_only(layout: str) -> None:
    net = MLP(3, 2, (8,), members=2, layout=layout)
    x = torch.randn(5, 3, generator=rng(), requires_grad=True)
    free, held = net(x).square().sum(), net(x, frozen=True).square().sum()
    assert torch.equal(free, held)
    wanted = [x, *net.parameters()]
    of_free = torch.autograd.grad(free, wanted)
    of_held = torch.autograd.grad(held, wanted, allow_unused=True)
    torch.testing.assert_close(of_held[0], of_free[0])
    assert all(gradient is None for gradient in of_held[1:])


# Critic ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repr_norm", [False, True])
def test_rows_are_the_diagonal_of_all_pairs(repr_norm: bool) -> None:
    critic = ContrastiveCritic(3, 2, (16,), repr_dim=8, repr_norm=repr_norm)
    obs, action, goal = (torch.randn(6, n, generator=rng(n)) for n in (3, 2, 3))
    phi, psi = critic.phi(obs, action), critic.psi(goal)
    pairs = critic.every_pair(phi, psi)
    assert pairs.shape == (2, 6, 6)
    torch.testing.assert_close(pairs.diagonal(dim1=1, dim2=2), critic.row_by_row(phi, psi))
    assert not torch.allclose(pairs[0], pairs[1])
    torch.testing.assert_close(pairs, torch.einsum("ebd,end->ebn", phi, psi))


def test_normed_embeddings_have_length_one_and_a_learned_temperature() -> None:
    critic = ContrastiveCritic(3, 2, (16,), repr_dim=8, repr_norm=True)
    obs, action = torch.randn(6, 3, generator=rng()), torch.randn(6, 2, generator=rng(1))
    assert critic.log_scale is not None and critic.log_scale.item() == 0
    with torch.no_grad():
        critic.log_scale.fill_(math.log(0.1))
    torch.testing.assert_close(critic.phi(obs, action).norm(dim=-1), torch.full((2, 6), 10.0))
    torch.testing.assert_close(critic.psi(obs).norm(dim=-1), torch.ones(2, 6))
    assert "log_scale" not in dict(ContrastiveCritic(3, 2, (16,), 8).named_parameters())


# Density --------------------------------------------------------------------------------------------------------------------


def test_log_ndtr_is_torchs() -> None:
    x = torch.linspace(-30, 30, 601, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(log_ndtr(x), torch.special.log_ndtr(x), rtol=1e-10, atol=1e-300)
    ours, theirs = (torch.autograd.grad(f(x).sum(), x)[0] for f in (log_ndtr, torch.special.log_ndtr))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-300)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (2.5, 0.3), (-3.0, 0.3)])
def test_tailed_density_integrates_to_one(mean: float, std: float) -> None:
    """Its middle by quadrature, its two tails as mean density times width."""
    a = torch.linspace(-BORDER, BORDER, 400_001, dtype=torch.float64)[1:-1, None]
    where, spread = torch.full_like(a, mean), torch.full_like(a, math.log(std))
    middle = torch.trapezoid(tailed_log_density(where, spread, a).exp(), a[:, 0])
    ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    tails = tailed_log_density(where[:2], spread[:2], ends).exp().sum() * (1 - BORDER)
    assert (middle + tails).item() == pytest.approx(1.0, abs=1e-3)


def test_the_tail_by_hand() -> None:
    """Mean 0, std 1: P(|x| > atanh .999) on each side, spread over .001; equal for all actions beyond the border."""
    tail = 0.5 * math.erfc(math.atanh(0.999) / math.sqrt(2)) / 0.001
    zero = torch.zeros(4, 1)
    found = tailed_log_density(zero, zero, torch.tensor([[1.0], [-1.0], [0.9995], [-0.9991]]))
    assert found.tolist() == pytest.approx([math.log(tail)] * 4, rel=1e-4)


@pytest.mark.parametrize("min_std", [1e-6, 0.1])
def test_cloning_actions_of_exactly_one_is_finite_and_has_a_gradient(min_std: float) -> None:
    torch.manual_seed(0)
    actor = SquashedGaussianActor(3, 2, (16,), min_std=min_std)
    action = torch.tensor([[1.0, -1.0], [-1.0, 0.0], [0.3, 1.0]])
    log_prob = actor.log_prob(torch.randn(3, 3, generator=rng()), action)
    gradients = torch.autograd.grad(log_prob.sum(), list(actor.parameters()))
    assert torch.isfinite(log_prob).all() and all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


def test_softplus_spread_and_exact_density_of_samples() -> None:
    torch.manual_seed(0)
    actor = SquashedGaussianActor(3, 2, (16,), min_std=0.1).double()
    obs, noise = torch.randn(8, 3, generator=rng()).double(), torch.randn(8, 2, generator=rng(1)).double()
    mean, log_std = actor(obs)
    raw = actor.net(obs)[:, 2:]
    torch.testing.assert_close(log_std.exp(), F.softplus(raw) + 0.1)
    action, log_prob = actor.sample(obs, noise)
    assert action.abs().max() < BORDER
    torch.testing.assert_close(actor.log_prob(obs, action), log_prob)
    torch.testing.assert_close(actor.act(obs), mean.tanh())


# Pictures -------------------------------------------------------------------------------------------------------------------


def reference_torso(torso: AtariTorso, pictures: torch.Tensor) -> torch.Tensor:
    """The same by PyTorch's own symmetric padding, which for 64 points is (2, 1, 1)."""
    x = pictures.permute(0, 3, 1, 2) / 255.0
    for layer, stride, padding in zip(torso.convolutions, (4, 2, 1), (2, 1, 1), strict=True):
        x = F.relu(F.conv2d(x, layer.weight, layer.bias, stride=stride, padding=padding))
    return x.permute(0, 2, 3, 1).flatten(1)


def test_torso_of_64_points() -> None:
    torch.manual_seed(0)
    torso, pictures = AtariTorso(64), torch.randint(0, 256, (3, 64, 64, 3), generator=rng(), dtype=torch.uint8)
    assert torso.features == 4096 and torso.padding == [(2, 2, 2, 2), (1, 1, 1, 1), (1, 1, 1, 1)]
    expected = reference_torso(torso, pictures.float())
    torch.testing.assert_close(torso(pictures.flatten(1)), expected)
    torch.testing.assert_close(torso(pictures.flatten(1).float()), expected)
    for layer, fan in zip(torso.convolutions, (3 * 64, 32 * 16, 64 * 9), strict=True):
        assert layer.weight.abs().max().item() <= 2 * fan**-0.5 and not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx(0.88 * fan**-0.5, rel=0.03)  # cut at two deviations


def test_odd_padding_comes_last() -> None:
    """15 points: 4, 2, 2; the first layer lacks (4 - 1) 4 + 8 - 15 = 5 points, two before and three after."""
    torso = AtariTorso(15)
    assert torso.padding[0] == (2, 3, 2, 3) and torso.features == 64 * 2 * 2
    assert torso(torch.zeros(2, 15 * 15 * 3, dtype=torch.uint8)).shape == (2, 256)


def test_two_pictures_side_by_side() -> None:
    torch.manual_seed(0)
    torso = AtariTorso(16, pictures=2)
    one, two = torch.randint(0, 256, (2, 4, 16 * 16 * 3), generator=rng(), dtype=torch.uint8)
    alone = AtariTorso(16)
    alone.load_state_dict(torso.state_dict())
    torch.testing.assert_close(torso(torch.cat([one, two], 1)), torch.cat([alone(one), alone(two)], 1))


def test_twin_values_share_their_torso() -> None:
    value = TwinValue(5, 2, (8,), AtariTorso(8))
    features = value.encode(torch.zeros(3, 192, dtype=torch.uint8))
    assert value(features, torch.zeros(3, 2)).shape == (2, 3)
    assert sum(name.startswith("torso") for name, _ in value.named_parameters()) == 6
