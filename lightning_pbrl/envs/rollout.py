"""Rollouts of a policy: several synchronous environments, one batched action per step.

One process steps its environments in turn. For these simulators that was faster than worker processes in every case we measured,
because a step costs less than its message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.envs.finite import LARGEST, check_step
from lightning_pbrl.errors import UserError

if TYPE_CHECKING:
    import gymnasium


class Rollouts(NamedTuple):
    """Figures of n episodes, in the order of their seeds, on the CPU.

    Attributes:
        seed: reset seed, (n,), int64.
        episode_return: undiscounted sum of true rewards, environment units, (n,), float64.
        success: 1 if any step of the episode was a success, else 0; (n,), float64. NaN if the task defines no success, that is,
            if no step of any episode reported it.
        length: number of steps, (n,), int64.
    """

    seed: Tensor
    episode_return: Tensor
    success: Tensor
    length: Tensor


class VectorEnvs:
    """Vector of environments of one simulator that are kept between rollouts (building one costs more than a reset).

    An environment is built when it is first used. Copies and pickles carry the description only.

    Args:
        simulator: description of the environments.
        num_envs: number of environments that run synchronously.
    """

    def __init__(self, simulator: Simulator, num_envs: int = 10) -> None:
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}; give at least 1.")
        self.simulator, self.num_envs = simulator, num_envs
        self._envs: list[gymnasium.Env[Array, Array]] = []

    def __getitem__(self, i: int) -> gymnasium.Env[Array, Array]:
        if not 0 <= i < self.num_envs:
            raise IndexError(i)
        while len(self._envs) <= i:
            self._envs.append(self.simulator.make())
        return self._envs[i]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_envs": []}

    def close(self) -> None:
        """Close every environment; the next use builds new ones."""
        while self._envs:
            self._envs.pop().close()


@torch.no_grad()
def rollout(
    act: Callable[[Tensor], Tensor],
    envs: VectorEnvs | Simulator,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    on_step: Callable[[int, gymnasium.Env[Array, Array]], None] | None = None,
) -> Rollouts:
    """Run one episode per seed; an environment that finishes takes the next seed.

    The environment that runs an episode has no influence on it. The figures of a deterministic policy therefore do not depend on
    ``num_envs`` (up to the rounding of matrix products, which may differ between batch sizes).

    Args:
        act: the policy, (B, O) float32 on ``device`` -> (B, A) in [-1, 1]. B is the same in every call: the rows of finished
            environments repeat their last observation. The argument is valid during the call only.
        envs: environments to reuse, or a simulator, whose environments are then built and closed here.
        seeds: reset seeds; may be empty.
        device: device of the observations passed to ``act``.
        on_step: called with the episode's index in ``seeds`` and its environment after each reset and step.

    Raises:
        UserError: for an observation or reward that is not finite, naming the episode's seed and the step.
    """
    if isinstance(envs, Simulator):
        envs = VectorEnvs(envs)
        try:
            return rollout(act, envs, seeds, device, on_step)
        finally:
            envs.close()
    n, width = len(seeds), min(envs.num_envs, len(seeds))
    returns, success, length = np.zeros(n), np.full(n, np.nan), np.zeros(n, np.int64)
    obs = np.zeros((width, envs.simulator.obs_dim), np.float32)
    batch = torch.from_numpy(obs)  # shares memory
    episode_of: list[int | None] = [None] * width
    waiting = iter(range(n))

    def begin(slot: int) -> None:
        episode_of[slot] = episode = next(waiting, None)
        if episode is not None:
            obs[slot] = envs[slot].reset(seed=int(seeds[episode]))[0]
            if on_step is not None:
                on_step(episode, envs[slot])

    def check(slot: int, episode: int, reward: float = 0.0) -> None:
        check_step(envs.simulator.name, int(seeds[episode]), int(length[episode]), obs[slot], reward)

    for slot in range(width):
        begin(slot)
    while any(episode is not None for episode in episode_of):
        if not np.isfinite(obs).all():  # one look at all of them costs less than one at each
            for slot, episode in enumerate(episode_of):
                if episode is not None:
                    check(slot, episode)
        actions = act(batch.to(device)).cpu().numpy()
        for slot, episode in enumerate(episode_of):
            if episode is None:
                continue
            obs[slot], reward, terminated, truncated, info = envs[slot].step(actions[slot])
            returns[episode] += float(reward)
            length[episode] += 1
            if terminated or truncated or not abs(float(reward)) <= LARGEST:  # a last observation is not seen above
                check(slot, episode, float(reward))
            if "success" in info:
                success[episode] = np.fmax(success[episode], info["success"])
            if on_step is not None:
                on_step(episode, envs[slot])
            if terminated or truncated:
                begin(slot)
    if not np.isnan(success).all():  # some tasks report success only when it happens
        success = np.nan_to_num(success)
    return Rollouts(
        torch.tensor([int(seed) for seed in seeds], dtype=torch.int64),
        torch.from_numpy(returns),
        torch.from_numpy(success),
        torch.from_numpy(length),
    )
