"""Meta-World v3: 50 manipulation tasks for one simulated arm (Yu et al. 2019, arXiv 1910.10897).

Every reset draws the object and goal anew from the reset seed. Start, observations and rewards are those of the package's
``set_task`` with the same draw. Reward is version "v2" of the package, 0 to 10 per step. Success is reported per step; the
library counts an episode as solved if *any* of its steps is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_pbrl.envs.base import Array, Expert, OverEnv, Simulator, View, check_horizon, need
from lightning_pbrl.envs.models import models_read_once
from lightning_pbrl.errors import UserError, nearest

if TYPE_CHECKING:
    from lightning_pbrl.envs.episodic import Episodic

MAX_HORIZON = 500
"""Number of steps after which Meta-World itself refuses to continue."""

FULL = 39
"""Size of the full observation."""

_NAMES = """
    assembly basketball bin-picking box-close button-press button-press-topdown button-press-topdown-wall
    button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open
    door-unlock drawer-close drawer-open faucet-close faucet-open hammer hand-insert handle-press handle-press-side
    handle-pull handle-pull-side lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place
    pick-place-wall plate-slide plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall reach
    reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into window-close window-open
"""
TASKS = tuple(_NAMES.split())
"""The 50 tasks, without their version suffix."""

_REBUILT = """
    box-close dial-turn disassemble door-lock door-unlock drawer-open faucet-open handle-press handle-press-side handle-pull
    handle-pull-side lever-pull peg-unplug-side window-close window-open
"""
REBUILT = frozenset(_REBUILT.split())
"""Tasks with starts, first observations or rewards that partly belonged to a discarded draw before ``SCENE`` 2."""
SCENE = 2
"""Version of the scene that a reset builds.

Descriptions contain it if an older version built another scene; such data are collected anew.
"""

CURE = "install lightning-pbrl with its dependencies (metaworld==3.1.1, mujoco==3.3.0)."


VIEWS = {
    "window-open": View(camera="corner2", fovy=17.0, position=(None, -0.1, 1.1)),
    "drawer-open": View(camera="corner2", fovy=22.0),
    "drawer-close": View(camera="corner2", fovy=22.0),
}
"""Cameras for image observations where the usual one is too far away: LAEO's for the window, ours for the drawer."""


def task_name(task: str) -> str:
    """Return the task's name without version.

    ``drawer-open``, ``drawer-open-v2`` and ``drawer-open-v3`` are the same task.

    Raises:
        UserError: for an unknown task, with the nearest names.
    """
    bare = task.removesuffix("-v2").removesuffix("-v3")
    if bare not in TASKS:
        raise UserError(f"Meta-World has no task {task!r}; {nearest(bare, TASKS)}")
    return bare


class MetaWorld(Simulator):
    """Meta-World v3 task.

    Args:
        task: task name, with or without version suffix. ``-v2`` names give the v3 task, which has the same reward code but
            newer physics.
        horizon: steps per episode, 1 to 500; episodes never terminate early.
        goal_observable: whether the last three of the 39 observation entries hold the goal position; hidden goals
            are zeros there. ``info["full_obs"]`` (39,) float64 always holds it, for the scripted experts.
        entries: the observed ones of the 39 entries, in this order; None for all. 0 to 2 are the hand, 3 the gripper's
            opening, 4 to 6 the (first) object, 18 to 35 the same one step earlier, 36 to 38 the goal. Every reset places
            furniture and objects anew, so include the entries that hold their positions.

    Raises:
        UserError: for an unknown task, an impossible horizon, entries that are not different numbers from 0 to 38.
    """

    packages = ("metaworld", "mujoco", "gymnasium")

    def __init__(
        self, task: str, horizon: int = MAX_HORIZON, goal_observable: bool = True, entries: Sequence[int] | None = None
    ) -> None:
        self.task = task_name(task)
        self.name = f"{self.task}-v3"
        self.horizon = check_horizon(horizon, MAX_HORIZON)
        self.goal_observable = goal_observable
        self.entries = None if entries is None else [int(entry) for entry in entries]
        if self.entries is not None and (not self.entries or len({*self.entries} & {*range(FULL)}) < len(self.entries)):
            raise UserError(f"The entries of the observation are {self.entries}; give different numbers from 0 to {FULL - 1}.")
        self.view = VIEWS.get(self.task, View(camera="corner2"))
        self.obs_dim, self.action_dim = FULL if self.entries is None else len(self.entries), 4

    def make(self, render: bool = False) -> Episodic:
        """Build the environment; see :meth:`Simulator.make`."""
        classes = need("metaworld.env_dict", CURE).ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
        from lightning_pbrl.envs.episodic import Episodic

        with models_read_once():
            env = classes[f"{self.name}-goal-observable"]()
        return Episodic(self, _Arm(env, self.task, self.goal_observable, self.entries), render)

    def describe(self) -> dict[str, Any]:
        """Return class name and settings."""
        chosen: dict[str, Any] = {} if self.entries is None else {"entries": self.entries}  # older collections keep their names
        if self.task in REBUILT:
            chosen["scene"] = SCENE
        return {
            "simulator": "MetaWorld",
            "task": self.name,
            "horizon": self.horizon,
            "goal_observable": self.goal_observable,
            **chosen,
        }

    def expert(self, task: str | None = None) -> Expert:
        """Return the package's scripted policy of this or another task."""
        from lightning_pbrl.envs import experts

        return experts.Expert(self.task if task is None else task)


