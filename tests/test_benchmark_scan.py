"""The JAX scan computes what the plain PyTorch loop computes; without JAX the benchmark says so."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from benchmarks import engine, scan
from benchmarks.plain_iql import DISCOUNT, TEMPERATURE, PlainIQL, value_loss


def test_without_jax_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert scan.main([]) == 2
    assert capsys.readouterr().err == "benchmarks.scan compares with JAX, which is not installed: pip install jax.\n"


def test_jax_scan_has_the_losses_of_the_plain_loop():
    jax = pytest.importorskip("jax")
    from benchmarks.jax_iql import losses

    columns = engine.columns(engine.transitions(64, 5, 2))
    plain = PlainIQL(columns, (16, 16), 32)

    def layers(net):
        linears = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)]
        return [(layer.weight.detach().T.numpy(), layer.bias.detach().numpy()) for layer in linears]

    def twins(critic):
        pairs = zip(layers(critic.q1), layers(critic.q2), strict=True)
        return [tuple(jax.numpy.stack(both) for both in zip(*pair, strict=True)) for pair in pairs]

    nets = {"v": layers(plain.value), "q": twins(plain.critic), "actor": layers(plain.policy)}
    nets["log_std"] = plain.policy.log_std.detach().numpy()
    obs, action, reward, next_obs, terminated = columns
    with torch.no_grad():
        advantage = plain.target(obs, action) - plain.value(obs).squeeze(-1)
        wanted = reward + DISCOUNT * (1 - terminated) * plain.value(next_obs).squeeze(-1)
        weight = (TEMPERATURE * advantage).exp().clamp(max=100.0)
        expected = {
            "v": value_loss(advantage),
            "q": sum((q - wanted).square().mean() for q in plain.critic.both(obs, action)) / 2,
            "actor": -(weight * plain.policy(obs).log_prob(action).sum(-1)).mean(),
        }
    found = losses(nets, twins(plain.target), [column.numpy() for column in columns])[1]
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-4
    )
