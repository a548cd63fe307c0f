"""Simulators: small picklable descriptions of environments that build the environment when it is needed.

A :class:`Simulator` knows its sizes without importing anything heavy. A config can thus be checked, a network sized and a job
sent to another process before MuJoCo is loaded. :meth:`Simulator.make` builds a Gymnasium environment that behaves alike for all
simulators. It has float32 observations, actions in [-1, 1], a fixed horizon and a ``reset(seed=s)`` that fully determines the
episode. An open episode is therefore restored from its reset seed and its recorded actions. Simulator internals are never saved.
"""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy.typing as npt

from lightning_pbrl.errors import UserError
from lightning_pbrl.settings import Checked

if TYPE_CHECKING:
    import gymnasium

Array = npt.NDArray[Any]


class Scene(Protocol):
    """A MuJoCo model in some state, as a camera needs it.

    Attributes:
        camera: name or number of the camera that records videos; -1 is MuJoCo's free camera.
    """

    camera: str | int

    @property
    def model(self) -> Any:
        """The MuJoCo model (``mujoco.MjModel``), for rendering."""
        ...

    @property
    def data(self) -> Any:
        """The MuJoCo state (``mujoco.MjData``), for rendering."""
        ...


class Physics(Scene, Protocol):
    """A running simulation, the part that differs between simulator packages."""

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        """Start the episode that ``seed`` determines and return observation (O,) and info."""
        ...

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        """Step with ``action``, (A,), in [-1, 1], and return observation (O,), reward, terminated, info.

        ``info["truncated"]`` is true if the simulator itself truncates the episode before the horizon.
        """
        ...


@dataclass(frozen=True)
class View:
    """Camera pose: one of the model's own cameras, possibly moved, or a free camera that looks at a point.

    Args:
        camera: name of a camera of the model; null for the camera of videos, or for a free one if ``lookat`` is given.
        fovy: vertical field of view of a model's camera, degrees; null for its own.
        position: position of a model's camera, x y z in the frame of its body, metres; a null entry keeps the model's.
        lookat: point that a free camera looks at, metres.
        distance: distance of a free camera from that point, metres.
        azimuth: viewing direction of a free camera, degrees around the vertical axis from x to y.
        elevation: elevation of the viewing direction above the horizontal, degrees; -90 looks straight down.
    """

    camera: str | None = None
    fovy: float | None = None
    position: tuple[float | None, float | None, float | None] | None = None
    lookat: tuple[float, float, float] | None = None
    distance: float = 1.0
    azimuth: float = 90.0
    elevation: float = -30.0

    def __post_init__(self) -> None:
        if self.lookat is not None and (self.camera, self.fovy, self.position) != (None, None, None):
            raise UserError("A view has a lookat and a camera: a free camera has lookat, distance, azimuth and elevation only.")

    def describe(self) -> dict[str, Any]:
        """Return the settings that apply, as plain JSON types."""
        free = ("lookat", "distance", "azimuth", "elevation")
        kept = free if self.lookat is not None else ("camera", "fovy", "position")
        found = asdict(self)
        return {name: list(value) if isinstance(value := found[name], tuple) else value for name in kept}


class Expert(Protocol):
    """Scripted policy of one task.

    It sees ``info["full_obs"]``, the observation with the goal, whatever learners see.
    """

    def act(self, full_obs: Array) -> Array:
        """Return the expert's action, (A,), float32, in [-1, 1]."""
        ...

    def shifted(self, full_obs: Array, goal: Array, thing: Array) -> Array:
        """Return a copy of ``full_obs`` with the goal displaced by ``goal`` and the objects by ``thing``, both (3,), metres."""
        ...


class OverEnv:
    """MuJoCo's model and state for a :class:`Physics` that wraps a package's own environment ``env``."""

    env: Any

    @property
    def model(self) -> Any:
        return self.env.model

    @property
    def data(self) -> Any:
        return self.env.data


