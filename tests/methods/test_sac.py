"""SAC in a simulator that can be worked out: counts, order, rewards, resume, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from online_toys import PointSimulator
from slow_sac import SlowSAC
from toys import ToyData, assert_same, drawn, make_trainer, read_csv

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.starting import start_engine
from lightning_pbrl.methods.sac import SAC
from lightning_pbrl.nn.state_entropy import nearest_distance
from lightning_pbrl.trainer import LAST, RoundCheckpoint

SMALL: dict[str, Any] = {
    "env_steps": 120,
    "seed_steps": 20,
    "round_steps": 40,
    "hidden": [16, 16],
    "batch_size": 8,
    "lr": 1e-3,
    "block": 7,
    "compile": False,
}


class Watched(SAC):
    """Notes, at every event, how many env steps and updates there were."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.__dict__["events"] = []

    def note(self, what: str) -> None:
        self.__dict__["events"].append((what, self.env_steps, self.__dict__["gathered"]))

    def plan(self, round_number: int) -> Any:
        self.__dict__.setdefault("gathered", 0)
        self.note(f"round {round_number}")
        return super().plan(round_number)

    def behave(self, obs: torch.Tensor) -> torch.Tensor:
        self.note("act")
        return super().behave(obs)

    def replayed(self, drawn: Any) -> Any:
        self.note(self.rounds.name)
        self.__dict__["gathered"] += 1
        return super().replayed(drawn)

    def events_of(self, *names: str) -> list[tuple[int, int]]:
        return [(steps, updates) for what, steps, updates in self.__dict__["events"] if what in names]


def fit(
    folder: Path,
    num_envs: int = 1,
    pay: float = 1.0,
    ckpt_path: Path | None = None,
    trainer: dict[str, Any] | None = None,
    **settings: Any,
) -> Watched:
    data = OnlineDataModule(PointSimulator(pay), num_envs=num_envs, eval_episodes=3, eval_envs=3, segment_length=5)
    method = Watched(data.spec, **{**SMALL, **settings})
    make_trainer(folder, **(trainer or {})).fit(method, data, ckpt_path=ckpt_path)
    return method


# Counts and order -----------------------------------------------------------------------------------------------------


def test_one_update_per_env_step_after_the_random_ones(tmp_path: Path) -> None:
    sac = fit(tmp_path)
    assert sac.env_steps == sac.source.steps == 120 and sac.trainer.global_step == sac.running.updates["policy"] == 100
    # the update after env step n = 21 ... 120 is number n - 21, and sees n stored rows; the policy acts from step 21 on
    assert sac.events_of("policy") == [(n, n - 21) for n in range(21, 121)]
    assert sac.events_of("act") == [(n, n - 20) for n in range(20, 120)]
    assert sac.events_of("round 0", "round 1", "round 2", "round 3") == [(0, 0), (20, 0), (60, 40), (100, 80)]
    rows = read_csv(tmp_path)
    trained = [(row["env_steps"], row["step"]) for row in rows if "train/critic_loss" in row]
    assert trained[0] == (27, 7) and trained[-1] == (120, 100)
    assert all(env_steps == step + 20 for env_steps, step in trained)
    assert len([row for row in rows if "eval/return_mean" in row]) == 4
    finished = [row for row in rows if "train/return_mean" in row]
    assert finished[-1]["train/return_mean"] == pytest.approx(sac.source.recent_returns(10).mean().item(), rel=1e-6)


def test_random_steps_are_logged_too(tmp_path: Path) -> None:
    fit(tmp_path)
    env_steps = [row["env_steps"] for row in read_csv(tmp_path) if "env_steps" in row]
    assert env_steps[:3] == [7, 14, 20]


def test_pre_training_counts(tmp_path: Path) -> None:
    """30 random, 40 exploring with 39 updates, 9 after the reset, then one each: the sheet's 8,999 for 9,000."""
    sac = fit(tmp_path, seed_steps=30, explore_steps=40, env_steps=100, reset_updates=9)
    assert sac.events_of("explore") == [(n, n - 31) for n in range(31, 70)]
    assert sac.events_of("reset") == [(70, n) for n in range(39, 48)]
    assert sac.events_of("policy") == [(n, 48 + n - 71) for n in range(71, 101)]
    assert len(sac.events_of("act")) == 70 and sac.trainer.global_step == 39 + 9 + 30


