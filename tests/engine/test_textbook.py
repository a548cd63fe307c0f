"""The engine's IQL against a plain PyTorch loop of the textbook kind, in float64: eager and compiled."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from synthetic import synthetic_transitions
from torch import Tensor, nn

from lightning_pbrl.data.relabel import control_reward
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.engine.draws import Streams, updates_of
from lightning_pbrl.methods.iql import IQL

UPDATES, BATCH, LR, DISCOUNT, POLYAK, TAU, BETA = 50, 32, 3e-3, 0.99, 0.005, 0.7, 3.0


def make_method(seed: int = 3, expectile: float = TAU) -> IQL:
    """A small IQL in float64 with data on the true reward, ready for an engine."""
    method = IQL(
        {"obs_dim": 5, "action_dim": 2, "horizon": 30},
        updates=200,
        hidden=(16, 16),
        lr=LR,
        batch_size=BATCH,
        expectile=expectile,
        seed=seed,
    )
    method.configure_model()
    method.double()
    data = synthetic_transitions()
    data.write("learned_reward", control_reward(data, "true"))
    data.packed = data.packed.double()
    method.source = data
    method.on_data()
    return method


def sequential(weights: dict[str, Tensor], prefix: str, member: int | None = None, tanh: bool = False) -> nn.Sequential:
    """A stack of ``nn.Linear``s with the method's weights."""
    layers: list[nn.Module] = []
    for i in range(3):
        w, b = weights[f"{prefix}.weights.{i}"], weights[f"{prefix}.biases.{i}"]
        w, b = (w, b) if member is None else (w[member], b[member])
        linear = nn.Linear(w.shape[1], w.shape[0], dtype=torch.float64)
        linear.weight.data.copy_(w)
        linear.bias.data.copy_(b)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Tanh() if tanh else nn.Identity())


def textbook(start: dict[str, Tensor], method: IQL) -> tuple[dict[str, Tensor], list[list[float]]]:
    """IQL as written in papers' code: one optimiser per network, three backward passes; gives weights and losses."""
    qs, q_targets = ([sequential(start, "q", e) for e in range(2)] for _ in range(2))
    v, mean = sequential(start, "v"), sequential(start, "actor.mean", tanh=True)
    log_std = nn.Parameter(start["actor.log_std"].clone())
    q_adam = torch.optim.Adam([p for q in qs for p in q.parameters()], lr=LR)
    v_adam = torch.optim.Adam(v.parameters(), lr=LR)
    actor_adam = torch.optim.Adam([*mean.parameters(), log_std], lr=LR)
    drawn, history = Streams(3).block(method.programs()["policy"].draws, UPDATES), []
    for update, ids in enumerate(updates_of(drawn, UPDATES)):
        rows = method.source.packed[ids["rows"]]
        obs, action, next_obs = rows[:, :5], rows[:, 5:7], rows[:, 7:12]
        reward, terminated = rows[:, 12], rows[:, 13]
        obs, next_obs = ((x - method.normalizer.mean) * method.normalizer.scale for x in (obs, next_obs))
        sa = torch.cat([obs, action], 1)
        with torch.no_grad():
            target_q = torch.minimum(*(q(sa).squeeze(1) for q in q_targets))
            target = reward + DISCOUNT * (1 - terminated) * v(next_obs).squeeze(1)
            weight = torch.clamp(torch.exp(BETA * (target_q - v(obs).squeeze(1))), max=100)
        u = target_q - v(obs).squeeze(1)
        v_loss = torch.where(u < 0, (1 - TAU) * u**2, TAU * u**2).mean()
        q_loss = sum(((q(sa).squeeze(1) - target) ** 2).mean() for q in qs) / 2
        log_prob = torch.distributions.Normal(mean(obs), log_std.exp()).log_prob(action).sum(1)
        actor_loss = -(weight * log_prob).mean()
        history.append([v_loss.item(), q_loss.item(), actor_loss.item()])
        for adam, loss in ((v_adam, v_loss), (q_adam, q_loss), (actor_adam, actor_loss)):
            adam.zero_grad()
            loss.backward()
        actor_adam.param_groups[0]["lr"] = LR * 0.5 * (1 + math.cos(math.pi * update / 200))
        for adam in (v_adam, q_adam, actor_adam):
            adam.step()
        with torch.no_grad():
            for q, q_target in zip(qs, q_targets, strict=True):
                for p, p_target in zip(q.parameters(), q_target.parameters(), strict=True):
                    p_target.mul_(1 - POLYAK).add_(POLYAK * p)
    end = {"actor.log_std": log_std.data}
    for prefix, nets in (("q", qs), ("q_target", q_targets), ("v", [v]), ("actor.mean", [mean])):
        for i in range(3):
            for name, part in (("weights", "weight"), ("biases", "bias")):
                values = [getattr(net[2 * i], part).data for net in nets]
                end[f"{prefix}.{name}.{i}"] = torch.stack(values) if len(nets) > 1 else values[0]
    return end, history


def largest_difference(method: IQL, expected: dict[str, Tensor]) -> float:
    weights = method.state_dict()
    assert set(weights) == {*expected, "normalizer.mean", "normalizer.scale"}
    return max((weights[name] - expected[name]).abs().max().item() for name in expected)


def test_eager_engine_equals_the_textbook_loop() -> None:
    method = make_method()
    start = {name: value.clone() for name, value in method.state_dict().items()}
    expected, history = textbook(start, method)
    engine = UpdateEngine(method, method.groups(), method.programs(), [3], compile=False)
    meters = [engine.run("policy", 20), engine.run("policy", 30)]  # blocks do not matter
    assert largest_difference(method, expected) < 1e-12
    assert largest_difference(method, start) > 1e-2  # and it did move
    for k, name in enumerate(("v", "q", "actor")):
        mean = (20 * meters[0][name] + 30 * meters[1][name]).item() / 50
        assert mean == pytest.approx(sum(row[k] for row in history) / 50, abs=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_engine_equals_the_textbook_loop_and_never_recompiles() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    method = make_method()
    start = {name: value.clone() for name, value in method.state_dict().items()}
    expected, _ = textbook(start, method)
    engine = UpdateEngine(method, method.groups(), method.programs(), [3], compile=True)
    engine.run("policy", 2)
    assert engine.compile  # no fallback happened
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 1
    torch.compiler.set_stance("fail_on_recompile")
    try:
        engine.run("policy", 8)
        method.load_state_dict(method.state_dict())
        engine.run("policy", 40)
        assert largest_difference(method, expected) < 1e-9
        method.source.packed = torch.cat([method.source.packed] * 2)  # data size is no shape
        engine.run("policy", 5)
        assert compiled_minus_eager(seed=4, expectile=TAU) < 1e-12  # another learner, the same graph
    finally:
        torch.compiler.set_stance("default")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert engine.compile
    assert compiled_minus_eager(seed=4, expectile=0.9) < 1e-12  # another setting is not mistaken for the first
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 1


def compiled_minus_eager(seed: int, expectile: float) -> float:
    """Largest difference of any weight after ten updates of two equal methods, one compiled, one eager."""
    methods = [make_method(seed, expectile) for _ in range(2)]
    for method, compiled in zip(methods, (True, False), strict=True):
        engine = UpdateEngine(method, method.groups(), method.programs(), [seed], compile=compiled)
        engine.run("policy", 10)
        assert engine.compile is compiled
    return largest_difference(methods[0], dict(methods[1].named_parameters()))
