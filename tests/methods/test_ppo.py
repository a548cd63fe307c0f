"""PPO in a simulator that can be worked out: order, advantages, what the ratio is of, resume, and that it learns."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from online_toys import PointSimulator, WalkSimulator, Watching
from toys import assert_same, drawn, make_trainer, read_csv

from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.engine.draws import Streams, updates_of
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.starting import start_engine
from lightning_pbrl.losses.ppo import gae
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.methods.ppo import PPO
from lightning_pbrl.nn.state_entropy import nearest_distance

SMALL: dict[str, Any] = {
    "env_steps": 120,
    "round_steps": 40,
    "n_steps": 20,
    "batch_size": 8,
    "n_epochs": 3,
    "hidden": [16, 16],
    "lr": 1e-3,
    "block": 7,
    "compile": False,
}


class WatchedPPO(Watching, PPO):  # a name of its own: checkpoints are loaded by it
    """Notes also what was drawn and with which density."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.__dict__.update(acted=[], tables=[])

    def counts(self) -> tuple[int, ...]:
        return (self.running.updates["policy"],)

    def behave(self, obs: torch.Tensor) -> torch.Tensor:
        action = super().behave(obs)
        density = self.log_prob(obs, action)  # under the statistics that acted
        self.__dict__["acted"].append((obs.clone(), action.clone(), density))
        return action

    def end_rollout(self, reward_of: Any) -> None:
        super().end_rollout(reward_of)
        self.__dict__["tables"].append(self.view(self.gather({"rows": torch.arange(len(self.rows))})))


def fit(
    folder: Path,
    simulator: Simulator | None = None,
    num_envs: int = 1,
    capacity: int | None = None,
    ckpt_path: Path | None = None,
    trainer: dict[str, Any] | None = None,
    cls: type[PPO] = WatchedPPO,
    **settings: Any,
) -> Any:
    simulator = simulator or PointSimulator()
    data = OnlineDataModule(simulator, capacity, num_envs, eval_episodes=3, eval_envs=3, segment_length=5)
    method = cls(data.spec, **{**SMALL, **settings})
    make_trainer(folder, **(trainer or {})).fit(method, data, ckpt_path=ckpt_path)
    return method


# Counts and order -----------------------------------------------------------------------------------------------------


