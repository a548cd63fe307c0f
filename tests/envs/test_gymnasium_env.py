"""Any Gymnasium environment, one of the test's own included."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import WrapperSpec
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple
from gymnasium.wrappers import TimeLimit

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.envs import collect as collecting
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.collect import collect
from lightning_pbrl.envs.collector import Collector
from lightning_pbrl.envs.gymnasium_env import GymnasiumEnv
from lightning_pbrl.envs.rollout import Rollouts, VectorEnvs, rollout
from lightning_pbrl.errors import UserError


class Reach(gymnasium.Env):
    """A point on a line, moved by up to 5 a step, towards a goal that the seed draws."""

    metadata: ClassVar[dict] = {"render_modes": []}
    observation_space = Dict({"place": Box(-100, 100, (1,)), "goal": Box(0, 10, (1,))})

    def __init__(self, actions: str = "box") -> None:
        self.action_space = Box(0, 5, (1,)) if actions == "box" else Discrete(2)

    def _obs(self) -> dict:
        return {"place": np.array([self.place]), "goal": np.array([self.goal])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = 0.0, self.np_random.uniform(5, 10)
        return self._obs(), {}

    def step(self, action):
        self.place += float(action[0])
        there = abs(self.place - self.goal) < 1.0
        return self._obs(), float(there), there, False, {"success": there}


class Line(gymnasium.Env):
    """A point on a line that pays 1 per step and observes its place and time; ``tell`` says what a step's info holds.

    Args:
        tell: (episode's place at the start, step, whether this is the last step) -> info.
        truncates: steps after which it cuts itself off.
        terminates: steps after which it ends.
        actions: its action space.
        drawn: of a generator of its own, whatever the seed.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, tell=None, truncates=99, terminates=99, actions=None, drawn=False) -> None:
        self.tell, self.truncates, self.terminates, self.drawn = tell or (lambda *_: {}), truncates, terminates, drawn
        self.action_space = actions or Box(-2.0, 2.0, (1,), np.float32)
        self.own = np.random.default_rng(0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.begun = self.x = (self.own if self.drawn else self.np_random).uniform(-1, 1)
        self.t = 0
        return np.array([self.x, 0.0]), {}

    def step(self, action):
        self.x, self.t = self.x + float(action[0]), self.t + 1
        ends = self.t >= self.terminates, self.t >= self.truncates
        return np.array([self.x, self.t]), 1.0, *ends, self.tell(self.begun, self.t, any(ends))


class Tenfold(gymnasium.RewardWrapper):
    def reward(self, reward):
        return 10.0 * reward


class Sevenfold(gymnasium.ObservationWrapper):
    def observation(self, obs):
        return 7.0 * obs


TELLS: dict[str, Any] = {
    "never": lambda *_: {},
    "always": lambda begun, *_: {"success": begun > 0},
    "is_success": lambda begun, *_: {"is_success": np.float32(begun > 0)},
    "NumPy's bool": lambda begun, *_: {"success": np.bool_(begun > 0)},
    "in an array": lambda begun, *_: {"is_success": np.array([begun > 0])},
    "when true": lambda begun, *_: {"success": True} if begun > 0 else {},
    "once": lambda begun, t, _: {"success": begun > 0 and t == 2},
    "at the end": lambda begun, t, last: {"success": begun > 0} if last else {},
    "at the end when true": lambda begun, t, last: {"is_success": 1} if last and begun > 0 else {},
    "unknown before the end": lambda begun, t, last: {"success": float(begun > 0) if last else None},
    "NaN before the end": lambda begun, t, last: {"success": float(begun > 0) if last else float("nan")},
    "half": lambda *_: {"success": 0.5},
    "two": lambda *_: {"success": np.array([True, False])},
    "won": lambda begun, *_: {"won": True} if begun > 9 else {},
}


@pytest.fixture(autouse=True)
def _registered():
    gymnasium.register("Reach-v0", Reach)
    gymnasium.register("Line-v0", Line, max_episode_steps=50)
    gymnasium.register("Endless-v0", Line)
    gymnasium.register("Wrapped-v0", lambda **settings: Sevenfold(Tenfold(Line(**settings))), max_episode_steps=50)
    clip = WrapperSpec("ClipReward", "gymnasium.wrappers:ClipReward", {"min_reward": 0.0, "max_reward": 0.25})
    gymnasium.register("Clipped-v0", Line, max_episode_steps=50, additional_wrappers=(clip,))
    gymnasium.register("Limited-v0", lambda **settings: Tenfold(TimeLimit(Line(**settings), 10)), max_episode_steps=50)
    yield
    for name in ("Reach", "Line", "Endless", "Wrapped", "Clipped", "Limited"):
        del gymnasium.registry[f"{name}-v0"]


def line(env_id: str = "Line-v0", horizon: int | None = 20, success: str | None = None, **settings: Any) -> GymnasiumEnv:
    return GymnasiumEnv(env_id, 2, 1, horizon, settings, success=success)


def play(simulator: GymnasiumEnv, episodes: int = 4) -> Rollouts:
    return rollout(lambda obs: torch.zeros(len(obs), 1), simulator, range(episodes))


@pytest.mark.parametrize(
    ("env_id", "pays", "sees"), [("Wrapped-v0", 10.0, 7.0), ("Clipped-v0", 0.25, 1.0), ("Limited-v0", 10.0, 1.0)]
)
def test_wrappers_of_the_registered_environment_stay(env_id, pays, sees):
    plain, env = gymnasium.make(env_id), line(env_id).make()
    obs, _ = plain.reset(seed=1)
    assert np.array_equal(env.reset(seed=1)[0], obs.astype(np.float32))
    assert obs[0] == pytest.approx(sees * plain.unwrapped.x)
    seen, reward = plain.step(np.array([2.0], np.float32))[:2]
    found = env.step(np.array([1.0], np.float32))
    assert (found[1], reward) == (pays, pays) and np.array_equal(found[0], seen.astype(np.float32))


@pytest.mark.parametrize(
    ("env_id", "settings", "horizon", "length"),
    [
        ("Line-v0", {}, 20, 20),
        ("Line-v0", {}, None, 50),
        ("Line-v0", {"truncates": 7}, 20, 7),
        ("Endless-v0", {"truncates": 7}, 1500, 7),
        ("Limited-v0", {}, 20, 10),
        ("Limited-v0", {}, None, 10),
        ("Limited-v0", {"truncates": 7}, None, 7),
        ("Line-v0", {"max_episode_steps": 60}, 60, 60),
        ("Line-v0", {"max_episode_steps": -1}, 60, 60),
    ],
)
def test_an_episode_ends_where_the_environment_truncates_it(env_id, settings, horizon, length):
    simulator = line(env_id, horizon, **settings)
    played = play(simulator)
    assert played.length.tolist() == [length] * 4
    assert played.episode_return.tolist() == [length * (10.0 if env_id == "Limited-v0" else 1.0)] * 4
    env = simulator.make()
    env.reset(seed=0)
    assert [env.step(np.zeros(1))[2:4] for _ in range(length)] == [(False, False)] * (length - 1) + [(False, True)]
    with pytest.raises(UserError, match="is over; call reset"):
        env.step(np.zeros(1))


def test_what_ends_and_is_cut_off_at_once_has_ended():
    env = line(truncates=3, terminates=3).make()
    env.reset(seed=0)
    assert [env.step(np.zeros(1))[2:4] for _ in range(3)] == [(False, False)] * 2 + [(True, False)]


@pytest.mark.parametrize("num_envs", [1, 3])
def test_rows_of_truncated_episodes_bootstrap_and_are_never_a_reset(num_envs):
    simulator = line(truncates=7)
    replay = Replay(300, num_envs, 2, 1, 20)
    collector = Collector(VectorEnvs(simulator, num_envs), replay, seed=5)
    for _ in range(23):
        collector.step()
    assert replay.recent_lengths(99).tolist() == [7.0] * 3 * num_envs and replay.open_steps == [2] * num_envs
    assert replay.recent_returns(99).tolist() == [7.0] * 3 * num_envs
    after = replay.stored_column("next_obs").view(num_envs, 23, 2)
    assert after[0, :, 1].tolist() == [1, 2, 3, 4, 5, 6, 7] * 3 + [1, 2]  # the time that followed, no reset's
    assert replay.stored_column("truncated").view(num_envs, 23)[-1].tolist() == [0, 0, 0, 0, 0, 0, 1] * 3 + [0, 0]
    assert not replay.stored_column("terminated").any()


@pytest.mark.parametrize(("tell", "known"), [(tell, tell != "never") for tell in TELLS if tell not in ("half", "two", "won")])
def test_success_is_found_however_it_is_told(tell, known, tmp_path, monkeypatch):
    """In episodes of 5 steps, those that begin to the right are solved: the same in a rollout, a replay and collected data."""
    simulator = line(tell=TELLS[tell], truncates=5)
    starts = np.array([np.random.Generator(np.random.PCG64(seed)).uniform(-1, 1) for seed in range(4)])
    expected = (starts > 0).astype(float).tolist() if known else [float("nan")] * 4
    assert play(simulator).success.tolist() == pytest.approx(expected, nan_ok=True)
    for num_envs in (1, 4):
        replay = Replay(400, num_envs, 2, 1, 20)
        collector = Collector(VectorEnvs(simulator, num_envs), replay, 0)
        for _ in range(40):
            collector.step(lambda obs: torch.zeros(len(obs), 1))
        begun = replay.stored_column("obs").view(num_envs, 8, 5, 2)[:, :, 0, 0]
        found = replay.recent_success(99).view(8, num_envs).T
        assert torch.equal(found.nan_to_num(-1.0), (begun > 0).double() if known else torch.full_like(found, -1.0))
    monkeypatch.setattr(collecting, "SHARD", 3)  # some are never told of success
    data = collect(simulator, [Behaviour(expert=False)], 24, tmp_path / "data.safetensors")
    assert (data.success is not None) == known
    if known:
        solved = data.episodes.sums(data.success) > 0
        assert torch.equal(solved, data.column("obs")[data.episodes.offsets[:-1], 0] > 0) and 4 < int(solved.sum()) < 20


def test_a_named_key_tells_success_and_its_absence_failure():
    assert play(line(tell=TELLS["won"])).success.isnan().all()
    assert play(line(tell=TELLS["won"], success="won")).success.tolist() == [0.0] * 4
    assert line(success="won").describe()["success"] == "won" and "success" not in line().describe()


@pytest.mark.parametrize(
    ("tell", "words"), [("half", r"success=0.5 for a step, .* name the key"), ("two", "success=array.* one number")]
)
def test_success_that_is_neither_true_nor_false(tell, words):
    with pytest.raises(UserError, match=words):
        play(line(tell=TELLS[tell]))


def test_sizes_and_horizon_are_read_where_they_are_not_stated():
    assert [(sim.obs_dim, sim.action_dim, sim.horizon) for sim in (GymnasiumEnv("Hopper-v5"), GymnasiumEnv("Reacher-v5"))] == [
        (11, 3, 1000),
        (10, 2, 50),
    ]
    assert line(horizon=None).horizon == 50 and line(horizon=None, max_episode_steps=30).horizon == 30
    assert GymnasiumEnv("Reach-v0", horizon=9).obs_dim == 2


def test_a_seed_that_does_not_decide_the_episode_is_told():
    env = line(drawn=True).make()
    env.reset(seed=4)
    env.reset(seed=5)
    with pytest.warns(UserWarning, match="Line-v0 began differently when it was reset with the seed 4 again"):
        env.reset(seed=4)
    env.reset(seed=4)  # once


def test_the_control_suite_by_its_registered_id_ends_after_its_thousand_steps():
    pytest.importorskip("shimmy")
    simulator = GymnasiumEnv("shimmy:dm_control/pendulum-swingup-v0", 3, 1, 1500)
    env = simulator.make()
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]
    with pytest.raises(UserError, match="is over; call reset"):
        env.step(np.zeros(1, np.float32))


