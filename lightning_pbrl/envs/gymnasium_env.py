"""Any registered Gymnasium environment with continuous actions, including your own."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_pbrl.data.minari import parts
from lightning_pbrl.envs.base import Array, Simulator, check_horizon, need, rescale, without_renderer
from lightning_pbrl.envs.models import models_read_once
from lightning_pbrl.errors import UserError

if TYPE_CHECKING:
    from lightning_pbrl.envs.episodic import Episodic

SUCCESS = ("success", "is_success")
"""Keys of ``info`` that report success: Meta-World and Adroit use the first, Fetch and stable-baselines3 the second."""
WIDEST = 1e6
"""Bounds of an action beyond which it counts as unbounded (some packages write the largest float)."""


class GymnasiumEnv(Simulator):
    """Gymnasium environment with a Box of actions, used as registered, including all its wrappers.

    Dictionary observations are concatenated by key, in the order in which ``MinariDataModule`` concatenates its data. An episode
    ends where the environment terminates or truncates it, and at the horizon. Sizes that are not given are read from the
    environment, which imports its package at once. If all are given, building the environment checks them.

    Args:
        env_id: Gymnasium id, preceded by the module that registers it if one must be imported:
            ``gymnasium_robotics:AntMaze_UMaze-v4``, ``my_package:Reach-v0``.
        obs_dim: observation size, all parts together; null for that of the observation space.
        action_dim: action size; null for that of the action space.
        horizon: steps per episode, not more than registered; null: as registered (``max_episode_steps``, or the entry point's
            own TimeLimit).
        settings: arguments of ``gymnasium.make``: those of the environment's constructor, or another ``max_episode_steps``.
        d4rl_task: D4RL's name of the task, for ``normalized_score``; null for none.
        success: key of ``info`` that reports success; on a step without the key, success is 0. null: ``success`` or
            ``is_success``; an environment that never reports either defines no success.

    Raises:
        UserError: if a size has to be read and Gymnasium cannot build the environment; also as :meth:`make`.
    """

    packages = ("gymnasium", "mujoco")

    def __init__(
        self,
        env_id: str,
        obs_dim: int | None = None,
        action_dim: int | None = None,
        horizon: int | None = None,
        settings: dict[str, Any] | None = None,
        d4rl_task: str | None = None,
        success: str | None = None,
    ) -> None:
        self.name = self.env_id = env_id
        self.settings, self.d4rl_task, self.success = dict(settings or {}), d4rl_task, success
        if obs_dim is None or action_dim is None or horizon is None:
            env = self._build()
            found = space_sizes(env.observation_space, env.action_space, env_id)
            limits = _limits(env)
            if horizon is None and not limits:
                raise UserError(f"{env_id} is registered without max_episode_steps: give horizon, the steps per episode.")
            obs_dim = found[0] if obs_dim is None else obs_dim
            action_dim = found[1] if action_dim is None else action_dim
            horizon = min(limits) if horizon is None else horizon
            env.close()
        self.obs_dim, self.action_dim, self.horizon = obs_dim, action_dim, check_horizon(horizon)

    def make(self, render: bool = False) -> Episodic:
        """Build the environment; see :meth:`Simulator.make`.

        Raises:
            UserError: if Gymnasium cannot build it, its sizes differ from those given, or its episodes are shorter than the
                horizon.
        """
        env = self._build()
        from lightning_pbrl.envs.episodic import Episodic

        found = space_sizes(env.observation_space, env.action_space, self.env_id)
        if found != (self.obs_dim, self.action_dim):
            raise UserError(f"{self.env_id} has obs_dim {found[0]} and action_dim {found[1]}: give these sizes, or none.")
        registered = self.settings.get("max_episode_steps", self._registered(env))
        if registered is not None and 0 < registered < self.horizon:
            raise UserError(
                f"The horizon of {self.env_id} is {self.horizon} and Gymnasium ends its episodes after {registered} steps: "
                f"give at most {registered}, leave horizon out, or set max_episode_steps in settings."
            )
        return Episodic(self, _Any(env, self), render)

    def describe(self) -> dict[str, Any]:
        """Return class name and settings."""
        about = {"simulator": "GymnasiumEnv", "env_id": self.env_id, "horizon": self.horizon}
        named = {} if self.success is None else {"success": self.success}
        return {**about, "settings": {name: str(value) for name, value in self.settings.items()}, **named}

    @staticmethod
    def _registered(env: Any) -> int | None:
        """Return the registered number of steps per episode; None if there is none."""
        import gymnasium

        return gymnasium.spec(env.unwrapped.spec.id).max_episode_steps

    def _build(self) -> Any:
        """Build the registered environment, with Gymnasium's own wrappers but without its checker.

        Raises:
            UserError: if Gymnasium cannot build it.
        """
        gymnasium = need("gymnasium", "install lightning-pbrl with its dependencies (gymnasium[mujoco]).")
        module, _, name = self.env_id.rpartition(":")

        def build() -> Any:
            if module:
                importlib.import_module(module)
            with models_read_once():
                return gymnasium.make(name, **{"disable_env_checker": True, **self.settings})

        try:
            return _drawing_or_not(build)
        except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
            raise UserError(f"Gymnasium cannot build {self.env_id!r} ({error}): check env_id and settings.") from error


def _drawing_or_not(build: Callable[[], Any]) -> Any:
    """Return the result of ``build``, with a renderer if possible (the environment may need one to observe), else without."""
    try:
        return build()
    except (AttributeError, ImportError, OSError, RuntimeError):  # exceptions of the OpenGL packages
        with without_renderer():
            return build()


def _limits(env: Any) -> list[int]:
    """Return the number of steps of every TimeLimit around an environment."""
    from gymnasium.wrappers import TimeLimit

    found = []
    while hasattr(env, "env") and env is not env.unwrapped:
        found += [env._max_episode_steps] if isinstance(env, TimeLimit) else []
        env = env.env
    return found


def space_sizes(observation_space: Any, action_space: Any, where: str) -> tuple[int, int]:
    """Return observation and action size of an environment's spaces.

    Raises:
        UserError: for actions that are not a bounded vector of real numbers, or observations that are not numbers.
    """
    from gymnasium.spaces import Box

    space = action_space
    bounded = isinstance(space, Box) and len(space.shape) == 1 and space.dtype.kind == "f"
    if not bounded or not max(np.abs(space.low).max(), np.abs(space.high).max()) <= WIDEST:
        raise UserError(f"{where} has the action space {space}: a bounded Box of real numbers, of shape (size,), is needed.")
    return _count(observation_space, where), space.shape[0]


def _count(space: Any, where: str) -> int:
    """Return the number of entries of a space's observation after concatenation."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        return sum(_count(part, where) for part in (space.values() if isinstance(space, spaces.Dict) else space))
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete):
        return int(np.prod(space.shape or ()))
    raise UserError(f"{where} observes {space}: numbers are needed (Box, Discrete, MultiBinary, or Dict and Tuple of these).")


