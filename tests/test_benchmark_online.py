"""The benchmark of online learning runs, and what it compares computes the same numbers."""

from __future__ import annotations

import json

import numpy as np
import torch

from benchmarks import online
from benchmarks.__main__ import SUITES
from benchmarks.plain_sac import state_entropy
from lightning_pbrl.nn.state_entropy import nearest_distance


def test_quick_run_measures_every_claim():
    result = json.loads(json.dumps(online.main(online.QUICK)))  # as python -m benchmarks writes it
    assert SUITES["online"] is online
    assert [row["claim"] for row in result["claims"]] == [claim.text for claim in online.CLAIMS]
    assert all(row["rounds"] == 2 and 0 < row["min"] <= row["ratio"] <= row["max"] for row in result["claims"])


def test_plain_updates_are_the_engines_updates():
    """Six updates from equal weights and equal draws, in float64."""
    size = online.QUICK
    source = online.replay(size.replay_rows, 7, size.action_dim)
    plain = online.opponent(source, (16, 16), 32)
    plain.columns["alive"][::5] = 0.0
    source.column("terminated")[::5] = 1.0
    source.packed = source.packed.double()
    engine = online.updates(source, (16, 16), 32, compile=False)
    method = engine.owner.double()
    layers = []
    members = ((method.critic, 0, plain.critic.q1), (method.critic, 1, plain.critic.q2))
    targets = ((method.critic_target, 0, plain.target.q1), (method.critic_target, 1, plain.target.q2))
    for mine, member, net in ((method.actor.net, None, plain.actor.net), *members, *targets):
        net.double()
        linears = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)]
        layers += [(mine.weights[k], mine.biases[k], member, layer) for k, layer in enumerate(linears)]
    with torch.no_grad():
        for weight, bias, member, layer in layers:
            layer.weight.copy_(weight if member is None else weight[member])
            layer.bias.copy_(bias if member is None else bias[member])
    plain.log_alpha = plain.log_alpha.detach().double().requires_grad_(True)
    plain.adams()
    columns = [torch.as_tensor(column).double() for column in plain.columns.values()]
    engine.begin([3])
    for drawn in engine.drawn("policy", 6, 0):
        ids = source.uniform_rows(drawn["place"])
        plain.update([column[ids] for column in columns], drawn["next_noise"].double(), drawn["noise"].double())
    engine.begin([3])
    before = method.critic.weights[0].clone()
    engine.run("policy", 6)
    assert (method.critic.weights[0] - before).abs().max() > 1e-3
    torch.testing.assert_close(method.log_alpha, plain.log_alpha, rtol=0, atol=1e-7)  # its start is rounded to float32
    for weight, bias, member, layer in layers:
        torch.testing.assert_close(weight if member is None else weight[member], layer.weight, rtol=0, atol=1e-7)
        torch.testing.assert_close(bias if member is None else bias[member], layer.bias, rtol=0, atol=1e-7)


def test_plain_distances_are_ours():
    stored = torch.randn(1_234, 6, generator=torch.Generator().manual_seed(0))
    ours = nearest_distance(stored[:20], [stored], 5)
    np.testing.assert_allclose(state_entropy(stored[:20], stored.numpy(), 5).numpy(), ours.numpy(), atol=1e-4)
