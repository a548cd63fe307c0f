"""Image observations: any simulator, seen through a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from lightning_pbrl.envs.base import Array, Expert, Physics, Simulator, View
from lightning_pbrl.errors import UserError

if TYPE_CHECKING:
    from lightning_pbrl.envs.episodic import Episodic


LATELY_TURNED = ("corner", "corner3", "corner4")
"""Cameras of Meta-World whose images used to be upside down; data with such images are not read any more."""


class Pixels(Simulator):
    """Simulator with one image per step, by default as its observation; reward, success and expert are those of ``simulator``.

    An image is RGB, (S, S, 3), 0 to 255. As an observation it is laid out flat (row, column, colour) in float32, O = S * S * 3.
    Marks that no real camera would see, such as that of a target, are left out. ``info["picture"]`` is the same image as uint8;
    ``info["state"]`` is the simulator's own observation. :func:`~lightning_pbrl.envs.collect.collect` stores both.

    Args:
        simulator: simulator that is rendered; any that runs on MuJoCo.
        size: side S, pixels.
        view: camera pose; None for the simulator's own (LAEO's cameras for Fetch and the window).
        policy: what policies see: pictures, or states, and then images serve reward models alone. Collected data are the same.

    Raises:
        UserError: for a size below 8, or if ``simulator`` is itself a :class:`Pixels`.
    """

    def __init__(
        self, simulator: Simulator, size: int = 64, view: View | None = None, policy: Literal["pictures", "states"] = "pictures"
    ) -> None:
        if size < 8:
            raise UserError(f"The size of pictures is {size}; give at least 8 pixels.")
        if isinstance(simulator, Pixels):
            raise UserError("Pixels shows a simulator, not another Pixels; give the simulator itself.")
        self.simulator, self.frames, self.view, self.policy = simulator, size, view or simulator.view, policy
        self.name, self.action_dim, self.horizon = f"{simulator.name}-pixels", simulator.action_dim, simulator.horizon
        self.pixels = size if policy == "pictures" else None
        self.obs_dim = size * size * 3 if self.pixels else simulator.obs_dim
        self.d4rl_task, self.d4rl_physics = simulator.d4rl_task, simulator.d4rl_physics
        self.packages = simulator.packages  # type: ignore[misc]

    @property
    def state_dim(self) -> int:
        return self.simulator.state_dim

    @property
    def evaluated(self) -> Simulator:
        return self if self.pixels else self.simulator

    def make(self, render: bool = False) -> Episodic:
        """Build the environment; see :meth:`Simulator.make`.

        Raises:
            UserError: as the simulator; also if this machine cannot render.
        """
        from lightning_pbrl.envs.episodic import Episodic

        inner: Any = self.simulator.make()
        return Episodic(self, _Seen(inner.physics, self), render)

    def describe(self) -> dict[str, Any]:
        """Return class name and settings, without ``policy``: data hold images and states."""
        shown: dict[str, Any] = {"size": self.frames, "view": self.view.describe()}
        if self.view.camera in LATELY_TURNED:
            shown["upright"] = True
        return {"simulator": "Pixels", "of": self.simulator.describe(), **shown}

    def expert(self, task: str | None = None) -> Expert:
        """Return the simulator's expert, which sees the state."""
        return self.simulator.expert(task)


class _Seen:
    """Physics of a simulator seen through a camera (see :class:`lightning_pbrl.envs.base.Physics`)."""

    def __init__(self, physics: Physics, simulator: Pixels) -> None:
        from lightning_pbrl.envs.render import Camera

        self.physics, self.camera = physics, physics.camera
        self._eye, self.sees_states = Camera(physics, simulator.frames or 0, simulator.view, marks=False), not simulator.pixels

    @property
    def model(self) -> Any:
        return self.physics.model

    @property
    def data(self) -> Any:
        return self.physics.data

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        state, info = self.physics.begin(seed)
        return self._look(state, info)

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        state, reward, terminated, info = self.physics.advance(action)
        picture, info = self._look(state, info)
        return picture, reward, terminated, info

    def _look(self, state: Array, info: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
        picture = self._eye.frame()
        return state if self.sees_states else picture.reshape(-1), {**info, "picture": picture, "state": state}

    def close(self) -> None:
        self._eye.close()