def test_rollouts_and_passes_take_turns(tmp_path: Path) -> None:
    """Rollouts of 20 steps, three to a round of 60, three passes of 3 minibatches (8, 8 and 4 rows) after each."""
    ppo = fit(tmp_path, round_steps=60)
    expected = []
    for number in range(6):
        expected += [(number // 3, "rollout", 20 * number, 9 * number), (number // 3, "policy", 20 * number + 20, 9 * number)]
    assert ppo.noted == expected
    assert ppo.env_steps == 120 and ppo.trainer.global_step == ppo.running.updates["policy"] == 54
    assert ppo.trainer.current_epoch == 2 and len(ppo.acted) == 120
    rows = [row for row in read_csv(tmp_path) if "train/policy_loss" in row]
    first = {row["step"]: row["env_steps"] for row in reversed(rows)}  # a collecting block repeats what was logged before it
    assert sorted(first.items())[:4] == [(7, 20), (9, 20), (16, 40), (18, 40)]
    assert rows[-1]["train/entropy"] == pytest.approx(0.5 * math.log(2 * math.pi * math.e), rel=0.05)


def test_the_last_rollout_is_cut_and_the_run_ends_exactly(tmp_path: Path) -> None:
    ppo = fit(tmp_path, env_steps=50, round_steps=40)
    assert ppo.env_steps == 50 and ppo.noted[-2:] == [(1, "rollout", 40, 18), (1, "policy", 50, 18)]
    assert ppo.trainer.global_step == 18 + 3 * 2


def test_every_pass_holds_every_row_once_in_an_order_of_its_own() -> None:
    ppo = PPO({"obs_dim": 1, "action_dim": 1, "horizon": 20}, **SMALL)
    ppo.rows, ppo.source = torch.zeros(20, 5), SimpleNamespace(num_envs=1)  # type: ignore[assignment]
    streams, updates = Streams(0), []
    for count in (1, 4, 1, 3):
        updates += updates_of(streams.block(ppo.programs()["policy"].draws, count, len(updates)), count)
    ids = [update["rows"] for update in updates]
    assert [len(one) for one in ids] == [8, 8, 4] * 3
    passes = [torch.cat(ids[at : at + 3]) for at in (0, 3, 6)]
    assert all(order.sort().values.tolist() == list(range(20)) for order in passes)
    assert not torch.equal(passes[0], passes[1]) and not torch.equal(passes[1], passes[2])


def test_passes_end_where_the_policy_has_moved_enough(tmp_path: Path) -> None:
    far = fit(tmp_path / "far", lr=3e-2, target_kl=1e-3, env_steps=40)
    near = fit(tmp_path / "near", lr=3e-2, target_kl=1e3, env_steps=40)
    assert near.running.updates["policy"] == 2 * 9 and far.running.updates["policy"] < 2 * 9
    assert far.env_steps == 40 and far.running.updates["policy"] % 3 == 0  # whole passes


def test_linear_schedules_follow_the_env_steps_before_a_rollout(tmp_path: Path) -> None:
    ppo = fit(tmp_path, lr_schedule="linear", clip_schedule="linear", clip=0.4)
    shares = [1 - number / 6 for number in range(6)]
    assert [table["clip"].item() for table in ppo.tables] == pytest.approx([0.4 * share for share in shares])
    assert ppo.share_left() == pytest.approx(shares[-1])
    (group,) = ppo.running.state.optimizers[0]["policy"].param_groups
    assert group["lr"] == pytest.approx(1e-3 * shares[-1]) and group["eps"] == 1e-5


# What is learned from -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize_obs", [True, False])
def test_the_ratio_is_of_the_action_as_drawn_under_the_policy_that_drew_it(normalize_obs: bool, tmp_path: Path) -> None:
    """The densities of the table are those of acting; the environment and the replay get the clipped action, raw rows."""
    ppo = fit(tmp_path, num_envs=2, n_steps=10, normalize_obs=normalize_obs)
    obs, action, density = (torch.cat(part) for part in zip(*ppo.acted, strict=True))  # step by step, two environments each
    tables = {key: torch.cat([table[key] for table in ppo.tables]) for key in ("obs", "action", "log_prob")}
    assert torch.equal(tables["action"], action) and action.abs().max() > 1
    torch.testing.assert_close(tables["log_prob"], density, rtol=1e-5, atol=1e-5)
    stored = ppo.source.rows_of_age(torch.arange(119, -1, -1).view(60, 2).flip(1).flatten())
    assert torch.equal(ppo.source.column("obs")[stored], obs)
    assert torch.equal(ppo.source.column("action")[stored], action.clamp(-1, 1))
    if not normalize_obs:
        assert torch.equal(tables["obs"], obs) and ppo.normalizer is None
        return
    for k in (0, 7, 59):  # standardised by what was acted on until then, this step included
        known = obs[: 2 * (k + 1)].double()
        weight = len(known) + 1e-4  # before all, 1e-4 of a row with mean 0 and variance 1
        mean = known.sum(0) / weight
        var = (known.square().sum(0) + 1e-4) / weight - mean.square()
        expected = ((obs[2 * k : 2 * k + 2] - mean) / var.sqrt()).float()
        torch.testing.assert_close(tables["obs"][2 * k : 2 * k + 2], expected, rtol=1e-4, atol=1e-5)
    assert ppo.normalizer.count.item() == pytest.approx(120.0001)
    # acting and evaluation see the same: the mean action of a raw observation is that of the standardised one
    torch.testing.assert_close(ppo.act(obs), ppo.actor.act(ppo.normalizer(obs)))
    loaded = load_method(tmp_path / "checkpoints" / "last.ckpt")
    assert torch.equal(loaded.act(obs), ppo.act(obs)) and torch.equal(loaded.log_prob(obs, action), ppo.log_prob(obs, action))


def test_advantages_bootstrap_from_a_time_limit_and_not_from_a_fall(tmp_path: Path) -> None:
    """Episodes of six steps that also end beyond 0.7: every kind of end lies in one rollout, worked out row by row."""
    seen: dict[str, Any] = {}

    class Kept(WatchedPPO):
        def end_rollout(self, reward_of: Any) -> None:
            super().end_rollout(reward_of)
            seen["critic"] = copy.deepcopy(self.critic)

    ppo = fit(tmp_path, WalkSimulator(6, edge=0.7), cls=Kept, env_steps=120, round_steps=120, n_steps=120, normalize_obs=False)
    source, table = ppo.source, ppo.tables[0]
    columns = {name: source.column(name)[:120] for name in ("obs", "next_obs", "terminated", "truncated", "learned_reward")}
    assert columns["terminated"].sum() > 2 and columns["truncated"].sum() > 2
    with torch.no_grad():
        value, follows = (seen["critic"](columns[name]).squeeze(-1) for name in ("obs", "next_obs"))
    ended = torch.maximum(columns["terminated"], columns["truncated"])
    parts = (columns["learned_reward"], value, follows, columns["terminated"], ended)
    advantage = gae(*(part[:, None] for part in parts), 0.99, 0.95).squeeze(1)
    torch.testing.assert_close(table["advantage"], advantage, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(table["target"], advantage + value, rtol=1e-4, atol=1e-5)
    assert torch.equal(columns["learned_reward"], source.reward[:120])
    explained = 1 - (table["target"] - value).var() / table["target"].var()
    assert table["explained_variance"].item() == pytest.approx(explained.item(), rel=1e-4)


def test_updates_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """Two passes over a rollout from equal weights: one Adam and one gradient norm for policy and value."""
    ppo = fit(tmp_path, entropy_coef=0.01, max_grad_norm=0.3).double()
    start_engine(ppo)
    ppo.running.begin([5])
    ppo.rows, table = ppo.rows.double(), ppo.view({"rows": ppo.rows.double()})
    actor, critic = copy.deepcopy(ppo.actor), copy.deepcopy(ppo.critic)
    weights = [*actor.parameters(), *critic.parameters()]
    adam = torch.optim.Adam(weights, 1e-3, eps=1e-5)
    norms = []
    for numbers in drawn(ppo.running.programs["policy"], 6, seed=5):
        ids = numbers["rows"]
        advantage = table["advantage"][ids]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        law = torch.distributions.Normal(actor.mean(table["obs"][ids]), actor.log_std.exp())
        ratio = (law.log_prob(table["action"][ids]).sum(-1) - table["log_prob"][ids]).exp()
        surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        value_loss = (critic(table["obs"][ids]).squeeze(-1) - table["target"][ids]).square().mean()
        adam.zero_grad()
        (-surrogate + 0.5 * value_loss - 0.01 * law.entropy().sum(-1).mean()).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(weights, 0.3))
        adam.step()
    assert min(norms) > 0.3  # the bound is felt
    before = ppo.actor.mean.weights[0].clone()
    ppo.running.run("policy", 6)
    assert (ppo.actor.mean.weights[0] - before).abs().max() > 1e-4
    for ours, theirs in ((ppo.actor, actor), (ppo.critic, critic)):
        for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-8)  # the plain bound adds 1e-6 to the norm


# Rewards and pre-training ---------------------------------------------------------------------------------------------


def test_a_control_never_reads_the_true_reward(tmp_path: Path) -> None:
    """With other true rewards the same policy comes out."""
    for kind in ("zero", "random"):
        one, two = (fit(tmp_path / kind / str(pay), PointSimulator(pay), reward=kind) for pay in (1.0, -7.0))
        assert_same(two.source.reward[two.source.stored].sign(), -one.source.reward[one.source.stored].sign())
        assert all(value.isfinite().all() for value in two.state_dict().values())
        assert_same(one.state_dict(), two.state_dict())
    noise = two.source.column("learned_reward")[two.source.stored]
    assert noise.min() > 0 and noise.max() < 1 and noise.unique().numel() > 100


def test_exploring_is_paid_by_distance_and_ends_with_a_new_last_layer(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Kept(WatchedPPO):
        def reset_value(self) -> None:
            seen["before"] = {key: value.clone() for key, value in self.state_dict().items()}
            super().reset_value()
            seen["after"] = {key: value.clone() for key, value in self.state_dict().items()}
            seen["moments"] = [dict(adam.state) for adam in self.running.state.optimizers[0].values()]

    settings: dict[str, Any] = {"explore_steps": 40, "explore_epochs": 5, "num_envs": 2, "n_steps": 20, "reward": "zero"}
    ppo = fit(tmp_path, cls=Kept, **settings)
    names = [(number, name, steps) for number, name, steps, _ in ppo.noted]
    assert names[:5] == [(0, "rollout", 0), (0, "explore", 40), (1, "reset", 40), (1, "rollout", 40), (1, "policy", 80)]
    assert [updates for *_, updates in ppo.noted[:5]] == [0, 0, 25, 25, 25]
    obs = torch.cat([obs for obs, _, _ in ppo.acted[:20]])
    distance = nearest_distance(obs, [obs])
    paid = ppo.source.column("learned_reward")[ppo.source.rows_of_age(torch.arange(119, 79, -1).view(20, 2).flip(1).flatten())]
    torch.testing.assert_close(paid, distance / distance.std(), rtol=1e-3, atol=1e-4)
    moved = {key for key, value in seen["after"].items() if not torch.equal(value, seen["before"][key])}
    assert moved == {"critic.weights.2", "critic.biases.2"} and all(seen["moments"])


# Resume and learning --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resume_is_an_uninterrupted_run(tmp_path: Path) -> None:
    """Open episodes, noise, observation statistics, pre-training's scale: every round's checkpoint continues bit for bit."""
    settings: dict[str, Any] = {"num_envs": 2, "n_steps": 11, "round_steps": 44, "explore_steps": 44, "env_steps": 134}
    settings |= {"lr_schedule": "linear", "clip_schedule": "linear", "reward": "random"}
    straight = fit(tmp_path / "straight", **settings)
    assert straight.trainer.current_epoch == 4  # 44 exploring, 44, 44, 2
    for rounds in (1, 2, 3):
        folder = tmp_path / str(rounds)
        fit(folder, trainer={"max_epochs": rounds}, **settings)
        resumed = fit(folder, ckpt_path=folder / "checkpoints" / "last.ckpt", **settings)
        assert_same(straight.state_dict(), resumed.state_dict())
        assert_same(straight.running.state_dict(), resumed.running.state_dict())
        assert torch.equal(straight.source.packed, resumed.source.packed)
        assert read_csv(tmp_path / "straight") == read_csv(folder)


def test_it_learns_to_stand_where_the_reward_is(tmp_path: Path) -> None:
    """From a random place, a perfect policy gets about 19 of 20, a random one about 12."""
    settings: dict[str, Any] = {"env_steps": 8_000, "round_steps": 4_000, "n_steps": 50, "batch_size": 64, "n_epochs": 10}
    ppo = fit(tmp_path, num_envs=8, hidden=[32, 32], lr=3e-3, discount=0.9, block=512, cls=PPO, **settings)
    random = ppo.source.log.finished[:16, 3].mean()
    learned = [row["eval/return_mean"] for row in read_csv(tmp_path) if "eval/return_mean" in row][-1]
    assert random < 15 and learned > 18


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "PPO got n_steps=0: give a number of at least 1"),
        ({"explore_steps": 120}, "env_steps is 120, and 120 exploring steps use them up: raise it"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PPO({"obs_dim": 1, "action_dim": 1, "horizon": 20}, **{**SMALL, **settings})


def test_rounds_that_cut_a_rollout_or_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"round_steps is 40 and a rollout has n_steps x num_envs = 60: make it a multiple"):
        fit(tmp_path, num_envs=2, n_steps=30)
    with pytest.raises(UserError, match=r"cannot hold a rollout of 40 steps: raise data.init_args.capacity to at least that"):
        fit(tmp_path, n_steps=40, capacity=30)
    with pytest.raises(UserError, match=r"env_steps is 121 and data.init_args.num_envs is 2, which step together"):
        fit(tmp_path, num_envs=2, env_steps=121)
