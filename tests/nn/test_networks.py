"""Networks: the population axis in both layouts, initialisation, the Gaussian policy, the normaliser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.nn import MLP, DeterministicActor, GaussianActor, Normalizer, RunningNormalizer
from lightning_pbrl.nn.actor import LOG_STD_RANGE


def plain_member(mlp: MLP, e: int | None) -> nn.Sequential:
    """The same network from ``nn.Linear``s, member ``e`` of a population."""
    layers: list[nn.Module] = []
    for weight, bias in zip(mlp.weights, mlp.biases, strict=True):
        w, b = (weight, bias) if e is None else (weight[e], bias[e])
        linear = nn.Linear(w.shape[1], w.shape[0])
        linear.weight.data, linear.bias.data = w.detach().clone(), b.detach().clone()
        layers += [linear, mlp.activation]
    return nn.Sequential(*layers[:-1], mlp.output).double()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("output", [None, nn.Tanh])
def test_population_equals_separate_networks(activation: type[nn.Module], output: type[nn.Module] | None) -> None:
    torch.manual_seed(0)
    mlp = MLP(4, 3, (8, 7), members=5, activation=activation, output=output).double()
    shared, own = torch.randn(11, 4, dtype=torch.float64), torch.randn(5, 11, 4, dtype=torch.float64)
    for x in (shared, own):
        inputs = x.unbind(0) if x.dim() == 3 else (x,) * 5
        expected = torch.stack([plain_member(mlp, e)(inputs[e]) for e in range(5)])
        for layout in ("loop", "batched", "auto"):
            mlp.layout = layout
            assert mlp(x).shape == (5, 11, 3)
            torch.testing.assert_close(mlp(x), expected, rtol=0, atol=1e-14)


def test_both_layouts_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    mlp, x = MLP(4, 1, (8,), members=3).double(), torch.randn(6, 4, dtype=torch.float64)
    grads: list[tuple[Tensor, ...]] = []
    for mlp.layout in ("loop", "batched"):
        grads.append(torch.autograd.grad(mlp(x).square().sum(), list(mlp.parameters())))
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-13)


def test_single_network_takes_any_leading_axes() -> None:
    mlp = MLP(4, 2, (8,))
    x = torch.randn(3, 5, 4)
    torch.testing.assert_close(mlp(x), plain_member(mlp, None).float()(x))


def test_members_of_one_do_not_lose_their_axis() -> None:
    assert MLP(4, 2, (8,), members=1)(torch.zeros(3, 4)).shape == (1, 3, 2)


def test_initialisation_is_that_of_linear_layers() -> None:
    """U(-b, b), b = 1/sqrt(fan in): inside the bounds, close to them, and with the uniform law's variance b^2 / 3."""
    torch.manual_seed(0)
    mlp = MLP(16, 1, (400, 400), members=4)
    for (weight, bias), fan_in in zip(zip(mlp.weights, mlp.biases, strict=True), (16, 400, 400), strict=True):
        bound = 1 / math.sqrt(fan_in)
        assert weight.abs().max() <= bound and bias.abs().max() <= bound
        assert weight.abs().max() > 0.98 * bound
        if weight.numel() > 10_000:
            assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.03)
    assert not torch.equal(mlp.weights[0][0], mlp.weights[0][1])  # members differ


def test_gaussian_log_density_is_that_of_torch_distributions() -> None:
    torch.manual_seed(0)
    actor = GaussianActor(4, 3, (8,)).double()
    actor.log_std.data = torch.tensor([-1.0, 0.3, 0.0], dtype=torch.float64)
    obs, action = torch.randn(7, 4, dtype=torch.float64), torch.rand(7, 3, dtype=torch.float64) * 2 - 1
    law = torch.distributions.Normal(actor.mean(obs), actor.log_std.exp())
    torch.testing.assert_close(actor.log_prob(obs, action), law.log_prob(action).sum(-1), rtol=0, atol=1e-13)


def test_log_std_is_clamped() -> None:
    actor = GaussianActor(4, 1, (8,))
    obs, action = torch.zeros(1, 4), torch.zeros(1, 1)
    actor.log_std.data.fill_(50.0)
    high = actor.log_prob(obs, action)
    actor.log_std.data.fill_(LOG_STD_RANGE[1])
    assert torch.equal(high, actor.log_prob(obs, action))


def test_actions_lie_in_range_and_samples_have_the_policy_spread() -> None:
    torch.manual_seed(0)
    actor = GaussianActor(4, 2, (8,))
    actor.log_std.data.fill_(math.log(0.05))
    obs = torch.zeros(4000, 4)
    mean = actor.act(obs)
    assert torch.equal(mean, actor.mean(obs)) and mean.abs().max() <= 1
    sample = actor.act(obs, sample=True, generator=torch.Generator().manual_seed(1))
    assert (sample - mean).std().item() == pytest.approx(0.05, rel=0.05)
    assert torch.equal(sample, actor.act(obs, sample=True, generator=torch.Generator().manual_seed(1)))
    actor.log_std.data.fill_(2.0)
    assert actor.act(obs, sample=True).abs().max() == 1.0