class _Any:
    """Physics of one environment (see :class:`lightning_pbrl.envs.base.Physics`); videos require MuJoCo underneath."""

    camera: str | int = -1

    def __init__(self, env: Any, simulator: GymnasiumEnv) -> None:
        self.env, self.simulator = env, simulator
        self.low, self.high = env.action_space.low, env.action_space.high
        self._first: tuple[int, Array] | None = None  # seed and observation of the first reset

    @property
    def model(self) -> Any:
        return getattr(self.env.unwrapped, "model", None)

    @property
    def data(self) -> Any:
        return getattr(self.env.unwrapped, "data", None)

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        obs = self._flat(self.env.reset(seed=seed)[0])
        if self._first is None:
            self._first = seed, obs
        elif seed == self._first[0] and not np.array_equal(obs, self._first[1], equal_nan=True):
            self._first = -1, obs  # told once
            warnings.warn(
                f"{self.simulator.name} began differently when it was reset with the seed {seed} again: it draws something "
                "independently of the seed, so evaluations vary, and a resumed run is not bit for bit the interrupted one.",
                stacklevel=2,
            )
        return obs, {}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(rescale(action, self.low, self.high))
        about = {"truncated": bool(truncated), **self._success(info)}
        return self._flat(obs), self._number("reward", reward), bool(terminated), about

    def close(self) -> None:
        self.env.close()

    def _flat(self, obs: Any) -> Array:
        flat = np.concatenate([np.ravel(part) for _, part in parts(obs)])
        if len(flat) != self.simulator.obs_dim:
            stated = self.simulator.obs_dim
            raise UserError(f"{self.simulator.name} observes {len(flat)} numbers and its space has {stated}: correct its space.")
        return flat

    def _success(self, info: dict[str, Any]) -> dict[str, float]:
        """Return ``success``, 0 or 1, or nothing if the environment does not report it."""
        named = self.simulator.success
        for key in SUCCESS if named is None else (named,):
            if (value := info.get(key)) is None or np.isnan(number := self._number(key, value)):
                continue
            if number not in (0.0, 1.0):
                raise UserError(
                    f"{self.simulator.name} reports {key}={number:g} for a step, which is neither success (1) nor failure (0): "
                    "name the key that reports success in the simulator's argument success."
                )
            return {"success": number}
        return {} if named is None else {"success": 0.0}

    def _number(self, what: str, value: Any) -> float:
        """Return a number given as a bool, a NumPy scalar or an array of one entry."""
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise UserError(f"{self.simulator.name} reports {what}={value!r}: one number per step is needed.")
        return float(array.item())
