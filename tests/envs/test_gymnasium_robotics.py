"""AntMaze, Adroit and kitchen as D4RL has them; what needs the simulators is skipped where they are not installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lightning_pbrl.data.d4rl_scores import reference_returns
from lightning_pbrl.envs.gymnasium_robotics import TASKS, GymnasiumRobotics
from lightning_pbrl.errors import UserError


@pytest.fixture
def _robotics() -> None:
    pytest.importorskip("gymnasium_robotics")


def test_sizes_and_scores_are_known_without_the_package():
    sizes = {task: (GymnasiumRobotics(task).obs_dim, GymnasiumRobotics(task).action_dim) for task in TASKS}
    assert sizes["antmaze-large"] == (29, 8)  # D4RL's tables
    assert [sizes[task] for task in ("pen", "hammer", "door", "relocate")] == [(45, 24), (46, 26), (39, 28), (39, 30)]
    assert sizes["kitchen-mixed"] == (60, 9)
    for task in TASKS:
        simulator = GymnasiumRobotics(task)
        assert simulator.d4rl_task == task
        assert reference_returns(task)[1] > 0
    assert GymnasiumRobotics("door", horizon=50).d4rl_task is None
    assert GymnasiumRobotics("antmaze-umaze").describe() == {
        "simulator": "GymnasiumRobotics",
        "task": "antmaze-umaze",
        "horizon": 700,
        "physics": "d4rl",
    }
    assert all(GymnasiumRobotics(task).d4rl_physics for task in TASKS)


def test_mistakes(monkeypatch):
    with pytest.raises(UserError, match="did you mean antmaze-large"):
        GymnasiumRobotics("antmaze-larg")
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(UserError, match=r"not installed.*lightning-pbrl\[robotics\]"):
        GymnasiumRobotics("pen").make()


@pytest.mark.usefixtures("_robotics")
@pytest.mark.parametrize("task", ["antmaze-medium", "pen", "relocate", "kitchen-mixed"])
def test_an_episode_follows_from_its_seed_and_actions(task):
    simulator = GymnasiumRobotics(task, horizon=6)
    env, other = simulator.make(), simulator.make()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (6, simulator.action_dim))
    other.reset(seed=1)
    other.step(actions[3])
    first, second = env.reset(seed=7)[0], other.reset(seed=7)[0]
    assert first.shape == (simulator.obs_dim,)
    assert np.array_equal(first, second)
    for number, action in enumerate(actions):
        obs, reward, terminated, truncated, info = env.step(action)
        again = other.step(action)
        assert np.array_equal(obs, again[0])
        assert (reward, info["success"]) == (again[1], again[4]["success"])
        assert truncated == (number == 5 and not terminated)
    assert not np.array_equal(env.reset(seed=8)[0], first)


@pytest.mark.usefixtures("_robotics")
def test_the_ant_lives_in_d4rls_maze():
    env = GymnasiumRobotics("antmaze-umaze").make()
    obs, info = env.reset(seed=0)
    physics = env.physics
    assert np.abs(obs[:2]).max() <= 0.1  # the start is the origin
    assert obs[2] == pytest.approx(0.75, abs=0.11)
    assert ((info["goal"] >= (0.0, 8.0)) & (info["goal"] <= (1.5, 9.5))).all()  # D4RL: cell (3, 1), 4 m per cell
    walls = {
        tuple(np.round(physics.model.geom_pos[i][:2] - physics.origin, 6).tolist())
        for i in range(physics.model.ngeom)
        if physics.model.geom(i).name.startswith("block")
    }
    assert {(0.0, 4.0), (4.0, 4.0), (-4.0, 0.0), (0.0, -4.0)} <= walls  # above the start a wall, the way leads along x
    assert not {(4.0, 0.0), (8.0, 0.0), (8.0, 4.0), (8.0, 8.0), (4.0, 8.0), (0.0, 8.0)} & walls
    assert np.allclose(physics.model.actuator_gear[:, 0], 30.0)
    assert physics.ant.dt == pytest.approx(0.1)
    physics.data.qpos[:2] = physics.goal + physics.origin + (0.3, 0.0)
    obs, reward, terminated, _, info = env.step(np.zeros(8))
    assert (reward, terminated, info["success"]) == (1.0, True, 1.0)
    assert np.linalg.norm(obs[:2] - physics.goal) <= 0.5


@pytest.mark.usefixtures("_robotics")
@pytest.mark.parametrize(
    ("task", "thing"),
    [("door", ("site", "S_handle")), ("hammer", ("body", "Object")), ("relocate", ("body", "Object"))],
)
def test_the_hands_reward_is_d4rls(task, thing):
    env = GymnasiumRobotics(task).make()
    env.reset(seed=2)
    physics = env.physics
    action = np.full(env.simulator.action_dim, 0.2)
    obs, reward, *_ = env.step(action)
    kind, name = thing
    place = physics.data.site(name).xpos if kind == "site" else physics.data.body(name).xpos
    distance = np.linalg.norm(physics.data.site("S_grasp").xpos - place)
    assert np.linalg.norm(TASKS[task].detail(obs)) == pytest.approx(distance, abs=1e-5)
    if task == "door":  # its whole reward, by hand
        hinge = physics.data.joint("door_hinge").qpos[0]
        by_hand = -0.1 * distance - 0.1 * (hinge - 1.57) ** 2 - 1e-5 * np.sum(physics.data.qvel**2)
        assert reward == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.usefixtures("_robotics")
def test_a_dropped_pen_ends_the_episode():
    env = GymnasiumRobotics("pen").make()
    env.reset(seed=5)
    rng = np.random.default_rng(0)
    terminated, height = False, 1.0
    while not terminated:
        assert height >= 0.075
        obs, _, terminated, truncated, _ = env.step(rng.uniform(-1, 1, 24))
        height = obs[26]
        assert not truncated
    assert height < 0.075


@pytest.mark.usefixtures("_robotics")
def test_the_kitchen_shows_d4rls_goal_and_counts_subtasks():
    env = GymnasiumRobotics("kitchen-mixed").make()
    obs, _ = env.reset(seed=0)
    physics = env.physics
    assert np.allclose(obs[:9], physics.data.qpos[:9], atol=0.011)  # 10 % of noise of at most 0.1
    goal = obs[30:]
    assert goal[[11, 12, 17, 18, 22]].tolist() == pytest.approx([-0.88, -0.01, -0.69, -0.05, -0.75])
    assert goal[23:30].tolist() == pytest.approx([-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06])
    assert not goal[:11].any()
    physics.data.qpos[22] = -0.75  # the microwave is open
    _, reward, terminated, _, info = env.step(np.zeros(9))
    assert (reward, terminated, info["success"]) == (1.0, False, 0.0)
    assert env.step(np.zeros(9))[1] == 0.0  # counted once
