"""The benchmark of LAEO runs, and what it compares computes the same numbers."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import laeo
from benchmarks.__main__ import SUITES
from benchmarks.engine import transitions


def test_quick_run_measures_every_claim():
    result = json.loads(json.dumps(laeo.main(laeo.QUICK)))  # as python -m benchmarks writes it
    assert SUITES["laeo"] is laeo
    assert [row["claim"] for row in result["claims"]] == [claim.text for claim in laeo.claims(laeo.QUICK)]
    assert all(row["rounds"] == 2 and row["min"] <= row["ratio"] <= row["max"] for row in result["claims"])
    assert result["peak_memory_mib"]["eager"] > result["peak_memory_mib"]["idle"] > 100
    assert "Peak memory, batch 96" in result["note"]


@pytest.mark.parametrize("whole_matrix", [False, True])
@pytest.mark.parametrize("batch_size", [16, 32])
def test_plain_loop_and_engine_make_the_same_updates(batch_size: int, whole_matrix: bool):
    """Five updates from equal weights and equal batches, in float64: the opponent does the engine's work."""
    size = laeo.QUICK
    source = transitions(size.rows, size.obs_dim, size.action_dim, laeo.LENGTH)
    source.packed = source.packed.double()
    source.column("action")[::9, 0] = 1.0  # cloned by the law of the tail
    shape = size.small._replace(batch_size=batch_size)
    method, plain = laeo.laeo(source, size, shape).double(), laeo.plain(source, size, shape, whole_matrix)
    method.use_examples(laeo.example_states(size))
    method.examples = method.examples.double()
    plain.examples = plain.examples.double()
    layers = []
    nets = [(method.actor.net, None, plain.policy)]
    for twin, critic in enumerate(plain.critics):
        nets += [(method.critic.state_action, twin, critic.phi), (method.critic.goal, twin, critic.psi)]
    for mine, member, net in nets:
        net.double()
        linears = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
        layers += [(mine.weights[k], mine.biases[k], member, layer) for k, layer in enumerate(linears)]
    with torch.no_grad():
        for weight, bias, member, layer in layers:
            layer.weight.copy_(weight if member is None else weight[member])
            layer.bias.copy_(bias if member is None else bias[member])
    ours = laeo.engine(method, compile=False)
    before = method.critic.goal.weights[0].clone()
    ours.begin([3])
    for drawn in ours.drawn("policy", 5, 0):
        (row, future), (noise,) = drawn["step"], drawn["noise"].double()
        obs, action, _, next_obs, _ = plain.columns
        plain.update([obs[row], action[row], next_obs[future], plain.examples[drawn["example"]], noise])
    ours.begin([3])
    ours.run("policy", 5)
    assert (method.critic.goal.weights[0] - before).abs().max() > 1e-4
    for weight, bias, member, layer in layers:
        torch.testing.assert_close(weight if member is None else weight[member], layer.weight, rtol=0, atol=1e-9)
        torch.testing.assert_close(bias if member is None else bias[member], layer.bias, rtol=0, atol=1e-9)


def test_the_plain_loop_draws_futures_within_the_episode():
    size = laeo.QUICK
    source = transitions(size.rows, size.obs_dim, size.action_dim, laeo.LENGTH)
    source.column("obs")[:, 0] = torch.arange(size.rows)
    source.column("next_obs")[:, 0] = torch.arange(size.rows)
    obs, _, goal, *_ = laeo.plain(source, size, size.small).draw()
    ahead = goal[:, 0] - obs[:, 0]
    assert ahead.min() >= 0 and (obs[:, 0] // laeo.LENGTH == goal[:, 0] // laeo.LENGTH).all() and ahead.max() > 10
