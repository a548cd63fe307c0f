"""Learned rewards of environments that step side by side: what all wrappers share, whatever library the environments are of."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_pbrl.data.actions import into_range
from lightning_pbrl.data.minari import parts
from lightning_pbrl.envs.gymnasium_env import space_sizes
from lightning_pbrl.errors import UserError
from lightning_pbrl.learned_reward.loading import load
from lightning_pbrl.learned_reward.reward import LearnedReward
from lightning_pbrl.nn.normalizer import RunningNormalizer

Array = npt.NDArray[Any]
NORMALISED = ("NormalizeObservation", "VecNormalize")
"""Wrappers inside which a reward must lie, because it reads raw observations."""


class RewardNormalizer:
    """Running standardisation of rewards: (r - mean) / standard deviation of all rewards before, clipped to [-10, 10].

    As in imitation, a batch of rewards is standardised by the statistics before it, and then counted. The statistics are those
    of stable-baselines3's ``VecNormalize``.

    Attributes:
        frozen: True to stop the statistics, for evaluation.
        statistics: mean, variance and number of rewards; its ``state_dict`` keeps them.
    """

    def __init__(self) -> None:
        self.frozen = False
        self.statistics = RunningNormalizer(1)

    def __call__(self, reward: Array) -> Array:
        """Standardise the rewards of one step, (n,) -> (n,), float32."""
        values = torch.from_numpy(reward).unsqueeze(1)
        standard = self.statistics(values).squeeze(1).numpy()
        if not self.frozen and len(values):
            self.statistics.see(values)
        return np.asarray(standard)


class EpisodeRewards:
    """Learned rewards of n environments: each remembers its last observation, and the episode's past if the reward reads it.

    Args:
        reward: the reward, or a path that :func:`~lightning_pbrl.learned_reward.loading.load` opens.
        env: the environment, or a vector of them; observations must be raw.
        observation_space: of one environment.
        action_space: of one environment.
        count: number of environments n.
        normalize: True for a normaliser of its own; or one to share, for instance with the environments of an evaluation.

    Raises:
        UserError: for spaces of other sizes than the reward was learned for, and for observations that are normalised already.
    """

    def __init__(
        self,
        reward: LearnedReward | str | Path,
        env: Any,
        observation_space: Any,
        action_space: Any,
        count: int,
        normalize: bool | RewardNormalizer = False,
    ) -> None:
        self.reward = reward if isinstance(reward, LearnedReward) else load(reward)
        self.normalizer = (RewardNormalizer() if normalize is True else normalize) or None
        found = space_sizes(observation_space, action_space, "The environment")
        if self.reward.side:
            raise UserError("This reward was learned of images, and wrappers read observations: call compute_reward(frames=...).")
        learned = self.reward.obs_dim, self.reward.action_dim
        if found != learned:
            raise UserError(
                f"The environment has observations of size {found[0]} and actions of size {found[1]}, and the reward was learned "
                f"for sizes {learned[0]} and {learned[1]}: give the environment that its data came from."
            )
        _refuse_normalised(env)
        self.count, self.bounds, back = count, (action_space.low, action_space.high), self.reward.looks_back
        self._past: list[deque[tuple[Tensor, Tensor]]] = [
            deque(maxlen=None if back is None else max(back - 1, 0)) for _ in range(count)
        ]
        self._obs = torch.zeros(count, learned[0])

    def begin(self, obs: Any, which: Array | None = None) -> None:
        """Begin the episodes of all environments, or of ``which``, (n,), bool, with their first observations."""
        which = np.ones(self.count, dtype=bool) if which is None else which
        rows = np.flatnonzero(which)
        self._obs[rows] = self._flat(obs)[rows]
        self._forget(which)

    def step(self, action: Any, obs: Any, ended: Array, idle: Array | None = None) -> tuple[Array, Array]:
        """Return the rewards of a step from the observations before it, and remember the next ones.

        Args:
            action: actions of all environments in their own units, (n, A).
            obs: observations from which the next steps start, all n; where an environment was reset in this step, the first ones
                of its new episode.
            ended: True where ``obs`` begins a new episode, (n,), bool.
            idle: True where the environment was reset in place of a step, (n,), bool: the reward is 0 and is not counted.

        Returns:
            The rewards to learn from, normalised if that is asked for, and the learned ones, two of (n,), float32.
        """
        done, _ = into_range(np.reshape(action, (self.count, -1)), "The action", self.bounds, clip=True, limit=1.0)
        steps = np.arange(self.count) if idle is None else np.flatnonzero(~idle)
        learned, given = np.zeros(self.count, np.float32), np.zeros(self.count, np.float32)
        if len(steps):
            learned[steps] = self._rewards(steps, torch.from_numpy(done))
            given[steps] = learned[steps] if self.normalizer is None else self.normalizer(learned[steps])
        self._obs = self._flat(obs)
        self._forget(ended if idle is None else ended | idle)
        return given, learned

    def _rewards(self, steps: Array, action: Tensor) -> Array:
        """Return the rewards of the environments ``steps``, (k,), and add their steps to the past."""
        if self.reward.looks_back == 1:
            rewards: Array = self.reward.compute_reward(self._obs[steps], action[steps]).numpy()
            return rewards
        episodes = []
        for i in steps.tolist():
            past = [*self._past[i], (self._obs[i], action[i])]
            obs, done = zip(*past, strict=True)
            episodes.append((torch.stack(obs), torch.stack(done)))
            self._past[i].append(past[-1])
        return self.reward.of_last(episodes).numpy()

    def _forget(self, which: Array) -> None:
        for i in np.flatnonzero(which).tolist():
            self._past[i].clear()

    def _flat(self, obs: Any) -> Tensor:
        """Return a copy of the observations of all environments, parts side by side by name: (n, O), float32."""
        flat = np.concatenate([np.reshape(part, (self.count, -1)) for _, part in parts(obs)], axis=1)
        return torch.from_numpy(flat.astype(np.float32))


def _refuse_normalised(env: Any) -> None:
    """Raise a UserError if an environment, or one inside it, standardises its observations."""
    if (name := type(env).__name__) in NORMALISED and getattr(env, "norm_obs", True):
        raise UserError(f"The environment is a {name}, and the reward reads raw observations: put {name} around the wrapper.")
    held = vars(env)
    for inner in (held.get("env"), held.get("venv"), *(held.get("envs") or ())):
        if inner is not None:
            _refuse_normalised(inner)
