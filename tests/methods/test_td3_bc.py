"""TD3+BC: losses by hand on networks with known weights, delayed updates, and where its noise comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.td3_bc import TD3BC


class Linear(torch.nn.Module):
    """y = x W^T, without anything else; W is (out, in), or (2, 1, in) for twins."""

    def __init__(self, weight: list[Any]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT


def tiny(**settings: Any) -> TD3BC:
    """One observation, one action: pi(s) = s / 2, pi'(s) = s, Q = (s + a, 2 a), Q' = (s + 2 a, s + a)."""
    method = TD3BC({"obs_dim": 1, "action_dim": 1, "horizon": 3}, discount=0.5, **settings)
    method.configure_model()
    method.actor, method.actor_target = Linear([[0.5]]), Linear([[1.0]])  # type: ignore[assignment]
    method.q, method.q_target = Linear([[[1.0, 1.0]], [[0.0, 2.0]]]), Linear([[[1.0, 2.0]], [[1.0, 1.0]]])  # type: ignore[assignment]
    return method


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(-1)


BATCH = {
    "obs": column(0.4, -1.0),
    "action": column(0.5, 0.0),
    "next_obs": column(0.6, -0.2),
    "learned_reward": torch.tensor([1.0, 0.0]),
    "terminated": torch.tensor([0.0, 1.0]),
    "noise": column(4.5, 0.5),  # standard normal, times 0.2: the first is clipped to 0.5, and then the action to 1
}


def test_critic_loss_by_hand() -> None:
    # a' = clip(.6 + .5) = 1: Q' = (2.6, 1.6), target 1 + .5 * 1.6 = 1.8; the second row is terminal: target 0.
    # Q_1 = (.9, -1), Q_2 = (1, 0): ((-.9)^2 + (-1)^2) / 2 + ((-.8)^2 + 0) / 2 = .905 + .32
    with torch.no_grad():
        losses = tiny().critic_loss(BATCH)
    assert float(losses["q"]) == pytest.approx(1.225)
    assert float(losses["q_mean"]) == pytest.approx(0.225)


def test_target_noise_has_the_spread_that_was_set() -> None:
    # noise .3: a' = .9, Q' = (2.4, 1.5), target 1.75: ((-.85)^2 + (-1)^2) / 2 + ((-.75)^2 + 0) / 2
    with torch.no_grad():
        losses = tiny(policy_noise=0.3).critic_loss({**BATCH, "noise": column(1.0, 0.0)})
    assert float(losses["q"]) == pytest.approx(1.1425)


def test_actor_loss_by_hand() -> None:
    # pi = (.2, -.5), Q_1 = (.6, -1.5): mean -.45, mean size 1.05, lambda = 2.5 / 1.05; cloning (.09 + .25) / 2 = .17
    method = tiny()
    losses = method.actor_loss(BATCH)
    assert losses["cloning"].item() == pytest.approx(0.17)
    assert losses["actor"].item() == pytest.approx(0.17 + 2.5 / 1.05 * 0.45)
    # lambda is a constant: d/dw of pi = w s is -lambda mean(s) + mean(2 (pi - a) s) = .3 lambda + mean(-.24, 1)
    (gradient,) = torch.autograd.grad(losses["actor"], list(method.actor.parameters()))
    assert float(gradient) == pytest.approx(0.3 * 2.5 / 1.05 + 0.38, rel=1e-5)
    assert tiny(alpha=0.0).actor_loss(BATCH)["actor"].item() == pytest.approx(0.17)


def fit(folder: Path, **settings: Any) -> TD3BC:
    method = TD3BC(SPEC, **{"hidden": [8], "batch_size": 16, "updates": 12, "eval_interval": 12, **settings})
    make_trainer(folder, [RelabelRewards("true")]).fit(method, ToyData())
    return method


@pytest.mark.parametrize("layout", ["loop", "batched"])
def test_policy_and_targets_move_in_every_third_update(layout: Any, tmp_path: Path) -> None:
    method = fit(tmp_path, policy_freq=3, replicas=2, layout=layout)
    engine = method.running
    moved: dict[str, list[int]] = {"q": [], "actor": [], "q_target": [], "actor_target": []}
    for update in range(12, 19):
        before = {key: rows.clone() for key, rows in engine.state.storage.items()}
        meters = engine.run("policy", 1)
        assert ("actor" in meters) == (update % 3 == 0)
        for key, rows in engine.state.storage.items():
            if not torch.equal(rows, before[key]):
                moved[key].append(update)
    late = [12, 15, 18]
    assert moved == {"q": list(range(12, 19)), "actor": late, "q_target": late, "actor_target": late}


def test_a_block_reports_the_mean_of_the_updates_that_ran(tmp_path: Path) -> None:
    method = fit(tmp_path)
    engine = method.running
    state = engine.state_dict()
    engine.begin([5])
    block = engine.run("policy", 4)
    engine.load_state_dict(state)
    engine.begin([5])
    singles = [engine.run("policy", 1) for _ in range(4)]
    actor = [meters["actor"] for meters in singles if "actor" in meters]
    assert len(actor) == 2
    torch.testing.assert_close(block["actor"], torch.stack(actor).mean(0))
    torch.testing.assert_close(block["q"], torch.stack([meters["q"] for meters in singles]).mean(0))


def test_noise_is_standard_normal_and_rows_come_from_all_of_the_data(tmp_path: Path) -> None:
    method = fit(tmp_path)
    drawn = method.running.drawn("policy", 500, 0)
    index, noise = (torch.stack([one[name] for one in drawn]) for name in ("rows", "noise"))
    assert index.shape == (500, 16) and index.min() == 0 and index.max() == len(method.source) - 1
    assert noise.shape == (500, 16, 2)
    assert abs(float(noise.std()) - 1) < 0.02 and abs(float(noise.mean())) < 0.027
    read = method.running.programs["policy"].gather(drawn[3])
    assert torch.equal(read["rows"], method.source.packed[index[3]]) and torch.equal(read["noise"], noise[3])


def test_the_policy_is_deterministic_and_settings_are_checked() -> None:
    method = TD3BC(SPEC, hidden=[8])
    method.configure_model()
    obs = torch.randn(6, 5)
    assert torch.equal(method.act(obs, sample=True), method.act(obs))
    with pytest.raises(UserError, match="TD3BC got policy_freq=0: give a number of at least 1"):
        TD3BC(SPEC, policy_freq=0)
