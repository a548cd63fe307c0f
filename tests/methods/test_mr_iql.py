"""MR-IQL: updates against a plain loop, the reward's end, its data, and a problem whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_toys import batches, corridor, difference, follow, labelled, plain, ready, step
from torch import Tensor, nn
from toys import SPEC, ToyData, callbacks_for, make_trainer, read_csv

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.data.relabel import predict_reward
from lightning_pbrl.methods.mr_iql import MRIQL

LR, DISCOUNT, POLYAK, TAU, BETA = 3e-3, 0.99, 0.05, 0.75, 0.4
SETTINGS: dict[str, Any] = {"hidden": (16, 16), "lr": LR, "polyak": POLYAK, "expectile": TAU, "beta": BETA, "batch_size": 4}


def transitions(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """s, a, s', terminal: the replayed ones if there are any, else those of the windows of five points."""
    if "replay" in batch:
        rows = batch["replay"]
        return rows[:, :5], rows[:, 5:7], rows[:, 7:12], rows[:, 13]
    windows = batch["segments"].flatten(0, 1)
    found = [(w[t, :5], w[t, 5:], w[t + 1, :5]) for w in windows for t in range(4)]
    s, a, next_s = (torch.stack(part) for part in zip(*found, strict=True))
    return s, a, next_s, torch.zeros(len(s), dtype=torch.float64)


@pytest.mark.parametrize("replay", [0, 6])
def test_updates_equal_a_plain_loop(replay: int) -> None:
    """V, actor (both on the state before), critic with the new V and reward; after seven updates the reward stands still."""
    data, labels = labelled(count=10, seed=1)  # no gradient nearly cancels: Adam's division would turn its rounding into a step
    method, engine = ready(MRIQL, data, labels, reward_updates=7, window=5, replay_batch_size=replay, **SETTINGS)
    seen = batches(method, 12)
    reward, v, mean = plain(method.reward_net, 0), plain(method.v), plain(method.actor.mean)
    qs, targets = ([plain(method.q, e) for e in range(2)] for _ in range(2))
    log_std = nn.Parameter(method.actor.log_std.detach().clone())
    adams = {
        name: torch.optim.Adam(parameters, lr=LR)
        for name, parameters in (
            ("reward", list(reward.parameters())[:-1]),
            ("v", list(v.parameters())),
            ("actor", [*mean.parameters(), log_std]),
            ("q", [p for q in qs for p in q.parameters()]),
        )
    }
    start, first = [plain(method.q, e) for e in range(2)], plain(method.reward_net, 0)
    engine.run("first", 7)
    method.begin_policy()
    engine.run("policy", 5)
    for number, batch in enumerate(seen):
        s, a, next_s, terminal = transitions(batch)
        sa = torch.cat([s, a], 1)
        if number < 7:
            steps = reward(batch["segments"]).squeeze(-1)  # all five points of each window
            logit = steps[:, 1].sum(-1) - steps[:, 0].sum(-1)
            # The reward's constant cancels in every logit; it is held, or Adam would turn rounding errors into steps.
            step(adams["reward"], nn.functional.binary_cross_entropy_with_logits(logit, batch["label"]))
        with torch.no_grad():
            tq = torch.minimum(*(q(sa).squeeze(1) for q in targets))
            weight = torch.exp((tq - v(s).squeeze(1)) / BETA).clamp(max=100)
        u = tq - v(s).squeeze(1)
        step(adams["v"], torch.where(u < 0, (1 - TAU) * u**2, TAU * u**2).mean())
        law = torch.distributions.Normal(mean(s), log_std.clamp(-5, 2).exp())
        adams["actor"].param_groups[0]["lr"] = LR * 0.5 * (1 + math.cos(math.pi * number / 1_000))
        step(adams["actor"], -(weight * law.log_prob(a).sum(-1)).mean())
        with torch.no_grad():
            y = reward(sa).squeeze(1) + DISCOUNT * (1 - terminal) * v(next_s).squeeze(1)
        step(adams["q"], sum(((q(sa).squeeze(1) - y) ** 2).mean() for q in qs) / 2)
        follow(targets, qs, POLYAK)
    pairs = [(method.reward_net, [reward]), (method.v, [v]), (method.q, qs), (method.q_target, targets)]
    assert max(difference(mlp, nets) for mlp, nets in [*pairs, (method.actor.mean, [mean])]) < 1e-12
    assert float((method.actor.log_std - log_std).detach().abs().max()) < 1e-12
    assert difference(method.q, start) > 1e-2 and difference(method.reward_net, [first]) > 1e-2


def test_the_reward_stops_and_is_logged_until_then(tmp_path: Path) -> None:
    small = {"hidden": [16, 16], "batch_size": 8, "window": 6, "updates": 60, "eval_interval": 20, "block": 7}
    method = MRIQL(SPEC, reward_updates=30, **small)
    make_trainer(tmp_path, callbacks_for(MRIQL)).fit(method, ToyData())
    rows = [row for row in read_csv(tmp_path) if "train/q_loss" in row]
    assert all("train/reward_net_loss" in row for row in rows if row["step"] <= 30)
    assert not any("train/reward_net_loss" in row for row in rows if row["step"] > 40)  # within a round the last value stays
    assert {row["step"] for row in rows} >= {30, 60}
    optimizers = method.running.state.optimizers[0]
    steps = {name: int(next(iter(optimizer.state.values()))["step"]) for name, optimizer in optimizers.items()}
    assert steps == {"reward_net": 30, "v": 60, "q": 60, "actor": 60}


def test_its_reward_can_relabel_and_sums_to_its_scores() -> None:
    data, labels = labelled(count=10)
    method, _ = ready(MRIQL, data, labels, hidden=(16,), normalize_obs=True)
    reward = predict_reward(data, method.reward).double()
    found = method.returns(Query("pair", labels.start, 6))
    assert found.shape == (1, 10, 2)
    for pair, side in ((0, 0), (9, 1)):
        first = int(labels.start[pair, side])
        assert float(found[0, pair, side].detach()) == pytest.approx(float(reward[first : first + 6].sum()), abs=1e-5)


def test_it_recovers_the_preferred_policy() -> None:
    """A point on [-1, 1] walks 0.3 a per step; who ends a step nearer to 0.6 is preferred."""
    data, labels = corridor()
    settings: dict[str, Any] = {"hidden": (32, 32), "lr": 5e-3, "beta": 0.1, "polyak": 0.02, "expectile": 0.8}
    method, engine = ready(MRIQL, data, labels, double=False, **settings)
    engine.run("first", 300)
    position = torch.linspace(-1, 1, 9)[:, None]
    with torch.no_grad():
        for _ in range(30):
            position = (position + 0.3 * method.act(position)).clamp(-1, 1)
    assert (position - 0.6).abs().max() < 0.25