def test_the_control_suite_by_its_registered_id_is_laid_out_by_key():
    pytest.importorskip("shimmy")
    from lightning_pbrl.envs.dm_control import DMControl

    registered, suite = GymnasiumEnv("shimmy:dm_control/walker-walk-v0", 24, 6, 1000), DMControl("walker-walk")
    by_key, own = registered.make().reset(seed=5)[0], suite.make().reset(seed=5)[0]
    height, orientations = by_key[:1], by_key[1:15]
    assert np.array_equal(own, np.concatenate([orientations, height, by_key[15:]]))


def test_meta_world_by_its_registered_id():
    settings = {"env_name": "reach-v3", "seed": 1}
    simulator = GymnasiumEnv("metaworld:Meta-World/MT1", 39, 4, 500, settings)
    env, plain = simulator.make(), gymnasium.make("Meta-World/MT1", **settings)
    assert np.array_equal(env.reset(seed=3)[0], plain.reset(seed=3)[0].astype(np.float32))
    action = np.array([0.5, -0.2, 0.1, 1.0], np.float32)
    for _ in range(20):
        mine, theirs = env.step(action), plain.step(action)
        assert np.array_equal(mine[0], theirs[0].astype(np.float32)) and mine[1] == theirs[1]
        assert mine[4]["success"] == theirs[4]["success"]


