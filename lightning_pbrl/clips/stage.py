"""Running simulation with a camera, built when it is first used."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_pbrl.clips.base import Frames
from lightning_pbrl.envs.base import Array, Simulator, View, need
from lightning_pbrl.envs.pixels import Pixels
from lightning_pbrl.envs.render import CURE, Camera


class Stage:
    """Simulation and camera of one renderer.

    Args:
        simulator: simulator to build; of :class:`~lightning_pbrl.envs.pixels.Pixels` the simulator that it shows.
        size: height and width of a frame, pixels.
        camera: name of a camera of the model; None for the one of videos (of ``Pixels``: that of its images).
    """

    def __init__(self, simulator: Simulator, size: int = 256, camera: str | None = None) -> None:
        self.view = simulator.view if isinstance(simulator, Pixels) else View()
        self.view = self.view if camera is None else View(camera=camera)
        self.simulator: Simulator = simulator.simulator if isinstance(simulator, Pixels) else simulator
        self.size = size
        self._env: Any = None
        self._camera: Camera | None = None
        self._model: Any = None

    @property
    def env(self) -> Any:
        """The environment."""
        if self._env is None:
            self._env = self.simulator.make()
        return self._env

    @property
    def physics(self) -> Any:
        """The running simulation of the environment."""
        return self.env.unwrapped.physics

    def frame(self) -> Frames:
        """Draw the present state, (size, size, 3), uint8."""
        if self._camera is None or self._model is not self.physics.model:  # robosuite builds a model at every reset
            self._free_camera()
            self._camera, self._model = Camera(self.physics, self.size, self.view), self.physics.model
        return self._camera.frame()

    def place(self, qpos: Array, qvel: Array) -> None:
        """Set positions and velocities, with the time and the controls as they are, and update everything that follows."""
        data = self.physics.data
        data.qpos[:], data.qvel[:] = qpos, qvel
        need("mujoco", CURE).mj_forward(self.physics.model, data)

    def sizes(self) -> tuple[int, int]:
        """Return the number of positions and of velocities of the model."""
        model = self.physics.model
        return int(model.nq), int(model.nv)

    def replay(self, seed: int, actions: Array, first: int) -> tuple[Frames, Array]:
        """Reset, repeat actions, and draw the states from step ``first`` on.

        Args:
            seed: reset seed of the episode.
            actions: actions of its first steps, (n, A), float32.
            first: first step to draw, 0 <= ``first`` <= n.

        Returns:
            Frames of the states before step ``first``, ``first`` + 1, ... and after the last action,
            (n + 1 - first, size, size, 3), and their observations, (n + 1 - first, O), float32.
        """
        obs = self.env.reset(seed=seed)[0]
        count = len(actions) + 1 - first
        frames, seen = np.empty((count, self.size, self.size, 3), np.uint8), np.empty((count, len(obs)), np.float32)
        for step in range(len(actions) + 1):
            if step >= first:
                frames[step - first], seen[step - first] = self.frame(), obs
            if step < len(actions):
                obs = self.env.step(actions[step])[0]
        return frames, seen

    def close(self) -> None:
        """Close camera and environment; the next use builds them again."""
        self._free_camera()
        if self._env is not None:
            self._env.close()
            self._env = None

    def _free_camera(self) -> None:
        if self._camera is not None:
            self._camera.close()
        self._camera = self._model = None
