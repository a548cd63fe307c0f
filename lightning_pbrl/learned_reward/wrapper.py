"""A Gymnasium environment that pays a learned reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from lightning_pbrl.learned_reward.episodes import EpisodeRewards, RewardNormalizer
from lightning_pbrl.learned_reward.reward import LearnedReward


class LearnedRewardWrapper(gymnasium.Wrapper):
    """Gymnasium wrapper: the learned reward in place of the environment's, which stays in ``info["true_reward"]``.

    The reward is that of the observation before the step and the action, which is scaled from the bounds of the action space to
    [-1, 1] and clipped. ``info["learned_reward"]`` is the reward before normalisation. A step that resets instead, after the end
    of an episode, as under ``gymnasium.wrappers.Autoreset``, has reward 0.

    Args:
        env: environment that observes what the reward was learned from, raw; a dictionary is concatenated by key.
        reward: the reward; or a run folder, a checkpoint or an exported folder.
        normalize: True to standardise rewards by running statistics; or a normaliser to share.

    Attributes:
        normalizer: running statistics; ``normalizer.frozen = True`` stops them. None without.

    Raises:
        UserError: as :class:`~lightning_pbrl.learned_reward.episodes.EpisodeRewards`.
    """

    def __init__(
        self, env: gymnasium.Env, reward: LearnedReward | str | Path, normalize: bool | RewardNormalizer = False
    ) -> None:
        super().__init__(env)
        self.rewards = EpisodeRewards(reward, env, env.observation_space, env.action_space, 1, normalize)
        self.normalizer = self.rewards.normalizer
        self._over = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self.rewards.begin(obs)
        self._over = False
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, true, terminated, truncated, info = self.env.step(action)
        reset, self._over = np.array([self._over]), bool(terminated or truncated)
        given, learned = self.rewards.step(action, obs, np.array([False]), idle=reset)
        info = {**info, "true_reward": float(true), "learned_reward": float(learned[0])}
        return obs, float(given[0]), terminated, truncated, info
