"""A vector of environments of stable-baselines3 that pays a learned reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from lightning_pbrl.learned_reward.episodes import EpisodeRewards, RewardNormalizer
from lightning_pbrl.learned_reward.reward import LearnedReward


class SB3LearnedReward(VecEnvWrapper):
    """Wrapper of a ``VecEnv``: :class:`~lightning_pbrl.learned_reward.vector.LearnedRewardVecWrapper` makes it.

    A reward is that of the observation before the step and of the action. At the end of an episode the returned observation is
    the first one of the next; the last one stays in ``info["terminal_observation"]``, which no reward is computed from.

    Args:
        venv: environments that observe what the reward was learned from, raw.
        reward: the reward; or a run folder, a checkpoint or an exported folder.
        normalize: True to standardise rewards by running statistics; or a normaliser to share.
    """

    def __init__(self, venv: VecEnv, reward: LearnedReward | str | Path, normalize: bool | RewardNormalizer = False) -> None:
        super().__init__(venv)
        self.rewards = EpisodeRewards(reward, venv, venv.observation_space, venv.action_space, venv.num_envs, normalize)
        self.normalizer = self.rewards.normalizer
        self._actions: Any = None

    def reset(self) -> Any:
        obs = self.venv.reset()
        self.rewards.begin(obs)
        return obs

    def step_async(self, actions: Any) -> None:
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        obs, true, dones, infos = self.venv.step_wait()
        given, learned = self.rewards.step(self._actions, obs, np.asarray(dones, dtype=bool))
        more = zip(infos, true.tolist(), learned.tolist(), strict=True)
        return obs, given, dones, [{**info, "true_reward": r, "learned_reward": own} for info, r, own in more]