def test_several_updates_per_env_step(tmp_path: Path) -> None:
    sac = fit(tmp_path, update_ratio=3, env_steps=30, round_steps=10)
    assert sac.events_of("policy") == [(21 + i // 3, i) for i in range(30)]


def test_several_environments_count_each(tmp_path: Path) -> None:
    """Four environments: steps come in fours, and so do the updates that follow them."""
    sac = fit(tmp_path, num_envs=4, env_steps=60, seed_steps=20, explore_steps=12, reset_updates=2, neighbours=2)
    assert sac.events_of("explore") == [(24 + 4 * (i // 4), i) for i in range(8)]
    assert sac.events_of("reset") == [(32, 8), (32, 9)]
    assert sac.events_of("policy") == [(36 + 4 * (i // 4), 10 + i) for i in range(28)]
    assert sac.env_steps == 60


def test_the_last_round_is_cut_and_the_run_ends_exactly(tmp_path: Path) -> None:
    sac = fit(tmp_path, env_steps=77)
    assert sac.env_steps == 77 and sac.trainer.global_step == 57 and sac.trainer.current_epoch == 3


def test_the_critic_starts_anew_and_nothing_else(tmp_path: Path) -> None:
    sac = fit(tmp_path, seed_steps=30, explore_steps=40, env_steps=100, trainer={"max_epochs": 1})
    before = {name: value.clone() for name, value in sac.state_dict().items()}
    sac.reset_critic()
    after = sac.state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) != name.startswith("critic") or not before[name].any(), name
    for one, two in zip(sac.critic.parameters(), sac.critic_target.parameters(), strict=True):
        assert torch.equal(one, two)
    moments = sac.running.state_dict()["state"]["moments"][0]
    assert moments["critic"] == {} and moments["actor"]["step"] == moments["log_alpha"]["step"] == 39
    new = sac.critic.weights[0].clone()
    sac.reset_critic()
    assert torch.equal(sac.critic.weights[0], new)  # a stream of its own


# Rewards --------------------------------------------------------------------------------------------------------------


def stored(sac: SAC, column: str) -> torch.Tensor:
    return sac.source.column(column)[sac.source.stored]


def test_rows_carry_the_true_reward_or_a_control(tmp_path: Path) -> None:
    kinds = {kind: fit(tmp_path / kind, env_steps=40, reward=kind) for kind in ("true", "zero", "random")}
    true = kinds["true"].source.reward[kinds["true"].source.stored]
    assert torch.equal(stored(kinds["true"], "learned_reward"), true) and true.unique().numel() > 20
    assert not stored(kinds["zero"], "learned_reward").any()
    noise = stored(kinds["random"], "learned_reward")
    assert noise.min() > 0 and noise.max() < 1 and noise.unique().numel() > 35


def test_a_control_never_reads_the_true_reward(tmp_path: Path) -> None:
    """With other true rewards the same policy comes out."""
    one, two = (fit(tmp_path / str(pay), pay=pay, reward="zero", explore_steps=20) for pay in (1.0, -7.0))
    assert_same(two.source.reward[two.source.stored].sign(), -one.source.reward[one.source.stored].sign())
    assert_same(one.state_dict(), two.state_dict())


def test_exploring_is_paid_by_distance_to_everything_stored(tmp_path: Path) -> None:
    sac = fit(tmp_path, num_envs=2, seed_steps=30, explore_steps=20, env_steps=60, reward="zero", trainer={"max_epochs": 1})
    policy, explore = (sac.running.programs[name] for name in ("policy", "explore"))
    (numbers,) = drawn(explore)
    replayed = policy.gather(numbers)["rows"]
    assert not replayed[:, 3].any()  # obs, action, next_obs, learned_reward: what the policy's updates read
    rows = explore.gather(numbers)["rows"]
    assert torch.equal(rows[:, :3], replayed[:, :3])
    everything = sac.source.packed[sac.source.stored][:, :1]
    assert sac.source.size == len(everything) == 50
    distance = nearest_distance(rows[:, :1], [everything])
    torch.testing.assert_close(rows[:, 3], distance / sac.entropy.var.sqrt(), rtol=1e-4, atol=1e-4)
    assert not sac.source.column("learned_reward").any()  # what is stored stays as it was


def test_updates_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """Three updates from equal weights and equal draws: one Adam per part, the critic first, the target every second time."""
    sac = fit(tmp_path, env_steps=60).double()
    source = sac.source
    source.packed = source.packed.double()
    slow = SlowSAC(sac, lambda critic, obs, action, still=False: critic(torch.cat([obs, action], 1)).squeeze(-1))
    start_engine(sac)
    sac.running.begin([5])
    for numbers in drawn(sac.running.programs["policy"], 3, seed=5):
        rows = source.packed[source.uniform_rows(numbers["place"])]
        obs, action, next_obs, reward = rows[:, :1], rows[:, 1:2], rows[:, 2:3], rows[:, 3]
        slow.update(obs, action, reward, next_obs, rows[:, 4], numbers["noise"], numbers["next_noise"])
    before = sac.critic.weights[0].clone()
    sac.running.run("policy", 3)
    assert (sac.critic.weights[0] - before).abs().max() > 1e-4
    slow.assert_equals(sac, atol=1e-10)


# Resume and learning --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resume_inside_pre_training_and_after_is_an_uninterrupted_run(tmp_path: Path) -> None:
    """Open episodes, noise, running statistics, replay: every round's checkpoint continues bit for bit."""
    settings: dict[str, Any] = {"num_envs": 2, "seed_steps": 22, "explore_steps": 24, "reset_updates": 5, "reward": "random"}
    straight = fit(tmp_path / "straight", **settings)
    assert straight.trainer.current_epoch == 3
    for rounds in (1, 2):
        folder = tmp_path / str(rounds)
        fit(folder, trainer={"max_epochs": rounds}, **settings)
        resumed = fit(folder, ckpt_path=folder / "checkpoints" / "last.ckpt", **settings)
        assert_same(straight.state_dict(), resumed.state_dict())
        assert_same(straight.running.state_dict(), resumed.running.state_dict())
        assert torch.equal(straight.source.packed, resumed.source.packed)
        assert torch.equal(straight.source.reward, resumed.source.reward)
        assert read_csv(tmp_path / "straight") == read_csv(folder)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resume_after_a_round_of_random_steps_alone(tmp_path: Path) -> None:
    """Round 0 makes no update, and is saved all the same: its random steps are not taken again."""
    straight = fit(tmp_path / "straight", reward="random")
    folder = tmp_path / "resumed"
    first = fit(folder, reward="random", trainer={"max_epochs": 1, "callbacks": [RoundCheckpoint()]})
    assert first.trainer.global_step == 0 and first.env_steps == 20
    resumed = fit(folder, reward="random", ckpt_path=folder / LAST, trainer={"callbacks": [RoundCheckpoint()]})
    assert resumed.events_of("round 0", "round 1") == [(20, 0)] and resumed.trainer.current_epoch == 4
    assert_same(straight.state_dict(), resumed.state_dict())
    assert torch.equal(straight.source.packed, resumed.source.packed)
    assert read_csv(tmp_path / "straight") == read_csv(folder)


def test_it_learns_to_stand_where_the_reward_is(tmp_path: Path) -> None:
    """From a random place, a perfect policy gets about 19 of 20, a random one about 12."""
    sac = fit(
        tmp_path,
        env_steps=1_100,
        seed_steps=100,
        round_steps=1_000,
        hidden=[32, 32],
        batch_size=64,
        lr=3e-3,
        discount=0.9,
        alpha_lr=1e-2,
    )
    random = sac.source.reward[:100].reshape(5, 20).sum(1).mean()
    learned = [row["eval/return_mean"] for row in read_csv(tmp_path) if "eval/return_mean" in row][-1]
    assert random < 15 and learned > 18


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_logged_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SAC acts while it learns and ToyData has logged data only: use a config of"):
        make_trainer(tmp_path).fit(SAC({"obs_dim": 5, "action_dim": 2, "horizon": 3}), ToyData())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_steps": 20}, "env_steps is 20, and 20 random plus 0 exploring steps use them up: raise it"),
        ({"seed_steps": 5, "explore_steps": 10}, "its 5 nearest neighbours and only 5 random steps are stored before"),
        ({"update_ratio": 0}, "SAC got update_ratio=0: give a number of at least 1"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SAC({"obs_dim": 1, "action_dim": 1, "horizon": 20}, **{**SMALL, **settings})


def test_steps_that_environments_cannot_share(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seed_steps is 20 and data\.init_args\.num_envs is 3, which step together"):
        fit(tmp_path, num_envs=3)


# Configs --------------------------------------------------------------------------------------------------------------


def test_the_fast_preset_changes_sizes_only() -> None:
    preset, full = (
        yaml.safe_load(Path(packaged_config(name)).read_text())["model"] for name in ("preset/sac/fast.yaml", "model/sac.yaml")
    )
    assert set(preset) == {"init_args"} and set(preset["init_args"]) <= set(full["init_args"])
    sac = SAC({"obs_dim": 24, "action_dim": 6, "horizon": 500}, **{**full["init_args"], **preset["init_args"]})
    sac.configure_model()
    assert sac.updates == 149_000
    # 24 -> 256 -> 256 -> 12, and twice 30 -> 256 -> 256 -> 1, with biases
    assert sum(p.numel() for p in sac.actor.parameters()) == 25 * 256 + 257 * 256 + 257 * 12
    assert sum(p.numel() for p in sac.critic.parameters()) == 2 * (31 * 256 + 257 * 256 + 257)
