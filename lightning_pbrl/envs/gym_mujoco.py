"""The MuJoCo locomotion and control tasks of Gymnasium, version 5 (Towers et al. 2024, arXiv 2407.17032)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_pbrl.envs.base import Array, Simulator, check_horizon, need, rescale
from lightning_pbrl.errors import UserError, nearest

if TYPE_CHECKING:
    from lightning_pbrl.envs.episodic import Episodic

SIZES = {
    "Ant-v5": (105, 8),
    "HalfCheetah-v5": (17, 6),
    "Hopper-v5": (11, 3),
    "Humanoid-v5": (348, 17),
    "HumanoidStandup-v5": (348, 17),
    "InvertedDoublePendulum-v5": (9, 1),
    "InvertedPendulum-v5": (4, 1),
    "Pusher-v5": (23, 7),
    "Reacher-v5": (10, 2),
    "Swimmer-v5": (8, 2),
    "Walker2d-v5": (17, 6),
}
"""Observation and action size of each task with the constructor's default arguments."""


class GymMuJoCo(Simulator):
    """One Gymnasium MuJoCo task; no task of this family defines success.

    Args:
        env_id: Gymnasium id with its version, for instance ``HalfCheetah-v5``.
        horizon: steps per episode; the walkers also terminate when they fall.
    """

    packages = ("gymnasium", "mujoco")

    def __init__(self, env_id: str, horizon: int = 1000) -> None:
        if env_id not in SIZES:
            raise UserError(f"There is no Gymnasium MuJoCo task {env_id!r}; {nearest(env_id, SIZES)}")
        self.name = self.env_id = env_id
        self.horizon = check_horizon(horizon)
        self.obs_dim, self.action_dim = SIZES[env_id]

    def make(self, render: bool = False) -> Episodic:
        """Build the environment; see :meth:`Simulator.make`."""
        gymnasium = need("gymnasium", "install lightning-pbrl with its dependencies (gymnasium[mujoco]).")
        from lightning_pbrl.envs.episodic import Episodic

        return Episodic(self, _Body(gymnasium.make(self.env_id).unwrapped), render)

    def describe(self) -> dict[str, Any]:
        """Class name and settings."""
        return {"simulator": "GymMuJoCo", "env_id": self.env_id, "horizon": self.horizon}


class _Body:
    """The physics of one task (see :class:`lightning_pbrl.envs.base.Physics`)."""

    upside_down = False

    def __init__(self, env: Any) -> None:
        self.env = env
        self.low, self.high = env.action_space.low, env.action_space.high  # Humanoid: -0.4 to 0.4
        self.camera: str | int = "track" if any(env.model.cam(i).name == "track" for i in range(env.model.ncam)) else -1

    @property
    def model(self) -> Any:
        return self.env.model

    @property
    def data(self) -> Any:
        return self.env.data

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        return self.env.reset(seed=seed)

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        obs, reward, terminated, _, info = self.env.step(rescale(action, self.low, self.high))
        return obs, float(reward), bool(terminated), info
