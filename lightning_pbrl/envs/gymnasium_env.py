"""Any registered Gymnasium environment with continuous actions, one's own included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_pbrl.data.minari import parts
from lightning_pbrl.envs.base import Array, OverEnv, Simulator, check_horizon, need, rescale
from lightning_pbrl.errors import UserError

if TYPE_CHECKING:
    from lightning_pbrl.envs.episodic import Episodic


class GymnasiumEnv(Simulator):
    """Any Gymnasium environment with a Box of actions; observations that are dictionaries are laid end to end by key.

    Sizes are stated, because a network is sized before any simulator is imported; building the environment checks them.
    Observations are laid out as ``MinariDataModule`` lays out its data.

    Args:
        env_id: Gymnasium id, with the module that registers it where one must be imported:
            ``gymnasium_robotics:AntMaze_UMaze-v4``, ``my_package:Reach-v0``.
        obs_dim: observation size, all parts together.
        action_dim: action size.
        horizon: steps per episode; the environment may also terminate.
        settings: arguments of the environment's constructor.
        d4rl_task: D4RL's name of the task, for ``normalized_score``; null without.
    """

    packages = ("gymnasium", "mujoco")

    def __init__(
        self,
        env_id: str,
        obs_dim: int,
        action_dim: int,
        horizon: int,
        settings: dict[str, Any] | None = None,
        d4rl_task: str | None = None,
    ) -> None:
        self.name = self.env_id = env_id
        self.obs_dim, self.action_dim, self.horizon = obs_dim, action_dim, check_horizon(horizon)
        self.settings, self.d4rl_task = dict(settings or {}), d4rl_task

    def make(self, render: bool = False) -> Episodic:
        """Build the environment; see :meth:`Simulator.make`.

        Raises:
            UserError: when Gymnasium cannot build it, or its sizes are others than stated.
        """
        gymnasium = need("gymnasium", "install lightning-pbrl with its dependencies (gymnasium[mujoco]).")
        from lightning_pbrl.envs.episodic import Episodic

        try:
            env = gymnasium.make(self.env_id, disable_env_checker=True, **self.settings).unwrapped
        except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
            raise UserError(f"Gymnasium cannot build {self.env_id!r} ({error}): check env_id and settings.") from error
        space = env.action_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or not np.isfinite([space.low, space.high]).all():
            raise UserError(f"{self.env_id} has the action space {space}: a bounded Box of shape (size,) is needed.")
        physics = _Any(env)
        found = len(physics.begin(0)[0]), space.shape[0]
        if found != (self.obs_dim, self.action_dim):
            raise UserError(f"{self.env_id} has obs_dim {found[0]} and action_dim {found[1]}: state these sizes.")
        return Episodic(self, physics, render)

    def describe(self) -> dict[str, Any]:
        """Class name and settings."""
        about = {"simulator": "GymnasiumEnv", "env_id": self.env_id, "horizon": self.horizon}
        return {**about, "settings": {name: str(value) for name, value in self.settings.items()}}


class _Any(OverEnv):
    """The physics of one environment (see :class:`lightning_pbrl.envs.base.Physics`); films need MuJoCo underneath."""

    camera: str | int = -1

    def __init__(self, env: Any) -> None:
        self.env = env
        self.low, self.high = env.action_space.low, env.action_space.high

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        return self._flat(self.env.reset(seed=seed)[0]), {}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        obs, reward, terminated, _, info = self.env.step(rescale(action, self.low, self.high))
        success = {"success": float(info["success"])} if "success" in info else {}
        return self._flat(obs), float(reward), bool(terminated), success

    @staticmethod
    def _flat(obs: Any) -> Array:
        return np.concatenate([np.ravel(part) for _, part in parts(obs)])
