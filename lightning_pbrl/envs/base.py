"""What an environment is here: a small picklable description that can build the simulator when needed.

A :class:`Simulator` knows its sizes without importing anything heavy, so a config can be checked, a network
sized and a job sent to another process before MuJoCo is loaded. :meth:`Simulator.make` builds a Gymnasium
environment with one behaviour for all simulators: float32 observations, actions in [-1, 1], a fixed horizon
and ``reset(seed=s)`` that fully determines the episode. An open episode is therefore restored by its reset
seed and its recorded actions; simulator internals are never saved.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy.typing as npt

from lightning_pbrl.errors import UserError

if TYPE_CHECKING:
    import gymnasium

Array = npt.NDArray[Any]


class Physics(Protocol):
    """One running simulation, the part that differs between simulator packages.

    Attributes:
        camera: name or number of the camera to film with; -1 is MuJoCo's free camera.
        upside_down: whether that camera is mounted upside down, so that its image must be turned by 180 degrees.
    """

    camera: str | int
    upside_down: bool

    @property
    def model(self) -> Any:
        """The MuJoCo model (``mujoco.MjModel``), for rendering."""
        ...

    @property
    def data(self) -> Any:
        """The MuJoCo state (``mujoco.MjData``), for rendering."""
        ...

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        """Start the episode that ``seed`` determines; gives observation (O,) and info."""
        ...

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        """One step with ``action``, (A,), in [-1, 1]; gives observation (O,), reward, terminated, info."""
        ...


class Simulator(ABC):
    """A picklable description of an environment, cheap to build.

    Attributes:
        name: how reports and file names call it, for instance ``drawer-open-v3``.
        obs_dim: observation size O.
        action_dim: action size A.
        horizon: steps after which an episode is truncated.
        d4rl_task: D4RL's name of the task, whose reference returns scale ``normalized_score``; None where there are none.
        packages: the distributions whose versions decide the physics, for provenance.
    """

    name: str
    obs_dim: int
    action_dim: int
    horizon: int
    d4rl_task: str | None = None
    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def make(self, render: bool = False) -> gymnasium.Env[Array, Array]:
        """Build the environment; the simulator package is imported here.

        Args:
            render: whether ``env.render()`` will be called (RGB frames, 256 x 256).

        Returns:
            obs (O,) float32; action space Box(-1, 1, (A,)); ``info["success"]`` 0.0 or 1.0 on every step
            where the task defines success; ``reset(seed=s)`` fully determines an episode.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Class name and settings as plain JSON types, for provenance."""


def check_horizon(horizon: int, longest: int | None = None) -> int:
    """The horizon itself, if an episode can have that many steps.

    Raises:
        UserError: when it is below 1 or above ``longest``.
    """
    if horizon < 1 or (longest is not None and horizon > longest):
        most = "" if longest is None else f" and at most {longest}, where the simulator itself stops"
        raise UserError(f"The horizon is {horizon}; give at least 1 step{most}.")
    return horizon


def need(module: str, cure: str) -> Any:
    """Import a simulator module.

    Raises:
        UserError: naming the missing module and the ``cure``.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"The package {error.name!r} is not installed; {cure}") from error


def rescale(action: Array, low: Array, high: Array) -> Array:
    """Map an action from [-1, 1] linearly to [low, high], all (A,)."""
    return low + (action + 1.0) * (0.5 * (high - low))
