"""From logged data to acting: what a run begins with, what it continues from checkpoints, resuming, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from online_toys import WalkSimulator
from pebble_toys import SMALL, SMALL_REWARD, SPEC, build
from toys import assert_same, make_trainer

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.clips.online import recording
from lightning_pbrl.configs import packaged_config, read_config
from lightning_pbrl.data import archive
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.collect import collect
from lightning_pbrl.envs.collector import Collector
from lightning_pbrl.envs.rollout import VectorEnvs
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.sac import gaussian_kl
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.methods.ppo import PPO
from lightning_pbrl.methods.pref_ppo import PrefPPO
from lightning_pbrl.methods.qpa import QPA
from lightning_pbrl.methods.sac import SAC
from lightning_pbrl.methods.td3_bc import TD3BC
from lightning_pbrl.teachers.simulated import SimulatedTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
OFFLINE: dict[str, Any] = {"updates": 6, "eval_interval": 6, "hidden": [16, 16], "batch_size": 8, "compile": False}


class Walks(FeedbackDataModule):
    """Twelve random episodes of 20 steps."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(WalkSimulator(20), segment_length=5, eval_episodes=2, num_envs=2, held_out_pairs=9, **settings)
        self.file = folder / "walks.safetensors"

    def load(self) -> Transitions:
        return collect(WalkSimulator(20), [Behaviour(expert=False)], 12, self.file)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of a reward (8 answers) and of policies on logged walks."""
    folder = tmp_path_factory.mktemp("stages")
    ask = AskTeacher(SimulatedTeacher(), budget=8, per_round=4)
    make_trainer(folder / "reward", [ask]).fit(RewardEnsemble(SPEC, **SMALL_REWARD, compile=False), Walks(folder))
    for name, method, normalize in (
        ("iql", IQL(SPEC, **OFFLINE), False),
        ("scaled", IQL(SPEC, **OFFLINE), True),
        ("td3_bc", TD3BC(SPEC, **OFFLINE), False),
        ("bc", BC(SPEC, policy="squashed", **OFFLINE), False),
    ):
        relabel = RelabelRewards("true", normalize)
        make_trainer(folder / name, [relabel]).fit(method, Walks(folder))
        (folder / name / "config.yaml").write_text(f"relabel: {{reward: 'true', normalize: {normalize}}}\n")
    return folder


def checkpoint(stages: Path, name: str) -> str:
    return str(stages / name / "checkpoints/last.ckpt")


def online(stages: Path, **settings: Any) -> OnlineDataModule:
    given: dict[str, Any] = {"start_from": Walks(stages), "segment_length": 5, "eval_episodes": 2, "eval_envs": 2, **settings}
    return OnlineDataModule(WalkSimulator(20), **given)


def fit(method: Any, module: OnlineDataModule, folder: Path, ckpt_path: Path | None = None, **trainer: Any) -> Any:
    ask = [AskTeacher(SimulatedTeacher(), budget=12, per_round=6, first_round=1)] if "labels" in method.needs else []
    make_trainer(folder, ask, **trainer).fit(method, module, ckpt_path=ckpt_path)
    return method


class Watched(SAC):
    """Notes of each minibatch which rows are logged: those of walks that another seed began."""

    def replayed(self, drawn: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = super().replayed(drawn)
        same = (found["rows"].unsqueeze(1) == self.source.packed).all(-1)
        rows = same.long().argmax(1)
        assert same.any(1).all()
        self.__dict__.setdefault("noted", []).append(int((rows >= self.source.ring).sum()))
        return found


SMALL_SAC = {name: value for name, value in SMALL.items() if name != "reset_updates"}


@pytest.mark.parametrize("share", [0.5, None])
def test_a_share_of_every_minibatch_is_logged(share: float | None, stages: Path, tmp_path: Path) -> None:
    """Batches of eight: four logged rows in each; without a share 240 of 260 to 400 rows. The true reward is the column's."""
    method = fit(Watched(SPEC, **{**SMALL_SAC, "explore_steps": 0}), online(stages, share=share, capacity=40), tmp_path)
    assert len(method.noted) == 140
    if share is None:
        assert 4.0 < sum(method.noted) / 140 < 7.9 and len(set(method.noted)) > 2
    else:
        assert set(method.noted) == {4}
    rows = method.source.logged.rows()
    assert torch.equal(method.source.column("learned_reward")[rows], method.source.reward[rows])
    assert method.source.logged.count == 240 and method.env_steps == 160 and method.source.own == 40