@pytest.mark.parametrize("layout", ["loop", "batched"])
def test_standardised_layers_by_hand(layout: str) -> None:
    """Hidden values 1 and 3, of mean 2 and deviation 1, become -1 and 1, and ReLU leaves 0 and 1: 2 and 5 give 5, whatever x."""
    net = MLP(1, 1, (2,), members=2, layout=layout, layer_norm=True)
    with torch.no_grad():
        net.weights[0].copy_(torch.tensor([[1.0], [3.0]]).expand(2, 2, 1))
        net.weights[1].copy_(torch.tensor([[2.0, 5.0]]).expand(2, 1, 2))
        net.biases[0].zero_()
        net.biases[1].zero_()
    torch.testing.assert_close(net(torch.tensor([[1.0], [7.0]])), torch.full((2, 2, 1), 5.0), rtol=1e-4, atol=1e-4)
    assert net.state_dict().keys() == MLP(1, 1, (2,), members=2).state_dict().keys()


def test_normalizer_equals_numpy() -> None:
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.0]) + 5
    normalizer = Normalizer(3)
    normalizer.fit(x)
    array = x.double().numpy()
    expected = (array - array.mean(0)) / (array.std(0) + 1e-3)
    np.testing.assert_allclose(normalizer(x).numpy(), expected, atol=2e-5)
    assert normalizer(x)[:, 2].abs().max() == 0  # a constant coordinate: no division by zero


def test_normalizer_sees_ragged_episodes_without_padding() -> None:
    """Episodes of 2 and 1 steps: the mean of the three real rows is 3, with a padding row it would be 2.25."""
    normalizer = Normalizer(1)
    normalizer.fit(torch.tensor([[1.0], [2.0], [6.0]]))
    assert normalizer.mean.item() == 3.0
    assert normalizer.scale.item() == pytest.approx(1 / (math.sqrt(14 / 3) + 1e-3))


def test_normalizer_does_not_depend_on_its_chunks() -> None:
    """More rows than one chunk of 65,536, far from zero: the two-pass sums in float64 keep all digits of float32."""
    x = 1e4 + torch.randn(70_000, 2, generator=torch.Generator().manual_seed(0))
    normalizer = Normalizer(2)
    normalizer.fit(x)
    array = x.double().numpy()
    np.testing.assert_allclose(normalizer.mean.numpy(), array.mean(0), rtol=1e-7)
    np.testing.assert_allclose(normalizer.scale.numpy(), 1 / (array.std(0) + 1e-3), rtol=1e-6)


def test_normalizer_is_saved_but_never_trained() -> None:
    normalizer = Normalizer(2)
    assert set(normalizer.state_dict()) == {"mean", "scale"} and not list(normalizer.parameters())


def test_orthogonal_initialisation() -> None:
    """Every member's matrix has orthonormal rows or columns, of its own; biases are zero."""
    torch.manual_seed(0)
    mlp = MLP(5, 3, (16, 16), members=2, ortho_init=True)
    for weight in mlp.weights:
        for matrix in weight.detach():
            wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            torch.testing.assert_close(wide @ wide.T, torch.eye(len(wide)), rtol=0, atol=1e-5)
        assert not torch.equal(weight[0], weight[1])
    assert all((bias == 0).all() for bias in mlp.biases)


@pytest.mark.parametrize(("members", "layout"), [(None, "auto"), (2, "loop"), (2, "batched")])
def test_dropout_drops_hidden_units_while_training_only(members: int | None, layout: str) -> None:
    torch.manual_seed(0)
    mlp = MLP(4, 1, (2000,), members=members, layout=layout, dropout=0.25)
    plain = MLP(4, 1, (2000,), members=members, layout=layout)
    plain.load_state_dict(mlp.state_dict())
    x = torch.randn(300, 4)
    assert torch.equal(mlp(x, dropout=False), plain(x))
    assert not torch.equal(mlp(x), mlp(x))
    # kept units are scaled up by 4/3: the mean over masks is the whole network, the variance p / (1 - p) sum (w h)^2
    error = mlp(x).detach() - plain(x).detach()
    assert abs(error.mean().item()) < 4 * error.std().item() / error.numel() ** 0.5
    layers = zip(plain.weights, plain.biases, strict=True)
    (w0, b0), (w1, _) = ((w, b) if members is None else (w[0], b[0]) for w, b in layers)
    expected = 0.25 / 0.75 * (w1 * torch.relu(x @ w0.T + b0)).square().sum(1).mean()
    assert (error if members is None else error[0]).var().item() == pytest.approx(expected.item(), rel=0.3)
    assert torch.equal(mlp.eval()(x), plain(x))


