"""The one Gymnasium environment of the library; simulators differ in their :class:`Physics`.

This module imports Gymnasium, so only ``Simulator.make`` imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from lightning_pbrl.envs.base import Array, Physics, Simulator
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import derive

if TYPE_CHECKING:
    from lightning_pbrl.envs.render import Camera


class Episodic(gymnasium.Env[Array, Array]):
    """Environment with episodes of at most ``horizon`` steps, each fully determined by its reset seed and its actions.

    ``reset()`` without a seed derives the next seed from the last one (from 0 at first), so a chain of resets is repeatable, too.
    Every reset reports its seed as ``info["seed"]``. Actions are clipped to [-1, 1].

    Args:
        simulator: description that this environment was made from.
        physics: the running simulation.
        render: whether frames will be requested.
    """

    def __init__(self, simulator: Simulator, physics: Physics, render: bool = False) -> None:
        self.simulator, self.physics = simulator, physics
        self.metadata = {"render_modes": ["rgb_array"]}
        self.render_mode = "rgb_array" if render else None
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (simulator.obs_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (simulator.action_dim,), np.float32)
        self._seed, self._left = 0, 0
        self._camera: Camera | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode and return obs (O,), float32, and info with the ``seed`` used, in [0, 2^63)."""
        self._seed = derive(self._seed, "next episode") if seed is None else int(seed)
        if not 0 <= self._seed < 1 << 63:
            raise UserError(f"The reset seed is {seed}; give an integer from 0 to 2^63 - 1.")
        obs, info = self.physics.begin(self._seed)
        self._left = self.simulator.horizon
        return obs.astype(np.float32), {**info, "seed": self._seed}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Step once and return obs (O,), float32, reward, terminated, truncated and info.

        An episode is truncated at the horizon or by the simulator itself. A step that does both is terminated: nothing follows
        it.

        Raises:
            UserError: for an action that is not finite, of the wrong shape, or after the end of the episode.
        """
        if self._left == 0:
            raise UserError(f"The episode of {self.simulator.name} is over; call reset() before the next step.")
        action = np.asarray(action)
        if action.shape != (self.simulator.action_dim,) or not np.isfinite(action).all():
            raise UserError(
                f"The action for {self.simulator.name} is {action.tolist()}; it needs {self.simulator.action_dim} "
                "finite numbers (not finite: training has diverged, try a smaller lr)."
            )
        obs, reward, terminated, info = self.physics.advance(action.clip(-1.0, 1.0))
        self._left = 0 if terminated or info.get("truncated") else self._left - 1
        return obs.astype(np.float32), float(reward), terminated, self._left == 0 and not terminated, info

    def render(self) -> Array:
        """Render the present state as an RGB image, (256, 256, 3), uint8."""
        from lightning_pbrl.envs.render import Camera

        if self._camera is None:
            self._camera = Camera(self.physics)
        return self._camera.frame()

    def close(self) -> None:
        """Free the renderer, if one was made, and the resources of the physics."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        if hasattr(self.physics, "close"):
            self.physics.close()