def test_the_reward_model_relabels_logged_rows_and_the_true_reward_stays_hidden(stages: Path, tmp_path: Path) -> None:
    class Blind(SimulatedTeacher):
        def answer(self, query: Any, clips: Any, keys: Any) -> Any:
            return super().answer(query, clips._replace(reward=clips.action.squeeze(-1)), keys)

    class Unpaid(Walks):
        def load(self) -> Transitions:
            found = super().load()
            found.reward = torch.full_like(found.reward, torch.nan)
            return found

    runs = []
    for number, data in enumerate((Walks(stages), Unpaid(stages))):
        method = build(PEBBLE)
        ask = AskTeacher(Blind(), budget=12, per_round=6, first_round=1)
        make_trainer(tmp_path / str(number), [ask]).fit(method, online(stages, start_from=data))
        runs.append(method)
        rows = method.source.logged.rows()
        with torch.no_grad():
            expected = method.reward_model.relabel(method.source, rows)
        torch.testing.assert_close(method.source.column("learned_reward")[rows], expected, rtol=1e-5, atol=1e-6)
    assert runs[1].source.reward[runs[1].source.logged.rows()].isnan().all()
    assert_same(runs[0].reward_model.state_dict(), runs[1].reward_model.state_dict())


@pytest.mark.parametrize("cls", [PEBBLE, QPA])
def test_a_resumed_run_equals_an_uninterrupted_one(cls: Any, stages: Path, tmp_path: Path) -> None:
    """With a ring of two episodes that has wrapped, a share, stored answers, and everything continued from checkpoints."""
    given = {"reward": checkpoint(stages, "reward"), "policy": checkpoint(stages, "iql"), "critic": checkpoint(stages, "iql")}
    model = {"ensemble_size": 3, **({"crop": [2, 4]} if cls is QPA else {})}

    def run(folder: Path, ckpt_path: Path | None = None, **trainer: Any) -> tuple[Any, OnlineDataModule]:
        module = online(stages, share=0.5, capacity=40, answers=str(stages / "reward/labels.sqlite"))
        method = build(cls, model, start_from=given, explore_steps=0, critic_updates=5)
        return fit(method, module, folder, ckpt_path, **trainer), module

    one, straight = run(tmp_path / "straight")
    run(tmp_path / "broken", max_epochs=2)
    two, resumed = run(tmp_path / "broken", tmp_path / "broken/checkpoints/last.ckpt")
    assert_same(one.state_dict(), two.state_dict())
    assert torch.equal(straight.source.packed, resumed.source.packed) and torch.equal(
        straight.source.reward, resumed.source.reward
    )
    assert_same(one.labels, two.labels)
    assert len(one.labels) == 8 + 12  # eight of the reward's stage, about logged rows
    assert (one.labels.start[:8] >= straight.source.ring).all() and (one.labels.start[:8] < straight.source.logged.end).all()


def test_a_run_goes_on_with_the_same_logged_data_only(stages: Path, tmp_path: Path) -> None:
    fit(SAC(SPEC, **SMALL_SAC), online(stages), tmp_path, max_epochs=1)
    last = tmp_path / "checkpoints/last.ckpt"
    other = archive.load(Walks(stages).file).select(torch.arange(5))
    file = archive.save(other, tmp_path / "other.safetensors")
    for start_from, why in ((str(file), "with other logged data"), (None, "with other logged data")):
        with pytest.raises(UserError, match=f"begun {why}"):
            fit(SAC(SPEC, **SMALL_SAC), online(stages, start_from=start_from), tmp_path, last)


@pytest.mark.parametrize("name", ["iql", "td3_bc", "bc"])
def test_the_first_action_is_that_of_the_offline_policy(name: str, stages: Path, tmp_path: Path) -> None:
    """At hand-over, for logged observations; and the seed steps are the policy's, not random."""
    seen: dict[str, Any] = {}

    class First(SAC):
        def behave(self, obs: torch.Tensor) -> torch.Tensor:
            seen.setdefault("steps", 0)
            seen.setdefault("first", self.act(self.source.column("obs")[self.source.logged.rows()]))
            seen["steps"] += 1
            return super().behave(obs)

    method = First(SPEC, **{**SMALL_SAC, "explore_steps": 0, "start_from": {"policy": checkpoint(stages, name)}})
    fit(method, online(stages), tmp_path)
    offline = {"iql": IQL, "td3_bc": TD3BC, "bc": BC}[name].load(checkpoint(stages, name))
    obs = method.source.column("obs")[method.source.logged.rows()]
    torch.testing.assert_close(seen["first"], offline.act(obs), rtol=1e-4, atol=1e-5)
    assert seen["steps"] == 160  # all env steps