def test_dictionaries_actions_success_and_seeds():
    simulator = GymnasiumEnv("Reach-v0", obs_dim=2, action_dim=1, horizon=20)
    env = simulator.make()
    obs, _ = env.reset(seed=3)
    assert obs[1] == 0.0  # goal, then place
    assert 5 <= obs[0] <= 10
    assert np.array_equal(env.reset(seed=3)[0], obs)
    assert env.step(np.array([0.0]))[0][1] == 2.5  # the middle of [0, 5]
    slow = rollout(lambda seen: torch.full((len(seen), 1), -1 + 2 * 0.5 / 5), simulator, [0, 1])  # half a step at a time
    assert slow.success.tolist() == [1.0, 1.0]
    assert slow.episode_return.tolist() == [1.0, 1.0]
    assert (slow.length >= 8).all()


def test_known_environments_agree_with_the_adapter_made_for_them():
    from lightning_pbrl.envs.gym_mujoco import GymMuJoCo

    anything = GymnasiumEnv("Hopper-v5", 11, 3, 1000, {"healthy_reward": 1.0}, "hopper")
    env, own = anything.make(), GymMuJoCo("Hopper-v5").make()
    assert np.array_equal(env.reset(seed=1)[0], own.reset(seed=1)[0])
    action = np.array([0.1, -0.4, 0.9])
    for mine, theirs in zip(env.step(action)[:4], own.step(action)[:4], strict=True):
        assert np.array_equal(mine, theirs)
    assert anything.d4rl_task == "hopper"
    assert anything.describe()["settings"] == {"healthy_reward": "1.0"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"obs_dim": 3}, "obs_dim 2 and action_dim 1: give these sizes, or none"),
        ({"env_id": "Line-v0", "horizon": 51}, "horizon of Line-v0 is 51 and Gymnasium ends its episodes after 50 steps: give"),
        ({"env_id": "Line-v0", "settings": {"max_episode_steps": 4}}, "is 5 and Gymnasium ends its episodes after 4 steps"),
        ({"env_id": "Reach-v0", "horizon": None}, "Reach-v0 is registered without max_episode_steps: give horizon"),
        ({"env_id": "Line-v0", "settings": {"actions": Box(0, 9, (1,), np.int64)}}, "a bounded Box of real numbers"),
        ({"env_id": "Line-v0", "settings": {"actions": Box(-3e38, 3e38, (1,))}}, "a bounded Box of real numbers"),
        ({"env_id": "Line-v0", "settings": {"actions": Box(-np.inf, np.inf, (1,))}}, "a bounded Box of real numbers"),
        ({"env_id": "Line-v0", "settings": {"actions": Box(-1, 1, (1, 2))}}, "a bounded Box of real numbers"),
        ({"env_id": "Reech-v0"}, "cannot build 'Reech-v0'"),
        ({"env_id": "no_such_package:Reach-v0"}, "no_such_package"),
        ({"settings": {"speed": 2}}, "speed"),
        ({"settings": {"actions": "buttons"}}, r"Discrete\(2\): a bounded Box"),
    ],
)
def test_mistakes_name_the_cure(settings, words):
    with pytest.raises(UserError, match=words):
        GymnasiumEnv(**{"env_id": "Reach-v0", "obs_dim": 2, "action_dim": 1, "horizon": 5, **settings}).make()


def test_observations_that_are_no_numbers_and_spaces_that_are_wrong(monkeypatch):
    monkeypatch.setattr(Line, "observation_space", Tuple([Box(0, 1, (2,)), Text(3)]))
    with pytest.raises(UserError, match=r"Line-v0 observes Text.*: numbers are needed"):
        line().make()
    monkeypatch.setattr(Line, "observation_space", Box(0, 1, (2, 2)))
    with pytest.raises(UserError, match="Line-v0 observes 2 numbers and its space has 4"):
        GymnasiumEnv("Line-v0").make().reset(seed=0)


def test_actions_between_minus_one_and_one_are_passed_on_bit_for_bit():
    """HalfCheetah is chaotic: 6e-8 in each action make another return of 1,000 steps (-299.96 in place of -318.61)."""
    env, plain = GymnasiumEnv("HalfCheetah-v5").make(), gymnasium.make("HalfCheetah-v5")
    env.reset(seed=0)
    plain.reset(seed=0)
    rng, total = np.random.default_rng(0), 0.0
    for _ in range(150):
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        mine, theirs = env.step(action), plain.step(action)
        assert mine[1] == theirs[1] and np.array_equal(mine[0], theirs[0].astype(np.float32))
        total += theirs[1]
    assert total != 0.0
