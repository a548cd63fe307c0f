"""The Fetch arm with fixed targets and its experts; what needs the simulator is skipped where it is not installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.collect import collect
from lightning_pbrl.envs.fetch import TARGETS, Fetch, PushExpert, ReachExpert
from lightning_pbrl.errors import UserError


@pytest.fixture
def _robotics() -> None:
    pytest.importorskip("gymnasium_robotics", reason="needs the extra robotics")


def test_a_description_needs_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    assert (Fetch("reach").obs_dim, Fetch("push").obs_dim, Fetch("push").action_dim) == (10, 25, 4)
    assert Fetch("push", horizon=7).describe() == {"simulator": "Fetch", "task": "push", "horizon": 7}
    with pytest.raises(UserError, match=r"not installed.*lightning-pbrl\[robotics\]"):
        Fetch("reach").make()
    with pytest.raises(UserError, match="Fetch got task='pusch': give one of its choices; did you mean push"):
        Fetch("pusch")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Fetch got horizon=0: give a number of at least 1"):
        Fetch("reach", horizon=0)


@pytest.mark.usefixtures("_robotics")
@pytest.mark.parametrize("task", ["reach", "push"])
def test_an_episode_follows_from_its_seed_and_actions(task):
    """Bit for bit, in a used and in a fresh environment: this is how open episodes are restored."""
    simulator = Fetch(task, horizon=40)
    used, fresh = simulator.make(), simulator.make()
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 4))
    used.reset(seed=5)
    for action in actions[::-1]:
        used.step(action)
    first, info = used.reset(seed=7)
    again, info_again = fresh.reset(seed=7)
    assert first.shape == (simulator.obs_dim,)
    assert np.array_equal(first, again)
    assert np.array_equal(info["full_obs"], info_again["full_obs"])
    for action in actions:
        one, other = used.step(action), fresh.step(action)
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[4]["full_obs"], other[4]["full_obs"])
        assert one[1:4] == other[1:4]
    assert one[3]
    assert np.array_equal(first, fresh.reset(seed=8)[0]) == (task == "reach")  # only the block's start is drawn


@pytest.mark.usefixtures("_robotics")
@pytest.mark.parametrize("task", ["reach", "push"])
def test_observations_are_the_packages(task):
    """Bit for bit, although fewer joints are looked up."""
    import gymnasium

    ours = Fetch(task).make()
    theirs = gymnasium.make(f"Fetch{task.capitalize()}-v4", disable_env_checker=True).unwrapped
    theirs._sample_goal = np.array(TARGETS[task]).copy
    first, _ = ours.reset(seed=4)
    assert np.array_equal(first, theirs.reset(seed=4)[0]["observation"].astype(np.float32))
    for action in np.random.default_rng(1).uniform(-1, 1, (20, 4)):
        assert np.array_equal(ours.step(action)[0], theirs.step(action)[0]["observation"].astype(np.float32))


@pytest.mark.usefixtures("_robotics")
def test_reward_and_success_are_nearness_to_the_fixed_target():
    env = Fetch("reach").make()
    _, info = env.reset(seed=3)
    assert info["full_obs"][-3:].tolist() == [1.3, 0.3, 0.9]
    seen = []
    for _ in range(20):
        obs, reward, terminated, _, info = env.step(ReachExpert().act(info["full_obs"]))
        near = np.linalg.norm(info["full_obs"][:3] - (1.3, 0.3, 0.9)) < 0.05
        assert (reward, info["success"], terminated) == (float(near), float(near), False)
        assert np.array_equal(obs, info["full_obs"][:10].astype(np.float32))
        seen.append(reward)
    assert seen[0] == 0.0 and seen[-1] == 1.0
    env = Fetch("push").make()
    _, info = env.reset(seed=3)
    assert info["full_obs"][-3:].tolist() == [1.4, 0.9, 0.42469975]
    *_, info = env.step(np.zeros(4))
    near = np.linalg.norm(info["full_obs"][3:6] - TARGETS["push"]) < 0.05  # the block's distance, not the gripper's
    assert info["success"] == float(near)


@pytest.mark.usefixtures("_robotics")
@pytest.mark.parametrize("task", ["reach", "push"])
def test_experts_solve_their_task_and_stay(task):
    simulator = Fetch(task)
    env, expert = simulator.make(), simulator.expert()
    for seed in (11, 12):
        _, info = env.reset(seed=seed)
        for _ in range(50):
            action = expert.act(info["full_obs"])
            assert action.dtype == np.float32
            assert action.shape == (4,)
            assert np.abs(action).max() <= 1.0
            *_, info = env.step(action)
        assert info["success"] == 1.0


def test_what_experts_are_shown():
    full = np.arange(28.0)
    goal, thing = np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0])
    moved = PushExpert().shifted(full, goal, thing) - full
    assert np.allclose(moved[3:6], thing)
    assert np.allclose(moved[6:9], thing)
    assert np.allclose(moved[25:28], goal)
    moved[3:9] = moved[25:28] = 0.0
    assert (moved == 0.0).all()
    moved = ReachExpert().shifted(np.arange(13.0), goal, thing) - np.arange(13.0)
    assert np.allclose(moved[10:], goal)
    assert (moved[:10] == 0.0).all()
    assert np.array_equal(full, np.arange(28.0))


def test_whose_experts_there_are():
    assert isinstance(Fetch("push").expert("reach"), ReachExpert)
    with pytest.raises(UserError, match="no scripted expert 'push' for fetch-reach"):
        Fetch("reach").expert("push")
    with pytest.raises(UserError, match="no scripted expert 'reech' for fetch-push; did you mean reach"):
        Behaviour(expert="reech").check(Fetch("push"))


@pytest.mark.usefixtures("_robotics")
def test_behaviours_work_with_it(tmp_path):
    mixture = [Behaviour(noise=0.1), Behaviour(random=0.5, hold=3, bias=0.1), Behaviour(expert=False), Behaviour(goal_shift=0.2)]
    data = collect(Fetch("reach", horizon=20), mixture, 6, tmp_path / "f.safetensors", seed=2)
    assert data.episodes.lengths.tolist() == [20] * 6
    assert data.about["simulator"] == {"simulator": "Fetch", "task": "reach", "horizon": 20}
    assert data.about["versions"]["gymnasium-robotics"]
    solved = data.success.view(6, 20).any(1).tolist()
    drawn = data.about["behaviours"]
    assert {*drawn} >= {0, 2}
    assert all(good for good, behaviour in zip(solved, drawn, strict=True) if behaviour == 0)
    assert not any(good for good, behaviour in zip(solved, drawn, strict=True) if behaviour == 2)