@pytest.mark.parametrize(("members", "layout"), [(None, "auto"), (2, "loop"), (2, "batched")])
def test_a_held_output_bias_counts_but_has_no_gradient(members: int | None, layout: str) -> None:
    torch.manual_seed(0)
    held = MLP(4, 1, (8,), members=members, layout=layout, hold_output_bias=True)
    free = MLP(4, 1, (8,), members=members, layout=layout)
    free.load_state_dict(held.state_dict())
    x = torch.randn(6, 4)
    assert torch.equal(held(x), free(x))
    *others, last = torch.autograd.grad(held(x).square().sum(), list(held.parameters()))
    *expected, moved = torch.autograd.grad(free(x).square().sum(), list(free.parameters()))
    torch.testing.assert_close(others, expected)
    assert (last == 0).all() and (moved != 0).any()


def test_a_deterministic_policy_has_the_density_of_a_squared_error() -> None:
    torch.manual_seed(0)
    actor = DeterministicActor(4, 3, (8,), dropout=0.5)
    obs, action = torch.randn(7, 4), torch.rand(7, 3) * 2 - 1
    mean = actor.act(obs, sample=True)
    assert torch.equal(mean, actor.act(obs)) and mean.abs().max() <= 1
    pairs = zip(mean.tolist(), action.tolist(), strict=True)
    slow = [-sum((m - a) ** 2 for m, a in zip(*row, strict=True)) for row in pairs]
    assert actor.log_prob(obs, action, dropout=False).tolist() == pytest.approx(slow, abs=1e-5)


def test_a_gaussian_sample_is_mean_plus_noise_in_units_of_its_spread() -> None:
    torch.manual_seed(0)
    actor = GaussianActor(4, 2, (8,), log_std_range=(-1.0, 0.5), dropout=0.5)
    actor.log_std.data = torch.tensor([-3.0, 0.25])
    obs, noise = torch.randn(5, 4), torch.full((5, 2), 3.0)
    expected = actor.act(obs) + 3 * torch.tensor([math.exp(-1.0), math.exp(0.25)])
    torch.testing.assert_close(actor.sample(obs, noise), expected)


def test_gains_scale_orthogonal_layers() -> None:
    torch.manual_seed(0)
    mlp = MLP(4, 1, (16, 16), members=2, ortho_init=True, gains=(math.sqrt(2), 0.01))
    for weight, gain in zip(mlp.weights, (math.sqrt(2), math.sqrt(2), 0.01), strict=True):
        for matrix in weight.detach():
            wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            torch.testing.assert_close(wide @ wide.T, gain**2 * torch.eye(len(wide)), rtol=1e-5, atol=1e-6)
    before = [weight.clone() for weight in mlp.weights]
    mlp.biases[-1].data.fill_(3.0)
    mlp.ortho_init(-1)
    assert [torch.equal(*pair) for pair in zip(before, mlp.weights, strict=True)] == [True, True, False]
    assert (mlp.biases[-1] == 0).all() and mlp.weights[-1].detach().norm(dim=-1).tolist() == [[pytest.approx(1.0)]] * 2


def test_the_unbounded_policy_is_a_normal_law_whose_actions_are_clamped() -> None:
    torch.manual_seed(0)
    actor = GaussianActor.unbounded(3, 2, (8,))
    obs, action = torch.randn(50, 3), 4 * torch.randn(50, 2)
    mean = actor.mean(obs)
    assert mean.abs().max() < 0.1  # a gain of 0.01
    actor.log_std.data = torch.tensor([-30.0, 3.0])  # beyond the bounds of others
    actor.mean.biases[-1].data.fill_(5.0)
    law = torch.distributions.Normal(actor.mean(obs), actor.log_std.exp())
    taken = law.loc + action * law.scale
    torch.testing.assert_close(actor.log_prob(obs, taken), law.log_prob(taken).sum(-1))
    assert (actor.act(obs) == 1.0).all()


def test_running_normalizer_equals_numpy_however_the_rows_come() -> None:
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.0]) + 5
    array = x.double().numpy()
    expected = ((array - array.mean(0)) / np.sqrt(array.var(0) + 1e-8)).clip(-10, 10)
    for sizes in ([500], [1] * 500, [1, 7, 100, 392]):
        normalizer = RunningNormalizer(3)
        for part in x.split(sizes):
            normalizer.see(part)
        assert normalizer.count.item() == pytest.approx(500.0001)
        np.testing.assert_allclose(normalizer(x).numpy()[:, :2], expected[:, :2], atol=1e-3)  # the first 1e-4 row counts, too
        assert normalizer(x).dtype == torch.float32
    assert normalizer(torch.tensor([[5.0, 500.0, 5.0]]))[0, 1] == 10.0
    assert set(normalizer.state_dict()) == {"mean", "var", "count"} and not list(normalizer.parameters())


def test_running_normalizer_before_anything_is_seen() -> None:
    assert RunningNormalizer(2)(torch.tensor([[0.5, -30.0]])).tolist() == [[0.5, -10.0]]
