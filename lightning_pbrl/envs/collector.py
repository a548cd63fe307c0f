"""Online collection: one step of every environment into the replay buffer.

A finished environment starts its next episode at once, with the reset seed of (run seed, environment, episode). Its last row
keeps the observation that followed; the observation after the reset only begins the next row. A fall ends an episode as
*terminated*: nothing follows, so a critic must not bootstrap. The horizon ends it as *truncated*: a critic must bootstrap.

An episode is determined by its reset seed and its actions. The simulators' internals are therefore never saved. An open episode
is restored by a reset with its seed, followed by the actions that the replay holds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.envs.finite import LARGEST, check_step
from lightning_pbrl.envs.rollout import VectorEnvs
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import derive, stream


class Collector:
    """Collector of transitions: it steps environments and appends the results to a replay buffer.

    Environments are built at the first step.

    Args:
        envs: the environments, as many as the replay holds.
        replay: replay buffer that receives the rows; it counts the steps and knows the open episodes.
        seed: the run's seed; it determines every reset and the random actions.

    Raises:
        UserError: if the number of environments is not the replay's.
    """

    def __init__(self, envs: VectorEnvs, replay: Replay, seed: int) -> None:
        if envs.num_envs != replay.num_envs:
            raise UserError(f"{envs.num_envs} environments act and the replay is for {replay.num_envs}: make them equal.")
        self.envs, self.replay, self.seed = envs, replay, seed
        n, size = replay.num_envs, replay.obs_dim
        self.episode = [0] * n  # number of each environment's open episode
        self._rng = stream(seed, "collector")
        self._running: list[Any] = []
        self._obs, self._next = np.zeros((n, size), np.float32), np.zeros((n, size), np.float32)
        self._reward, self._success = np.zeros(n), np.full(n, np.nan)
        self._terminated, self._truncated = np.zeros(n, bool), np.zeros(n, bool)
        self._sees = envs.simulator.pixels is not None  # policies see images; rows hold states
        self._pictures: Any = None if replay.frames is None else np.zeros((n, *replay.frames.shape[1:]), np.uint8)

    @property
    def env_steps(self) -> int:
        """Steps of all environments together since the start of the run."""
        return self.replay.steps * self.replay.num_envs

    @torch.no_grad()
    def step(self, act: Callable[[Tensor], Tensor] | None = None) -> None:
        """Step every environment once.

        Args:
            act: policy from observations (n, O), float32, or images (n, S S 3), uint8, on the replay's device, to actions (n, A),
                which are clipped to [-1, 1]. The observations are valid during the call only. None acts uniformly at random.

        Raises:
            UserError: for an observation or reward that is not finite, naming the episode's seed and the step; nothing is stored.
        """
        if not self._running:
            self._open()
        replay, obs, after = self.replay, self._obs, self._next
        if act is None:
            actions = torch.rand(len(obs), replay.action_dim, generator=self._rng) * 2.0 - 1.0
        else:
            seen = self._pictures.reshape(len(obs), -1) if self._sees else obs
            actions = act(torch.from_numpy(seen).to(replay.device)).clamp(-1.0, 1.0).cpu()
        action, finite, shown = actions.numpy(), True, None if self._pictures is None else self._pictures.copy()
        for i, env in enumerate(self._running):
            found, self._reward[i], self._terminated[i], self._truncated[i], info = env.step(action[i])
            after[i] = self._look(i, found, info)
            finite = finite and abs(self._reward[i]) <= LARGEST
            self._success[i] = info.get("success", np.nan)
        if not (finite and np.isfinite(after).all()):  # before the replay has them
            for i, done in enumerate(replay.open_steps):
                check_step(self.envs.simulator.name, self._reset_seed(i), done + 1, after[i], float(self._reward[i]))
        known = None if np.isnan(self._success).all() else self._success
        images: dict[str, Any] = {"pictures": shown, "next_pictures": self._pictures if self._sees else None}
        replay.append(obs, action, after, self._reward, self._terminated, self._truncated, known, **images)
        self._obs, self._next = after, obs
        if self._terminated.any() or self._truncated.any():
            for i in np.flatnonzero(self._terminated | self._truncated).tolist():
                self.episode[i] += 1
                after[i] = self._reset(i)

    def _reset(self, i: int) -> Any:
        """Start the present episode of environment ``i`` and return its first observation."""
        seed = self._reset_seed(i)
        obs, info = self._running[i].reset(seed=seed)
        obs = self._look(i, obs, info)
        check_step(self.envs.simulator.name, seed, 0, obs)
        return obs

    def _look(self, i: int, obs: Any, info: Mapping[str, Any]) -> Any:
        """Keep the image that environment ``i`` shows, if the replay stores images, and return what a row's observation is."""
        if self._pictures is not None:
            self._pictures[i] = info["picture"]
        return info["state"] if self._sees else obs

    def _reset_seed(self, i: int) -> int:
        """Return the reset seed of the present episode of environment ``i``."""
        return self.reset_seed(i, self.episode[i])

    def reset_seed(self, i: int, episode: int) -> int:
        """Return the reset seed of an episode of environment ``i``, counted from 0 since the start of the run."""
        return derive(self.seed, "episode", i, episode) % 2**31

    def _open(self) -> None:
        """Build the environments and restore the open episode of each."""
        replay = self.replay
        self._running = [self.envs[i] for i in range(replay.num_envs)]
        for i, done in enumerate(replay.open_steps):
            self._obs[i] = self._reset(i)
            if done == 0:
                continue
            age = torch.arange(done - 1, -1, -1) * replay.num_envs + i
            rows = replay.packed[replay.rows_of_age(age.to(replay.device))].cpu()
            at, width = replay.layout["action"]
            for action in rows[:, at : at + width].numpy():
                found, *_, info = self._running[i].step(action)
                self._obs[i] = self._look(i, found, info)
            at, width = replay.layout["next_obs"]
            if not np.array_equal(self._obs[i], rows[-1, at : at + width].numpy()):
                warnings.warn(
                    f"{self.envs.simulator.name} did not repeat its open episode exactly (another version or processor?): the "
                    "resumed run continues, but is not bit for bit the interrupted one.",
                    stacklevel=2,
                )

    def state_dict(self) -> dict[str, Any]:
        """Return episode numbers and the stream of random actions; the replay's own state holds the rest."""
        return {"episode": list(self.episode), "rng": self._rng.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state after the replay has loaded its own; the next step restores the open episodes."""
        self.episode = list(state["episode"])
        self._rng.set_state(state["rng"].cpu())
        self._running = []

    def close(self) -> None:
        """Close the environments; the next step builds them again and restores their open episodes."""
        self.envs.close()
        self._running = []
