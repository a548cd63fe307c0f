"""Rollouts: the figures of each seed, whatever the number of environments."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.rollout import VectorEnvs, rollout
from lightning_pbrl.errors import UserError


def wave(obs):
    """A deterministic policy without matrix products: (B, 39) -> (B, 4)."""
    return torch.sin(20.0 * obs[:, :4])


def by_hand(simulator, act, seed):
    """Return, any-step success and length of one episode, by a plain loop."""
    env = simulator.make()
    obs, _ = env.reset(seed=seed)
    total, solved, steps, over = 0.0, float("nan"), 0, False
    while not over:
        obs, reward, terminated, truncated, info = env.step(act(torch.from_numpy(obs)[None])[0].numpy())
        total, steps, over = total + reward, steps + 1, terminated or truncated
        if "success" in info:
            solved = max(info["success"], 0.0 if np.isnan(solved) else solved)
    return total, solved, steps


def test_figures_do_not_depend_on_the_number_of_environments():
    simulator, seeds = MetaWorld("reach", horizon=30), [4, 0, 9, 2, 7]
    expected = [by_hand(simulator, wave, seed) for seed in seeds]
    for num_envs in (1, 2, 5, 9):
        result = rollout(wave, VectorEnvs(simulator, num_envs), seeds)
        assert result.seed.tolist() == seeds
        assert result.episode_return.tolist() == [total for total, _, _ in expected]
        assert result.success.tolist() == [solved for _, solved, _ in expected]
        assert result.length.tolist() == [30] * 5


def test_episodes_of_different_length_and_no_success():
    simulator, seeds = GymMuJoCo("Hopper-v5", horizon=60), list(range(6))

    def act(obs):
        return torch.sin(5.0 * obs[:, :3])

    expected = [by_hand(simulator, act, seed) for seed in seeds]
    assert len({steps for _, _, steps in expected}) > 1
    for num_envs in (2, 4):
        result = rollout(act, VectorEnvs(simulator, num_envs), seeds)
        assert result.episode_return.tolist() == [total for total, _, _ in expected]
        assert result.length.tolist() == [steps for _, _, steps in expected]
        assert result.success.isnan().all()


def test_success_is_any_step():
    class Blinking:
        """Wraps an environment so that only step 2 is a success."""

        def __init__(self, env):
            self.env, self.steps = env, 0

        def reset(self, seed):
            self.steps = 0
            return self.env.reset(seed=seed)

        def step(self, action):
            obs, reward, terminated, truncated, info = self.env.step(action)
            self.steps += 1
            info["success"] = float(self.steps == 2)
            return obs, reward, terminated, truncated, info

        def close(self):
            self.env.close()

    class BlinkingReach(MetaWorld):
        def make(self, render=False):
            return Blinking(super().make(render))

    assert rollout(wave, BlinkingReach("reach", horizon=5), [1]).success.tolist() == [1.0]
    assert rollout(wave, BlinkingReach("reach", horizon=1), [1]).success.tolist() == [0.0]


def test_policy_sees_one_batch_of_constant_size_and_no_gradients():
    shapes = set()

    def act(obs):
        assert obs.dtype == torch.float32
        assert not torch.is_grad_enabled()
        shapes.add(tuple(obs.shape))
        return wave(obs)

    rollout(act, VectorEnvs(MetaWorld("reach", horizon=4), 3), range(7))
    assert shapes == {(3, 39)}


def test_environments_stay_alive_and_are_not_pickled():
    envs = VectorEnvs(MetaWorld("reach", horizon=2), 2)
    rollout(wave, envs, [0, 1])
    first = envs[0]
    rollout(wave, envs, [2])
    assert envs[0] is first
    copy = pickle.loads(pickle.dumps(envs))
    assert copy.num_envs == 2
    assert copy[0] is not first
    envs.close()
    assert envs[0] is not first


def test_on_step_sees_reset_and_every_step():
    seen = []
    rollout(wave, VectorEnvs(MetaWorld("reach", horizon=3), 2), [5, 6, 7], on_step=lambda episode, env: seen.append(episode))
    assert [seen.count(i) for i in range(3)] == [4, 4, 4]


def test_no_seeds_and_no_environments():
    result = rollout(wave, MetaWorld("reach"), [])
    assert [len(part) for part in result] == [0, 0, 0, 0]
    with pytest.raises(UserError, match="num_envs is 0"):
        VectorEnvs(MetaWorld("reach"), 0)