def test_a_policy_is_kept_near_the_one_that_it_continues(stages: Path, tmp_path: Path) -> None:
    """The mean KL over logged states, after the same updates with three weights; and nothing to stay near is a mistake."""
    settings = {**SMALL_SAC, "explore_steps": 0, "lr": 3e-3, "start_from": {"policy": checkpoint(stages, "iql")}}
    found = {}
    for weight in (1e-6, 1.0, 1e3):
        method = fit(SAC(SPEC, **settings, kl_weight=weight), online(stages), tmp_path / str(weight))
        first = SAC.load(checkpoint(tmp_path, str(weight))).first_actor
        offline = IQL.load(checkpoint(stages, "iql"))
        obs = method.source.column("obs")[method.source.logged.rows()]
        torch.testing.assert_close(first.act(obs), offline.act(obs), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            found[weight] = gaussian_kl(*method.actor(obs), *first(obs)).mean().item()
    assert found[1e-6] > 2 * found[1.0] > 4 * found[1e3] > 0
    with pytest.raises(UserError, match=r"kl_weight=1 and continues no policy: set model\.init_args\.start_from\.policy"):
        SAC(SPEC, **{**settings, "start_from": None}, kl_weight=1.0)


def test_reward_and_critics_continue(stages: Path) -> None:
    """As an engine would get them: the reward's members as they are, the critics of raw observations."""
    given = {"reward": checkpoint(stages, "reward"), "critic": checkpoint(stages, "iql")}
    method = build(PEBBLE, start_from=given)
    method.configure_model()
    method.source = Replay(20, 1, 2, 1, 20, None, archive.load(Walks(stages).file))
    method.on_data()
    reward, iql = RewardEnsemble.load(given["reward"]), IQL.load(given["critic"])
    assert_same(method.reward_model.state_dict(), reward.reward_model.state_dict())
    obs, action = method.source.column("obs")[-9:], method.source.column("action")[-9:]
    for ours, theirs in ((method.critic, iql.q), (method.critic_target, iql.q_target)):
        expected = theirs(torch.cat([iql.normalizer(obs), action], 1))
        torch.testing.assert_close(ours(torch.cat([obs, action], 1)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("cls", "settings", "given", "message"),
    [
        (SAC, {"explore_steps": 0}, {"polcy": "x"}, r"start_from has no 'polcy': did you mean policy"),
        (SAC, {}, {"policy": "iql"}, "overwritten by 20 steps of pre-training: set model.init_args.explore_steps to 0"),
        (SAC, {"explore_steps": 0, "hidden": [8, 16]}, {"policy": "iql"}, r"has hidden layers \[16, 16\], this run \[8, 16\]"),
        (SAC, {}, {"reward": "reward"}, "SAC holds no reward model"),
        (PEBBLE, {}, {"reward": "iql"}, "IQL holds no reward model"),
        (PEBBLE, {"reward_model": {"hidden": [8, 8]}}, {"reward": "reward"}, r"a RewardEnsemble, has .*hidden=\[16, 16\]"),
        (PEBBLE, {"reward_model": {"output": "sigmoid"}}, {"reward": "reward"}, "a RewardEnsemble, has output=tanh"),
        (PEBBLE, {"reward_model": {"class_path": "UnifiedReward"}}, {"reward": "reward"}, "this run a UnifiedReward"),
        (PEBBLE, {}, {"critic": "bc"}, "a BC, has no twin critics"),
        (PEBBLE, {"discount": 0.9}, {"critic": "iql"}, "was trained with discount=0.99, this run has 0.9"),
        (PEBBLE, {}, {"critic": "scaled"}, "read rewards scaled by relabel.normalize, which online rewards are not"),
        (PEBBLE, {"explore_steps": 0}, {"policy": "reward"}, "has no actor with ReLU layers and a squashed mean"),
        (PrefPPO, {"explore_steps": 0}, {"policy": "iql"}, "cannot be continued by PrefPPO: use SAC"),
    ],
)
def test_what_cannot_be_continued(cls: Any, settings: Any, given: Any, message: str, stages: Path) -> None:
    paths = {part: checkpoint(stages, name) for part, name in given.items()}

    def begin() -> None:
        small = {**SMALL_SAC, **settings}
        method = SAC(SPEC, **small, start_from=paths) if cls is SAC else build(cls, start_from=paths, **settings)
        method.configure_model()
        method.source = Replay(20, 1, 2, 1, 20, None, archive.load(Walks(stages).file))
        method.on_data()

    with pytest.raises(UserError, match=message):
        begin()


def test_another_task_is_refused(stages: Path) -> None:
    method = SAC({**SPEC, "obs_dim": 3}, **SMALL_SAC, start_from={"critic": checkpoint(stages, "iql")})
    method.source = Replay(20, 1, 3, 1, 20)
    with pytest.raises(UserError, match=r"is for \{'obs_dim': 2, 'action_dim': 1\}"):
        method.on_data()


def test_settings_of_the_data_that_are_refused(stages: Path, tmp_path: Path) -> None:
    for name, value in (("share", 0.5), ("answers", "x")):
        with pytest.raises(UserError, match=f"data.init_args.{name} is about logged data and there are none"):
            online(stages, start_from=None, **{name: value})
    with pytest.raises(UserError, match=r"share=1\.5: give a number between 0 and 1"):
        online(stages, share=1.5)
    ppo = PPO(SPEC, env_steps=40, round_steps=20, n_steps=20, hidden=[8], batch_size=8)
    with pytest.raises(UserError, match="PPO cannot learn from logged rows"):
        fit(ppo, online(stages), tmp_path / "a")
    with pytest.raises(UserError, match=r"learns from its newest steps alone: leave data\.init_args\.share out"):
        fit(ppo, online(stages, share=0.5), tmp_path / "b")
    with pytest.raises(UserError, match="There is no label store"):
        fit(build(PEBBLE), online(stages, answers="nowhere.sqlite"), tmp_path / "c")
    with pytest.raises(UserError, match="has no answer about pairs of 4 steps"):
        fit(build(PEBBLE), online(stages, answers=str(stages / "reward/labels.sqlite"), segment_length=4), tmp_path / "d")
    obs = torch.zeros(20, 3)
    file = archive.save(Transitions.from_columns(obs, obs[:, :1], obs, torch.tensor([0, 20])), tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"give logged data of the task of data\.init_args\.simulator"):
        fit(SAC(SPEC, **SMALL_SAC), online(stages, start_from=str(file)), tmp_path / "e")
    with pytest.raises(UserError, match=r"critic_updates learn from logged rows: set data\.init_args\.start_from"):
        fit(SAC(SPEC, **SMALL_SAC, critic_updates=3), online(stages, start_from=None), tmp_path / "f")


def test_answers_about_logged_data_are_learned_from_before_the_first_step(stages: Path, tmp_path: Path) -> None:
    """A budget of none: the eight answers of the reward's stage are all there is, and round 0 learns from them."""
    method = build(PEBBLE)
    module = online(stages, answers=str(stages / "reward/labels.sqlite"))
    make_trainer(tmp_path, [AskTeacher()], max_epochs=1).fit(method, module)
    assert method.learned_from == 8 and method.running.updates["reward"] >= 1


def test_the_recording_of_a_logged_segment_repeats_its_episode(stages: Path) -> None:
    module = online(stages, capacity=40)
    module.setup("fit")
    collector = Collector(VectorEnvs(WalkSimulator(20), 1), module.source, 0)
    first = module.source.logged.first
    taken = recording(collector, first + 20 + 7, 5)  # of the second episode, from its eighth step on
    assert taken.seed is not None and taken.first == 7 and taken.action.shape == (12, 1)
    env = WalkSimulator(20).make()
    seen = [env.reset(seed=taken.seed)[0]] + [env.step(action)[0] for action in taken.action]
    assert np.array_equal(taken.obs, np.array(seen[7:12], np.float32))
    logged = module.source.logged.data
    assert logged is not None
    logged.about["simulator"] = {}  # collected elsewhere: what is left are the observations
    assert recording(collector, first + 27, 5).seed is None


def test_the_demo_is_continued_with_its_own_data() -> None:
    """The label store of its reward stage would be refused otherwise."""
    logged = read_config(packaged_config("data/demo.yaml"))["data"]["init_args"]
    begun = read_config(packaged_config("data/demo_online.yaml"))["data"]["init_args"]
    assert begun["start_from"]["init_args"] == {name: logged[name] for name in begun["start_from"]["init_args"]}
    assert {"mixture", "episodes", "horizon", "task"} <= begun["start_from"]["init_args"].keys()
    assert begun["segment_length"] == logged["segment_length"] and begun["simulator"]["init_args"] == {
        "task": "plate-slide",
        "horizon": 150,
    }
