"""The benchmark of IPL runs, and what it compares computes the same numbers."""

from __future__ import annotations

import json

import torch

from benchmarks import engine, ipl
from benchmarks.__main__ import SUITES


def test_quick_run_measures_every_claim():
    result = json.loads(json.dumps(ipl.main(ipl.QUICK)))  # as python -m benchmarks writes it
    assert SUITES["ipl"] is ipl
    assert [row["claim"] for row in result["claims"]] == [claim.text for claim in ipl.CLAIMS]
    assert all(row["rounds"] == 2 and row["min"] <= row["ratio"] <= row["max"] for row in result["claims"])


def test_plain_loop_and_engine_make_the_same_updates():
    """Six updates from equal weights and equal batches, in float64: the opponent does the engine's work."""
    size = ipl.QUICK._replace(batch_size=32)
    source = engine.transitions(size.rows, 7, 3)
    source.column("terminated")[::5] = 1.0
    source.packed = source.packed.double()
    labels = ipl.answers(source, size)
    method, plain = ipl.ipl(source, labels, size).double(), ipl.plain(source, labels, size)
    pairs = [(method.v, None, plain.value), (method.actor.mean, None, plain.policy.net)]
    for twin, (net, target) in enumerate(((plain.critic.q1, plain.target.q1), (plain.critic.q2, plain.target.q2))):
        pairs += [(method.q, twin, net), (method.q_target, twin, target)]
    layers = []
    for mine, member, net in pairs:
        net.double()
        linears = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)]
        layers += [(mine.weights[k], mine.biases[k], member, layer) for k, layer in enumerate(linears)]
    plain.policy.double()
    with torch.no_grad():
        for weight, bias, member, layer in layers:
            layer.weight.copy_(weight if member is None else weight[member])
            layer.bias.copy_(bias if member is None else bias[member])
    ours = ipl.engine(method, compile=False)
    ours.begin([3])
    for drawn in ours.drawn("policy", 6, 0):
        replay = [column[drawn["replay"]] for column in plain.columns]
        plain.update(plain.cut(drawn["windows"]["start"], drawn["windows"]["label"]), replay)
    ours.begin([3])
    before = method.q.weights[0].clone()
    ours.run("policy", 6)
    assert (method.q.weights[0] - before).abs().max() > 1e-4
    torch.testing.assert_close(method.actor.log_std, plain.policy.log_std, rtol=0, atol=1e-9)
    for weight, bias, member, layer in layers:
        torch.testing.assert_close(weight if member is None else weight[member], layer.weight, rtol=0, atol=1e-9)
        torch.testing.assert_close(bias if member is None else bias[member], layer.bias, rtol=0, atol=1e-9)


def test_plain_loop_and_engine_make_the_same_updates_of_cpl():
    """As above, for CPL."""
    size = ipl.QUICK
    source = engine.transitions(size.rows, 7, 3)
    source.packed = source.packed.double()
    labels = ipl.answers(source, size)
    method, plain = ipl.cpl(source, labels, size).double(), ipl.plain_cpl(source, labels, size)
    linears = [layer for layer in plain.policy.double() if isinstance(layer, torch.nn.Linear)]
    layers = list(zip(method.actor.mean.weights, method.actor.mean.biases, linears, strict=True))
    with torch.no_grad():
        for weight, bias, layer in layers:
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    ours = ipl.engine(method, compile=False)
    ours.begin([3])
    for drawn in ours.drawn("policy", 6, 0):
        plain.update(plain.cut(drawn["windows"]["start"], drawn["windows"]["label"]))
    ours.begin([3])
    before = method.actor.mean.weights[0].clone()
    ours.run("policy", 6)
    assert (method.actor.mean.weights[0] - before).abs().max() > 1e-4
    for weight, bias, layer in layers:
        torch.testing.assert_close(weight, layer.weight, rtol=0, atol=1e-9)
        torch.testing.assert_close(bias, layer.bias, rtol=0, atol=1e-9)
