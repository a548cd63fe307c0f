"""An offline actor in the layout of SAC's: the same action for raw observations, and the standard deviation by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_pbrl.nn import MLP, DeterministicActor, GaussianActor, Normalizer, SquashedGaussianActor
from lightning_pbrl.nn.taken_over import as_squashed, folded, mean_network

OBS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.01, 5.0]) + torch.tensor(
    [0.0, 0.6, -2.0]
)


def normalizer() -> Normalizer:
    found = Normalizer(3)
    found.fit(OBS)
    return found


@pytest.mark.parametrize("normal", [None, normalizer()])
@pytest.mark.parametrize(
    "actor",
    [
        GaussianActor(3, 2, (8, 8)),
        DeterministicActor(3, 2, (8, 8)),
        MLP(3, 2, (8, 8), output=nn.Tanh),
        SquashedGaussianActor(3, 2, (8, 8), min_std=0.1),
        SquashedGaussianActor(3, 2, (8, 8)),
    ],
)
def test_the_action_is_the_same(actor: Any, normal: Normalizer | None) -> None:
    into = SquashedGaussianActor(3, 2, (8, 8))
    into.load_state_dict(as_squashed(actor, normal, OBS, into))
    seen = OBS if normal is None else normal(OBS)
    expected = actor(seen) if isinstance(actor, MLP) else actor.act(seen)
    torch.testing.assert_close(into.act(OBS), expected, rtol=1e-4, atol=1e-5)


def test_the_standard_deviation_by_hand() -> None:
    """A Gaussian's own, 0.1 of a deterministic policy, the geometric mean of another form, and all of the same form."""
    into, gaussian = SquashedGaussianActor(3, 2, (8,)), GaussianActor(3, 2, (8,))
    with torch.no_grad():
        gaussian.log_std.copy_(torch.tensor([math.log(0.3), -9.0]))  # the latter is below SAC's e^-5
    for actor, expected in ((gaussian, [0.3, math.exp(-5)]), (DeterministicActor(3, 2, (8,)), [0.1, 0.1])):
        into.load_state_dict(as_squashed(actor, None, OBS, into))
        assert into(OBS)[1].exp().unique(dim=0).tolist() == [pytest.approx(expected, rel=0.01)]
    other = SquashedGaussianActor(3, 2, (8,), min_std=0.1)
    into.load_state_dict(as_squashed(other, None, OBS, into))
    torch.testing.assert_close(into(OBS)[1], other(OBS)[1].mean(0).expand(64, 2), rtol=1e-3, atol=1e-4)
    same = SquashedGaussianActor(3, 2, (8,))
    into.load_state_dict(as_squashed(same, None, OBS, into))
    assert torch.equal(into(OBS)[1], same(OBS)[1])


def test_a_folded_layer_by_hand() -> None:
    """W = (2, 3), b = 1, m = 10, s = 0.5: 2 (x - 10) / 2 + 3 a + 1 = x + 3 a - 9."""
    net, normal = MLP(2, 1, ()), Normalizer(1)
    with torch.no_grad():
        net.weights[0].copy_(torch.tensor([[2.0, 3.0]]))
        net.biases[0].fill_(1.0)
        normal.mean.fill_(10.0)
        normal.scale.fill_(0.5)
    weights = folded(net, normal)
    assert weights["weights.0"].tolist() == [[1.0, 3.0]] and weights["biases.0"].tolist() == [-9.0]


def test_critics_are_folded_by_member() -> None:
    """The action, behind the observation, is never standardised."""
    net, normal = MLP(5, 1, (8,), members=2), normalizer()
    raw, action = MLP(5, 1, (8,), members=2), torch.rand(64, 2)
    raw.load_state_dict(folded(net, normal))
    torch.testing.assert_close(raw(torch.cat([OBS, action], 1)), net(torch.cat([normal(OBS), action], 1)), rtol=1e-4, atol=1e-4)


def test_actors_without_such_a_network() -> None:
    assert mean_network(GaussianActor.unbounded(3, 2)) is None and mean_network(MLP(3, 2, (8,))) is None
    assert mean_network(nn.Linear(3, 2)) is None