class Simulator(Checked, ABC):
    """Picklable description of an environment, cheap to create.

    Attributes:
        name: name in reports and file names, for instance ``drawer-open-v3``.
        obs_dim: observation size O.
        action_dim: action size A.
        horizon: number of steps after which an episode is truncated.
        d4rl_task: D4RL's name of the task, whose reference returns scale ``normalized_score``; None if there are none.
        d4rl_physics: True if bodies and rewards are D4RL's, so that the score is D4RL's own.
        packages: distributions whose versions determine the physics, for provenance.
        pixels: side S of image observations, (S, S, 3) laid out flat (``obs_dim`` = S * S * 3); None if observations are
            states.
        frames: side S of the images of its steps, ``info["picture"]``, which data store beside the states; None without.
        view: camera pose of image observations (:class:`~lightning_pbrl.envs.pixels.Pixels`).
    """

    name: str
    obs_dim: int
    action_dim: int
    horizon: int
    d4rl_task: str | None = None
    d4rl_physics: bool = False
    packages: ClassVar[tuple[str, ...]] = ()
    pixels: int | None = None
    frames: int | None = None
    view: View = View()

    @abstractmethod
    def make(self, render: bool = False) -> gymnasium.Env[Array, Array]:
        """Build the environment; the simulator package is imported here.

        Args:
            render: whether ``env.render()`` will be called (RGB frames, 256 x 256).

        Returns:
            An environment with observations (O,), float32, and action space Box(-1, 1, (A,)). ``info["success"]`` is 0.0 or
            1.0 on every step if the task defines success. ``reset(seed=s)`` fully determines an episode.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return class name and settings as plain JSON types, for provenance."""

    @property
    def state_dim(self) -> int:
        """Size of the state that data store: ``obs_dim``, or for image observations the size of the underlying state."""
        return self.obs_dim

    @property
    def evaluated(self) -> Simulator:
        """The same episodes for a policy's evaluation, without images that it does not see."""
        return self

    def expert(self, task: str | None = None) -> Expert:
        """Return a scripted expert; this imports no simulator.

        Args:
            task: another task of the same simulator, to get its expert; None for this task.

        Raises:
            UserError: if there is none.
        """
        raise UserError(f"There is no scripted expert for {self.name}; give 'expert: false' in the mixture.")


def check_horizon(horizon: int, longest: int | None = None) -> int:
    """Return the horizon, if an episode can have that many steps.

    Raises:
        UserError: if it is below 1 or above ``longest``.
    """
    if horizon < 1 or (longest is not None and horizon > longest):
        most = "" if longest is None else f" and at most {longest}, where the simulator itself stops"
        raise UserError(f"The horizon is {horizon}; give at least 1 step{most}.")
    return horizon


@contextmanager
def without_renderer() -> Iterator[None]:
    """Allow simulators to be imported without their renderers, whatever ``MUJOCO_GL`` says.

    MuJoCo and dm_control load the OpenGL back end on import and fail if it is missing, although a simulation renders nothing.
    Images and videos create their own context (:mod:`lightning_pbrl.envs.render`).
    """
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        os.environ.pop("MUJOCO_GL")
        if before is not None:
            os.environ["MUJOCO_GL"] = before


def need(module: str, cure: str) -> Any:
    """Import a simulator module without a renderer.

    Raises:
        UserError: naming the missing module and the ``cure``.
    """
    try:
        with without_renderer():
            with suppress(ModuleNotFoundError):  # first, because Gymnasium imports it later, when it builds an environment
                importlib.import_module("mujoco")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"The package {error.name!r} is not installed; {cure}") from error


def rescale(action: Array, low: Array, high: Array) -> Array:
    """Map an action from [-1, 1] linearly to [low, high], all (A,); bounds of -1 and 1 leave every number unchanged."""
    return (0.5 * (low + high) + 0.5 * (high - low) * action).clip(low, high)
