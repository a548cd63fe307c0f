"""Any Gymnasium environment, one of the test's own included."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from lightning_pbrl.envs.gymnasium_env import GymnasiumEnv
from lightning_pbrl.envs.rollout import rollout
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


@pytest.fixture(autouse=True)
def _registered():
    gymnasium.register("Reach-v0", Reach)
    yield
    del gymnasium.registry["Reach-v0"]


def test_dictionaries_actions_success_and_seeds():
    import torch

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
        ({"obs_dim": 3}, "obs_dim 2 and action_dim 1: state these"),
        ({"env_id": "Reech-v0"}, "cannot build 'Reech-v0'"),
        ({"env_id": "no_such_package:Reach-v0"}, "no_such_package"),
        ({"settings": {"speed": 2}}, "speed"),
        ({"settings": {"actions": "buttons"}}, r"Discrete\(2\): a bounded Box"),
    ],
)
def test_mistakes_name_the_cure(settings, words):
    simulator = GymnasiumEnv(**{"env_id": "Reach-v0", "obs_dim": 2, "action_dim": 1, "horizon": 5, **settings})
    with pytest.raises(UserError, match=words):
        simulator.make()
