"""FetchReach and FetchPush with one fixed, unobserved target: tasks for learning from examples of success.

Source: LAEO (Hatch et al. 2023, arXiv 2307.13101), on the Fetch arm of Gymnasium-Robotics (Plappert et al. 2018, arXiv
1802.09464). A policy observes only the robot (and the block) and learns the goal from examples. The targets lie outside the
region from which the package draws its goals, so they are set here.

Differences: version 4 of the package's environments, on today's MuJoCo, so figures of the paper do not carry over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from lightning_pbrl.envs.base import Array, Expert, OverEnv, Simulator, View, check_horizon, need
from lightning_pbrl.envs.models import models_read_once
from lightning_pbrl.errors import UserError, nearest

if TYPE_CHECKING:
    from lightning_pbrl.envs.episodic import Episodic

CURE = "install it with pip install 'lightning-pbrl[robotics]'."
REACHED = 0.05
"""Distance, metres, below which gripper or block have reached the target."""

TARGETS = {"reach": (1.3, 0.3, 0.9), "push": (1.4, 0.9, 0.42469975)}
"""Target of the gripper, or of the block, metres."""
_SIZES = {"reach": 10, "push": 25}
_VIEWS = {
    "reach": View(lookat=(1.2, 0.8, 0.5), distance=1.4, azimuth=120.0, elevation=-30.0),
    "push": View(lookat=(1.25, 0.8, 0.4), distance=0.65, azimuth=90.0, elevation=-40.0),
}
"""LAEO's cameras for image observations."""


class Fetch(Simulator):
    """Fetch arm that reaches for a point, or pushes a block to one (extra ``robotics``).

    In reach, 10 numbers are observed: gripper position 3, fingers 2, gripper velocity 3, finger velocities 2. In push there are
    25: gripper 3, block 3, block minus gripper 3, fingers 2, block rotation 3, its velocity 3 relative to the gripper and angular
    3, gripper velocity 3, fingers 2. Reward and success are 1 on every step within 5 cm of the target, else 0; no episode
    terminates. In push the block's start is random; in reach every episode starts alike. ``info["full_obs"]`` is the observation
    and the target.

    Args:
        task: "reach" or "push".
        horizon: steps per episode, 25 per second.
    """

    packages = ("gymnasium-robotics", "gymnasium", "mujoco")
    TASKS: ClassVar[tuple[str, ...]] = tuple(TARGETS)

    def __init__(self, task: Literal["reach", "push"], horizon: int = 50) -> None:
        if task not in TARGETS:
            raise UserError(f"There is no Fetch task {task!r}; {nearest(task, TARGETS)}")
        self.task, self.name = task, f"fetch-{task}"
        self.obs_dim, self.action_dim, self.horizon = _SIZES[task], 4, check_horizon(horizon)
        self.view = _VIEWS[task]

    def make(self, render: bool = False) -> Episodic:
        """Build the environment; see :meth:`Simulator.make`.

        Raises:
            UserError: if gymnasium-robotics is not installed.
        """
        robotics = need("gymnasium_robotics", CURE)
        import gymnasium

        from lightning_pbrl.envs.episodic import Episodic

        gymnasium.register_envs(robotics)
        with models_read_once():
            env = gymnasium.make(f"Fetch{self.task.capitalize()}-v4", disable_env_checker=True).unwrapped
        return Episodic(self, _Arm(env, np.array(TARGETS[self.task])), render)

    def describe(self) -> dict[str, Any]:
        """Return class name and settings."""
        return {"simulator": "Fetch", "task": self.task, "horizon": self.horizon}

    def expert(self, task: str | None = None) -> Expert:
        """Return the scripted policy of this task, or in push also that of reach, which moves the gripper itself to the target.

        Each solved all of 50 episodes and stayed at the target: reach after 13 steps, push after 19 on average and 31 at most
        (reset seeds ``derive(77, "probe", i)``, which no evaluation uses).
        """
        known = self.TASKS if self.task == "push" else ("reach",)
        task = self.task if task is None else task
        if task not in known:
            raise UserError(f"There is no scripted expert {task!r} for {self.name}; {nearest(task, known)}")
        return PushExpert() if task == "push" else ReachExpert()


