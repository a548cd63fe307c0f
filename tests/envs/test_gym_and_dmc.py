"""Gymnasium MuJoCo and control suite adapters on the real simulators."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lightning_pbrl.envs.dm_control import DMControl
from lightning_pbrl.envs.gym_mujoco import SIZES, GymMuJoCo
from lightning_pbrl.errors import UserError


@pytest.mark.parametrize("env_id", sorted(SIZES))
def test_gym_sizes_and_seeding(env_id):
    simulator = GymMuJoCo(env_id, horizon=5)
    env, other = simulator.make(), simulator.make()
    obs, info = env.reset(seed=11)
    assert obs.shape == (simulator.obs_dim,)
    assert obs.dtype == np.float32
    assert info["seed"] == 11
    other.reset(seed=2)
    other.step(np.zeros(simulator.action_dim))
    assert np.array_equal(other.reset(seed=11)[0], obs)
    action = np.linspace(-1, 1, simulator.action_dim)
    assert np.array_equal(env.step(action)[0], other.step(action)[0])


def test_gym_horizons_are_those_that_gymnasium_registers():
    import gymnasium

    assert {name: GymMuJoCo(name).horizon for name in SIZES} == {name: gymnasium.spec(name).max_episode_steps for name in SIZES}
    assert GymMuJoCo("Reacher-v5").horizon == 50 and GymMuJoCo("Reacher-v5", horizon=7).horizon == 7
    assert GymMuJoCo("Hopper-v5").d4rl_task == "hopper" and GymMuJoCo("Hopper-v5", 999).d4rl_task is None


def test_gym_actions_span_the_actuators():
    env = GymMuJoCo("Humanoid-v5").make()
    env.reset(seed=0)
    env.step(np.full(17, 0.5))
    assert np.allclose(env.physics.data.ctrl, 0.2)  # half of Humanoid's 0.4


def test_gym_episodes_end_by_falling_or_at_the_horizon():
    hopper = GymMuJoCo("Hopper-v5").make()
    hopper.reset(seed=0)
    terminated, steps = False, 0
    while not terminated:
        _, _, terminated, truncated, info = hopper.step(np.ones(3))
        assert not truncated
        assert "success" not in info
        steps += 1
    assert steps < 200
    cheetah = GymMuJoCo("HalfCheetah-v5", horizon=2).make()
    cheetah.reset(seed=0)
    assert [cheetah.step(np.zeros(6))[2:4] for _ in range(2)] == [(False, False), (False, True)]


@pytest.mark.parametrize("env_id", ["Ant-v5", "Hopper-v5", "Humanoid-v5", "Walker2d-v5"])
def test_gym_episodes_go_on_after_a_fall_where_asked(env_id):
    simulator = GymMuJoCo(env_id, horizon=300, terminate_when_unhealthy=False)
    env = simulator.make()
    env.reset(seed=0)
    ends = [env.step(np.ones(simulator.action_dim))[2:4] for _ in range(300)]
    assert ends == [(False, False)] * 299 + [(False, True)]
    assert simulator.describe()["terminate_when_unhealthy"] is False and simulator.d4rl_task is None
    assert "terminate_when_unhealthy" not in GymMuJoCo(env_id).describe()


def test_gym_tasks_without_a_fall_have_nothing_to_go_on_after():
    with pytest.raises(UserError, match="Reacher-v5 never ends by a fall: leave terminate_when_unhealthy out"):
        GymMuJoCo("Reacher-v5", terminate_when_unhealthy=False)


def test_gym_rewards_are_gymnasiums():
    import gymnasium

    env, plain = GymMuJoCo("HalfCheetah-v5").make(), gymnasium.make("HalfCheetah-v5")
    env.reset(seed=4)
    plain.reset(seed=4)
    action = np.array([0.3, -0.7, 1.0, 0.1, -1.0, 0.5])
    assert [env.step(action)[1] for _ in range(20)] == pytest.approx([plain.step(action)[1] for _ in range(20)], abs=1e-5)


@pytest.mark.parametrize(("name", "words"), [("Hopper-v4", "did you mean Hopper-v5"), ("HalfChetah-v5", "HalfCheetah-v5")])
def test_unknown_gym_ids(name, words):
    with pytest.raises(UserError, match=words):
        GymMuJoCo(name)


@pytest.mark.filterwarnings("ignore:`in1d` is deprecated:DeprecationWarning")  # dm_control 1.0.28, quadruped
@pytest.mark.parametrize("task", ["walker-walk", "cheetah-run", "quadruped-walk", "ball_in_cup-catch"])
def test_dmc_observation_order_and_seeding(task):
    suite = pytest.importorskip("dm_control.suite")
    simulator = DMControl(task, horizon=30)
    env = simulator.make()
    env.reset(seed=99)
    env.step(np.ones(simulator.action_dim))
    plain = suite.load(*task.split("-"), task_kwargs={"random": 5})
    step = plain.reset()
    obs, _ = env.reset(seed=5)
    assert obs.shape == (simulator.obs_dim,)
    assert np.array_equal(obs, np.concatenate([np.ravel(v) for v in step.observation.values()]).astype(np.float32))
    spec = plain.action_spec()
    assert simulator.action_dim == spec.shape[0]
    for _ in range(20):
        obs, reward, terminated, truncated, info = env.step(np.ones(simulator.action_dim))
        step = plain.step(spec.maximum)
        assert reward == pytest.approx(step.reward, abs=1e-9)
        assert (terminated, truncated) == (False, False)
        assert "success" not in info
    assert np.allclose(obs, np.concatenate([np.ravel(v) for v in step.observation.values()]), atol=1e-5)


def test_dmc_horizon_replaces_the_time_limit_and_long_seeds_work():
    pytest.importorskip("dm_control.suite")
    env = DMControl("pendulum-swingup", horizon=1002).make()
    first = env.reset(seed=(1 << 40) + 3)[0]
    assert not np.array_equal(first, env.reset(seed=3)[0])
    ends = [env.step(np.zeros(1))[3] for _ in range(1002)]
    assert sum(ends) == 1
    assert ends[-1]


def test_dmc_names():
    with pytest.raises(UserError, match="did you mean walker-walk"):
        DMControl("walker-wlak")


def test_dmc_missing_package_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("dm_control")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(UserError, match=r"not installed.*lightning-pbrl\[dmc\].*labmaze"):
        DMControl("walker-walk").make()
