"""Meta-World adapter: names, seeding, horizon, goal visibility, on the real simulator."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from lightning_pbrl.envs.experts import Expert
from lightning_pbrl.envs.metaworld import TASKS, MetaWorld
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import derive


def episode(env, seed, steps, noise_seed=0):
    """Observations and rewards of `steps` random actions after a reset."""
    rng = np.random.default_rng(noise_seed)
    seen = [env.reset(seed=seed)[0]]
    rewards = []
    for _ in range(steps):
        obs, reward, *_ = env.step(rng.uniform(-1, 1, 4))
        seen.append(obs)
        rewards.append(reward)
    return np.array(seen), np.array(rewards)


def test_the_task_list_is_the_packages():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert sorted(f"{task}-v3" for task in TASKS) == sorted(ALL_V3_ENVIRONMENTS)
    assert len(TASKS) == 50


@pytest.mark.parametrize("name", ["drawer-open", "drawer-open-v2", "drawer-open-v3"])
def test_all_spellings_name_one_task(name):
    simulator = MetaWorld(name, horizon=7)
    assert simulator.name == "drawer-open-v3"
    described = {"simulator": "MetaWorld", "task": "drawer-open-v3", "horizon": 7, "goal_observable": True, "scene": 2}
    assert json.loads(json.dumps(simulator.describe())) == described


def test_unknown_task_suggests_the_nearest():
    with pytest.raises(UserError, match="no task 'drawer-opne-v2'; did you mean drawer-open"):
        MetaWorld("drawer-opne-v2")


@pytest.mark.parametrize(("horizon", "words"), [(501, "501.*at most 500"), (0, "horizon=0: give a number of at least 1")])
def test_impossible_horizons(horizon, words):
    with pytest.raises(UserError, match=words):
        MetaWorld("reach", horizon=horizon)


def test_a_description_imports_no_simulator():
    code = (
        "import sys, lightning_pbrl.envs.collect, lightning_pbrl.envs.render, lightning_pbrl.envs.rollout\n"
        "from lightning_pbrl.envs.metaworld import MetaWorld\n"
        "from lightning_pbrl.envs.gym_mujoco import GymMuJoCo\n"
        "from lightning_pbrl.envs.dm_control import DMControl\n"
        "MetaWorld('reach'), GymMuJoCo('Hopper-v5'), DMControl('walker-walk')\n"
        "print([m for m in ('mujoco', 'gymnasium', 'metaworld', 'dm_control', 'lightning') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_seed_decides_the_episode_in_fresh_and_used_environments():
    simulator = pickle.loads(pickle.dumps(MetaWorld("door-open", horizon=40)))
    used, fresh = simulator.make(), simulator.make()
    episode(used, seed=1, steps=25)
    a, b = episode(used, seed=7, steps=30), episode(fresh, seed=7, steps=30)
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(a[1], b[1])
    assert not np.array_equal(a[0][0], episode(used, seed=8, steps=1)[0][0])


@pytest.mark.parametrize("copy_of", [copy.deepcopy, pickle.dumps])
def test_a_running_environment_is_not_copied(copy_of):
    """The package's own copies are another robot: findings/metaworld_copy_is_another_robot.sh."""
    with pytest.raises(UserError, match=r"cannot be copied or pickled: copy its description .*repeat the actions"):
        copy_of(MetaWorld("reach").make())


def test_unseeded_resets_go_on_from_the_last_seed():
    env, other = MetaWorld("reach").make(), MetaWorld("reach").make()
    env.reset(seed=3)
    second, info = env.reset()
    assert info["seed"] == derive(3, "next episode")
    assert np.array_equal(second, other.reset(seed=info["seed"])[0])
    assert env.reset()[1]["seed"] == derive(info["seed"], "next episode")


def test_shapes_horizon_and_end():
    env = MetaWorld("reach", horizon=3).make()
    obs, _ = env.reset(seed=0)
    assert obs.shape == (39,)
    assert obs.dtype == np.float32
    assert env.observation_space.contains(obs)
    ends = [env.step(np.zeros(4))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    with pytest.raises(UserError, match="call reset"):
        env.step(np.zeros(4))


def test_actions_are_clipped_and_bad_ones_refused():
    env = MetaWorld("reach", horizon=10).make()
    env.reset(seed=0)
    wild = [env.step(np.full(4, 30.0))[0] for _ in range(5)][-1]
    env.reset(seed=0)
    assert np.array_equal(wild, [env.step(np.ones(4))[0] for _ in range(5)][-1])
    with pytest.raises(UserError, match="diverged"):
        env.step(np.array([0, 0, 0, np.nan]))
    with pytest.raises(UserError, match="needs 4"):
        env.step(np.zeros(3))


def test_chosen_entries_are_seen_in_their_order_and_the_expert_sees_all():
    whole, info = MetaWorld("window-open", horizon=3).make().reset(seed=5)
    simulator = MetaWorld("window-open", horizon=3, goal_observable=False, entries=[4, 0, 38])
    env = simulator.make()
    seen, few_info = env.reset(seed=5)
    assert simulator.obs_dim == 3
    assert seen.tolist() == [whole[4], whole[0], 0.0]
    assert np.array_equal(few_info["full_obs"], info["full_obs"])
    obs, *_, info = env.step(np.ones(4))
    assert np.array_equal(obs[:2], info["full_obs"][[4, 0]].astype(np.float32))
    assert simulator.describe()["entries"] == [4, 0, 38]


@pytest.mark.parametrize("entries", [[], [0, 0], [39], [-1]])
def test_impossible_entries(entries):
    with pytest.raises(UserError, match=r"give different numbers from 0 to 38|give a number of at least 0"):
        MetaWorld("reach", entries=entries)


def test_hidden_goal_is_zero_but_the_expert_still_sees_it():
    seen, info = MetaWorld("reach", goal_observable=True).make().reset(seed=5)
    env = MetaWorld("reach", horizon=100, goal_observable=False).make()
    hidden, hidden_info = env.reset(seed=5)
    assert np.array_equal(hidden[:36], seen[:36])
    assert (hidden[36:] == 0).all()
    assert (seen[36:] != 0).any()
    assert np.array_equal(hidden_info["full_obs"], info["full_obs"])
    expert, success = Expert("reach-v3"), 0.0
    for _ in range(100):
        obs, _, _, _, hidden_info = env.step(expert.act(hidden_info["full_obs"]))
        assert (obs[36:] == 0).all()
        success = max(success, hidden_info["success"])
    assert success == 1.0


@pytest.mark.filterwarnings("error")
def test_experts_are_quiet_bounded_and_solve_their_task():
    env, expert = MetaWorld("drawer-open", horizon=150).make(), Expert("drawer-open")
    _, info = env.reset(seed=0)
    total, solved = 0.0, 0.0
    for _ in range(150):
        action = expert.act(info["full_obs"])
        assert action.dtype == np.float32
        assert action.shape == (4,)
        assert np.abs(action).max() <= 1.0
        _, reward, _, _, info = env.step(action)
        total, solved = total + reward, max(solved, info["success"])
    assert solved == 1.0
    assert 850 < total < 950


def test_unknown_expert():
    with pytest.raises(UserError, match="no task 'drawer'"):
        Expert("drawer")