class _Arm(OverEnv):
    """Physics of one task (see :class:`lightning_pbrl.envs.base.Physics`)."""

    camera: str | int = -1

    def __init__(self, env: Any, target: Array) -> None:
        self.env, self.target = env, target
        env._sample_goal = target.copy
        names = env._model_names  # the package looks up every joint by name to observe the last two, the fingers
        names._joint_names = [name for name in names.joint_names if name.startswith("robot")][-2:]
        model = env.model
        body = model.site("target0").bodyid[0]
        model.site("target0").pos[:] = target - model.body_pos[body]
        model.geom_rgba[model.body_mocapid[model.geom_bodyid] >= 0, 3] = 0.0  # handles of the controller, no part of the robot

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        seen, _ = self.env.reset(seed=seed)
        return seen["observation"], {"full_obs": self._full(seen)}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        seen = self.env.step(action)[0]
        near = float(np.linalg.norm(seen["achieved_goal"] - self.target) < REACHED)
        return seen["observation"], near, False, {"success": near, "full_obs": self._full(seen)}

    def _full(self, seen: dict[str, Array]) -> Array:
        return np.concatenate([seen["observation"], self.target])


def _toward(way: Array) -> Array:
    """Return the action that moves the gripper by ``way``, (3,), metres, as far as one step can."""
    return np.append(np.clip(10.0 * way, -1.0, 1.0), 0.0).astype(np.float32)


class ReachExpert:
    """Scripted policy that moves the gripper straight to the target and stays there."""

    def act(self, full_obs: Array) -> Array:
        """Return the action, (4,), for observation and target, (13,) or (28,)."""
        return _toward(full_obs[-3:] - full_obs[:3])

    def shifted(self, full_obs: Array, goal: Array, thing: Array) -> Array:
        """Return ``full_obs`` with another target; the expert uses no object."""
        shown = full_obs.copy()
        shown[-3:] += goal
        return shown


class PushExpert:
    """Scripted policy that moves behind the block, over it if necessary, and pushes it to the target, without memory."""

    BEHIND, LANE, KEEP, LOW, HIGH = 0.09, 0.03, 0.04, 0.42, 0.5
    """Parameters of a push, metres.

    Distance behind the block's centre at the start; deviation from a straight line at the start and during the push; heights of
    push and travel.
    """

    def act(self, full_obs: Array) -> Array:
        """Return the action, (4,), for observation and target, (28,)."""
        hand, block, target = full_obs[:3], full_obs[3:6], full_obs[-3:]
        way = (target - block)[:2]
        far = float(np.linalg.norm(way))
        if far < 0.02:
            return _toward(np.zeros(3))
        ahead = way / far
        offset = (hand - block)[:2]
        along = float(offset @ ahead)
        aside = offset - along * ahead
        crooked = float(np.linalg.norm(aside))
        start = block[:2] - self.BEHIND * ahead
        if hand[2] < self.LOW + 0.04 and along < -0.02 and crooked < self.KEEP:
            return _toward(np.append(min(far, 0.06) * ahead - aside, self.LOW - hand[2]))
        if np.linalg.norm(hand[:2] - start) < self.LANE or (-0.13 < along < -0.06 and crooked < self.LANE):
            return _toward(np.append(start - hand[:2], self.LOW - hand[2]))
        if hand[2] < self.HIGH - 0.04 and np.linalg.norm(offset) < 0.12:  # up first, so that nothing is knocked over
            return _toward(np.array([0.0, 0.0, self.HIGH - hand[2]]))
        return _toward(np.append(start - hand[:2], self.HIGH - hand[2]))

    def shifted(self, full_obs: Array, goal: Array, thing: Array) -> Array:
        """Return ``full_obs`` with another target and another position of the block."""
        shown = full_obs.copy()
        shown[3:6] += thing
        shown[6:9] += thing
        shown[-3:] += goal
        return shown
