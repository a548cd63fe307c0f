"""Every Meta-World task against the package's own benchmark path, `set_task`, with the same draw: bit for bit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from lightning_pbrl.envs.metaworld import TASKS, MetaWorld

VIEWS = ("init_left_pad", "init_right_pad")
"""Attributes of the package that look at the present state in spite of their names."""


def benchmark(task, vector):
    """The package's environment with its task set, as MT1 and ML1 have it, and its first observation."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.types import Task

    kind = ALL_V3_ENVIRONMENTS[f"{task}-v3"]
    env = kind()
    data = {"rand_vec": vector, "env_cls": kind, "partially_observable": False}
    env.set_task(Task(env_name=f"{task}-v3", data=pickle.dumps(data)))
    return env, env.reset()[0]


def constants(env):
    """What a reset leaves on the package's environment, and its reward is computed from."""
    return {key: value for key, value in vars(env).items() if isinstance(value, float | np.ndarray) and key not in VIEWS}


@pytest.mark.parametrize("task", TASKS)
def test_start_observations_and_rewards_are_the_benchmarks(task):
    env = MetaWorld(task).make()
    env.reset(seed=11)
    env.step(np.ones(4))  # the environment is used: nothing of an older scene may remain
    first, info = env.reset(seed=1000)
    ours = env.physics.env
    theirs, their_first = benchmark(task, ours._last_rand_vec.copy())
    assert np.array_equal(ours.data.qpos, theirs.data.qpos)
    assert np.array_equal(ours.data.qvel, theirs.data.qvel)
    if task == "window-close":  # the package shows the handle of its open window where it is when the window is closed
        assert abs(info["full_obs"][4] - their_first[4] - 0.2) < 1e-3
        their_first[4:18] = their_first[22:36] = theirs._prev_obs[4:18] = info["full_obs"][4:18]
    assert np.array_equal(info["full_obs"], their_first)
    mine = constants(ours)
    assert [key for key, value in constants(theirs).items() if not np.array_equal(mine[key], value)] == []
    for step, action in enumerate(np.vstack([np.zeros(4), np.random.default_rng(3).uniform(-1.0, 1.0, (4, 4))])):
        seen, reward, _, _, info = env.step(action)
        expected, their_reward, _, _, their_info = theirs.step(action)
        assert np.array_equal(info["full_obs"], expected)
        assert (reward, info["success"]) == (their_reward, their_info["success"])
        assert step > 0 or np.abs(seen[4:18] - first[4:18]).max() < 0.01  # nothing has touched the objects yet
