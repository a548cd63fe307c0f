"""Vectors of environments that pay a learned reward: Gymnasium's; those of stable-baselines3 are in ``sb3.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from lightning_pbrl.learned_reward.episodes import EpisodeRewards, RewardNormalizer
from lightning_pbrl.learned_reward.reward import LearnedReward


class LearnedRewardVecWrapper(VectorWrapper):
    """Vector wrapper: the learned rewards in place of the environments', which stay in ``info["true_reward"]``, (n,).

    Given a ``VecEnv`` of stable-baselines3 it is a ``VecEnvWrapper``
    (:class:`~lightning_pbrl.learned_reward.sb3.SB3LearnedReward`), whose infos have ``true_reward`` per environment. All
    environments are scored in one call. ``info["learned_reward"]``, (n,), is the reward before normalisation.

    A reward is that of the observation before the step. An environment that resets in the step after the end of an episode
    (``AutoresetMode.NEXT_STEP``, Gymnasium's default) has reward 0 in that step, which the normaliser does not count. One that
    resets in the same step (``SAME_STEP``) has the reward of the last step beside the first observation of the next episode.

    Args:
        env: vector environment that observes what the reward was learned from, raw.
        reward: the reward; or a run folder, a checkpoint or an exported folder.
        normalize: True to standardise rewards by running statistics; or a normaliser to share.

    Attributes:
        normalizer: running statistics; ``normalizer.frozen = True`` stops them. None without.

    Raises:
        UserError: as :class:`~lightning_pbrl.learned_reward.episodes.EpisodeRewards`.
    """

    def __new__(cls, env: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return the wrapper of the library that ``env`` is of; stable-baselines3 is imported only where it was already."""
        theirs = sys.modules.get("stable_baselines3.common.vec_env")
        if theirs is not None and isinstance(env, theirs.VecEnv):
            from lightning_pbrl.learned_reward.sb3 import SB3LearnedReward

            return SB3LearnedReward(env, *args, **kwargs)
        return super().__new__(cls)

    def __init__(self, env: VectorEnv, reward: LearnedReward | str | Path, normalize: bool | RewardNormalizer = False) -> None:
        super().__init__(env)
        spaces = env.single_observation_space, env.single_action_space
        self.rewards = EpisodeRewards(reward, env, *spaces, env.num_envs, normalize)
        self.normalizer = self.rewards.normalizer
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._over = np.zeros(env.num_envs, dtype=bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask")  # read first: the environment takes it out
        obs, info = self.env.reset(seed=seed, options=options)
        self.rewards.begin(obs, mask)
        self._over = np.zeros_like(self._over) if mask is None else self._over & ~mask
        return obs, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, true, terminated, truncated, info = self.env.step(actions)
        ended, idle = np.logical_or(terminated, truncated), self._over
        begins = ended if self._mode is AutoresetMode.SAME_STEP else np.zeros_like(ended)
        given, learned = self.rewards.step(actions, obs, begins, idle)
        self._over = ended if self._mode is AutoresetMode.NEXT_STEP else np.zeros_like(ended)
        everywhere = np.ones_like(ended)
        info = {**info, "true_reward": np.array(true), "learned_reward": learned}
        info |= {"_true_reward": everywhere, "_learned_reward": everywhere}
        return obs, given.astype(np.float64), terminated, truncated, info