class _Arm(OverEnv):
    """Physics of one Meta-World task (see :class:`lightning_pbrl.envs.base.Physics`).

    Its numbers are the package's bit for bit, with less work. The package's step puts an observation together slowly; its
    reset simulates the hand twice and keeps the second.
    """

    camera: str | int = "corner2"

    def __init__(self, env: Any, task: str, goal_observable: bool, entries: list[int] | None) -> None:
        env.seeded_rand_vec = True  # else the package draws goals from NumPy's global generator
        self.env, self.task, self.goal_observable, self.entries = env, task, goal_observable, entries
        self._claws = env.data.body("rightclaw").xpos, env.data.body("leftclaw").xpos  # views, which follow the physics
        self._quaternions = _trusting(env._get_quat_objects)
        env._get_curr_obs_combined_no_goal, env._get_obs = self._now, self._observe

    def _now(self) -> Array:
        """Return hand, gripper, and position and quaternion of up to two objects, (18,)."""
        env, now = self.env, np.zeros(18)
        apart = self._claws[0] - self._claws[1]
        now[:3], now[3] = env.get_endeff_pos(), min(max(math.sqrt(apart.dot(apart)) / 0.1, 0.0), 1.0)
        positions, quaternions = env._get_pos_objects(), self._quaternions()
        for number in range(len(positions) // 3):
            at = 4 + 7 * number
            now[at : at + 3] = positions[3 * number : 3 * number + 3]
            now[at + 3 : at + 7] = quaternions[4 * number : 4 * number + 4]
        return now

    def _observe(self) -> Array:
        """Return the present entries, those of the step before, and the goal, (39,)."""
        env, full = self.env, np.empty(FULL)
        full[:18], full[18:36], full[36:] = env._get_curr_obs_combined_no_goal(), env._prev_obs, env._get_pos_goal()
        env._prev_obs = full[:18].copy()
        return full

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        from gymnasium.envs.mujoco import MujocoEnv

        self.env.seed(seed)  # the package ignores reset(seed=...)
        self._draw()
        self.env.curr_path_length = 0
        full, info = MujocoEnv.reset(self.env)  # the package's own reset would build the scene twice
        full[18:36] = self.env._prev_obs = full[:18].copy()
        if self.task == "window-close":
            self._show_where_objects_are(full)
        return self._visible(full), {**info, "full_obs": full}

    def _draw(self) -> None:
        """Draw object and goal of the episode and freeze the draw; without physics, which the reset that follows begins anew.

        The package's ``reset()`` builds the scene twice. If both builds drew, hand, first observation and constants of the reward
        would partly belong to the first draw and everything else to the second.
        """
        env = self.env
        env._freeze_rand_vec = False
        env._reset_hand = _leave_alone
        env.reset_model()
        env.reset_model()  # the second draw is the one that every release of this library has used
        del env._reset_hand
        env._freeze_rand_vec = True

    def _show_where_objects_are(self, full: Array) -> None:
        """Correct the objects of a first observation whose joints the package moved without updating the positions."""
        import mujoco

        mujoco.mj_kinematics(self.env.model, self.env.data)
        full[4:18] = self.env._get_curr_obs_combined_no_goal()[4:18]
        full[18:36] = self.env._prev_obs[:] = full[:18]

    def __getstate__(self) -> dict[str, Any]:
        raise UserError(  # the package's copies hang their hand elsewhere: another robot, without a word
            "A running Meta-World environment cannot be copied or pickled: copy its description (env.simulator), make() another, "
            "reset it with the same seed and repeat the actions."
        )

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        full, reward, _, _, info = self.env.step(action)
        info["success"], info["full_obs"] = float(info["success"]), full
        return self._visible(full), reward, False, info

    def _visible(self, full: Array) -> Array:
        obs = full
        if not self.goal_observable:
            obs = full.copy()
            obs[-3:] = 0.0
        return obs if self.entries is None else obs[self.entries]


def _leave_alone(steps: int = 50) -> None:
    """Do not move the hand to its start."""


def _trusting(quaternions: Any) -> Any:
    """Return the task's function of its objects' quaternions, without the check that MuJoCo's matrices are rotations."""
    function = quaternions.__func__
    if "Rotation" not in function.__globals__:
        return quaternions
    rotation = need("scipy.spatial.transform", CURE).Rotation

    class Trusting:  # the same bits in a quarter of the time
        from_matrix = staticmethod(lambda matrix: rotation.from_matrix(matrix, assume_valid=True))

    own = FunctionType(function.__code__, {**function.__globals__, "Rotation": Trusting}, function.__name__)
    return own.__get__(quaternions.__self__)
