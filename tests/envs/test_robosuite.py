"""The robosuite adapter: on a stand-in here, on the simulator itself where it is installed (requirements/robomimic.txt)."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_pbrl.data.robomimic import OBS_KEYS
from lightning_pbrl.envs.robosuite import SIZES, TASKS, Robosuite
from lightning_pbrl.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
real = pytest.mark.skipif(importlib.util.find_spec("robosuite") is None, reason="robosuite lives in its own environment")


@pytest.mark.parametrize(("task", "size"), [("Lift", 49), ("Can", 53), ("Square", 53)])
def test_sizes_are_known_without_robosuite(task: str, size: int):
    simulator = Robosuite(task)
    assert (simulator.obs_dim, simulator.action_dim, simulator.horizon) == (size, 7, 500)
    assert Robosuite(task, ["robot0_eef_pos", "robot0_gripper_qpos"]).obs_dim == 5


def test_mistakes(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="no robosuite task 'Lifd' here; did you mean Lift"):
        Robosuite("Lifd")
    with pytest.raises(UserError, match="Can has no observation 'robot0_eef_ps'; did you mean robot0_eef_pos"):
        Robosuite("Can", ["robot0_eef_ps"])
    with pytest.raises(UserError, match="Robosuite got horizon=0: give a number of at least 1"):
        Robosuite("Can", horizon=0)
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(UserError, match=r"'robosuite' is not installed; .* requirements/robomimic\.txt"):
        Robosuite("Lift").make()


class StandIn:
    """As robosuite's Lift: draws the cube from ``rng`` through a sampler that holds it; lifted by an upward action."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng()
        self.sampler = self.rng
        model = types.SimpleNamespace(geom_rgba=np.ones((2, 4)), geom_group=np.array([0, 1]))
        self.sim = types.SimpleNamespace(model=types.SimpleNamespace(_model=model))

    def seen(self) -> dict[str, Any]:
        observations = {key: np.full(size, float(place)) for place, (key, size) in enumerate(SIZES.items())}
        return {"object-state": self.cube, "robot0_proprio-state": np.zeros(50), **observations}

    def reset(self) -> dict[str, Any]:
        self.cube = self.sampler.normal(size=10)
        return self.seen()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        return self.seen(), float(action[2] > 0.5), False, {}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``robosuite.make`` was called with."""
    arguments: dict[str, Any] = {}

    def make(name: str, **settings: Any) -> StandIn:
        arguments.update(settings, name=name)
        return StandIn()

    module = types.ModuleType("robosuite")
    module.make = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "robosuite", module)
    return arguments


def test_observation_and_reset_seed(asked: dict[str, Any]):
    env, other = Robosuite("Lift").make(), Robosuite("Lift").make()
    obs, info = env.reset(seed=7)
    assert (asked["name"], asked["robots"], asked["reward_shaping"], asked["control_freq"]) == ("Lift", "Panda", False, 20)
    assert np.array_equal(obs[:10], np.random.default_rng(7).normal(size=10).astype(np.float32))
    assert obs[10:].tolist() == [float(place) for place, size in enumerate(SIZES.values()) for _ in range(size)]
    assert info == {"success": 0.0, "seed": 7}
    other.reset(seed=1)
    assert np.array_equal(other.reset(seed=7)[0], obs)
    assert env.physics.model.geom_rgba[:, 3].tolist() == [0, 1]  # collision shapes are invisible
    few = Robosuite("Lift", ["robot0_gripper_qpos", "object"]).make()
    assert np.array_equal(few.reset(seed=7)[0], np.concatenate([[6.0, 6.0], obs[:10]]).astype(np.float32))


def test_success_ends_the_episode_or_the_horizon_does(asked: dict[str, Any]):
    env = Robosuite("Lift", horizon=3).make()
    up, still = np.array([0, 0, 1.0, 0, 0, 0, 0]), np.zeros(7)
    env.reset(seed=0)
    assert env.step(still)[1:4] == (0.0, False, False)
    _, reward, terminated, truncated, info = env.step(up)
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, 1.0)
    env.reset(seed=0)
    ends = [env.step(still)[2:] for _ in range(3)]
    assert [(terminated, truncated, info["success"]) for terminated, truncated, info in ends] == [
        (False, False, 0.0),
        (False, False, 0.0),
        (False, True, 0.0),
    ]


def test_pins_are_those_of_the_project():
    """The separate environment differs in robosuite and NumPy alone."""

    def pins(name: str) -> dict[str, str]:
        lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
        split = [line.split("==") for line in lines if line]
        return {package.split("[")[0].lower(): version for package, version in split}

    ours, tested = pins("requirements/robomimic.txt"), pins("constraints.txt")
    assert {name for name, version in ours.items() if tested.get(name) != version} == {"robosuite", "numpy"}


@real
@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_real_simulator_repeats_episodes(task: str):
    simulator = Robosuite(task, horizon=10)
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 7))

    def episode(env: Any, seed: int) -> np.ndarray:
        return np.stack([env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)])

    env, other = simulator.make(), simulator.make()
    first = episode(env, 3)
    assert first.shape == (11, simulator.obs_dim)
    episode(other, 4)
    assert np.array_equal(episode(other, 3), first)
    assert not np.array_equal(episode(other, 4), first)


@real
def test_a_scripted_hand_lifts_the_real_cube():
    env = Robosuite("Lift", horizon=150).make()
    cuts = np.cumsum([10, *SIZES.values()])[:-1]
    obs, _ = env.reset(seed=0)
    closed, over = 0, False
    while not over:
        part = dict(zip(OBS_KEYS, np.split(obs, cuts), strict=True))
        cube, hand = part["object"][:3], part["robot0_eef_pos"]
        gap, action = cube - hand, np.zeros(7)
        action[6] = -1.0
        if closed or np.linalg.norm(gap) < 0.012:
            closed += 1
            action[2], action[6] = float(closed > 9), 1.0
        elif np.linalg.norm(gap[:2]) > 0.015:
            action[:3] = [*gap[:2] * 40, (gap[2] + 0.06) * 40]
        else:
            action[:3] = gap * 40
        obs, reward, terminated, truncated, info = env.step(action)
        over = terminated or truncated
    assert (reward, terminated, info["success"]) == (1.0, True, 1.0)
