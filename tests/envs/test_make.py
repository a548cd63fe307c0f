"""Simulators by the ids of their packages."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from lightning_pbrl import OnlineDataModule, make
from lightning_pbrl.envs import gym_mujoco, metaworld, robosuite
from lightning_pbrl.errors import UserError


@pytest.mark.parametrize(
    ("env_id", "kind", "name", "horizon"),
    [
        ("Hopper-v5", "GymMuJoCo", "Hopper-v5", 1000),
        ("Reacher-v5", "GymMuJoCo", "Reacher-v5", 50),
        ("Pendulum-v1", "GymnasiumEnv", "Pendulum-v1", 200),
        ("plate-slide-v3", "MetaWorld", "plate-slide-v3", 500),
        ("plate-slide-v2", "MetaWorld", "plate-slide-v3", 500),
        ("metaworld/drawer-open", "MetaWorld", "drawer-open-v3", 500),
        ("Meta-World/drawer-open-v3", "MetaWorld", "drawer-open-v3", 500),
        ("dm_control/walker-walk", "DMControl", "walker-walk", 1000),
        ("dm_control/walker-walk-v0", "DMControl", "walker-walk", 1000),
        ("robosuite/Lift", "Robosuite", "Lift", 500),
        ("robosuite/PickPlaceCan", "Robosuite", "Can", 500),
    ],
)
def test_ids(env_id: str, kind: str, name: str, horizon: int) -> None:
    simulator = make(env_id)
    assert (type(simulator).__name__, simulator.name, simulator.horizon) == (kind, name, horizon)


def test_gymnasium_robotics_needs_no_import() -> None:
    pytest.importorskip("gymnasium_robotics")
    simulator = make("FetchReach-v4")
    assert (simulator.name, simulator.obs_dim, simulator.horizon) == ("gymnasium_robotics:FetchReach-v4", 16, 50)


@pytest.mark.parametrize("env_id", sorted(gym_mujoco.SIZES))
def test_the_registered_horizon(env_id: str) -> None:
    assert make(env_id).horizon == gymnasium.spec(env_id).max_episode_steps


def test_every_task_has_an_id() -> None:
    assert [make(f"{task}-v3").name for task in metaworld.TASKS] == [f"{task}-v3" for task in metaworld.TASKS]
    assert [make(f"robosuite/{name}").name for name, _ in robosuite.TASKS.values()] == list(robosuite.TASKS)


def test_settings_go_to_the_simulator() -> None:
    assert make("Hopper-v5", horizon=30, terminate_when_unhealthy=False).describe()["terminate_when_unhealthy"] is False
    assert make("metaworld/reach", horizon=7).horizon == 7
    env = make("Pendulum-v1", horizon=20).make()
    obs, _ = env.reset(seed=1)
    assert obs.shape == (3,)
    steps = 0
    done = False
    while not done:
        _, _, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        steps, done = steps + 1, terminated or truncated
    assert steps == 20
    env.close()


def test_it_is_what_data_modules_take() -> None:
    assert OnlineDataModule(make("Reacher-v5")).spec == {"obs_dim": 10, "action_dim": 2, "horizon": 50}


@pytest.mark.parametrize(
    ("env_id", "sentence"),
    [
        ("Hoper-v5", "There is no environment 'Hoper-v5'; did you mean Hopper-v5 or Hopper-v4 or Hopper-v3?"),
        ("plate-slid-v3", "There is no environment 'plate-slid-v3'; did you mean plate-slide-v3 or "),
        ("walker-walk", "There is no environment 'walker-walk'; did you mean dm_control/walker-walk or "),
        ("metaworld/plate-slid", "Meta-World has no task 'plate-slid'; did you mean plate-slide or "),
        ("dm_control/walker-wak", "The control suite has no task 'walker-wak'; did you mean walker-walk or "),
        ("robosuite/Lft", "There is no robosuite task 'Lft' here; did you mean Lift?"),
        ("nowhere:Thing-v0", "Gymnasium cannot build 'nowhere:Thing-v0' (No module named 'nowhere'): check env_id and settings."),
        ("CartPole-v1", "CartPole-v1 has the action space Discrete(2): a bounded Box of real numbers, of shape (size,), is "),
        (7, "make got 7: give the id of an environment, such as 'Hopper-v5'."),
    ],
)
def test_unknown_ids(env_id: Any, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        make(env_id)
    assert str(error.value).startswith(sentence)
    assert str(error.value).count(". ") == 0
