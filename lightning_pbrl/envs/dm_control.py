"""DeepMind Control Suite: continuous control with rewards in [0, 1] per step (Tassa et al. 2018, arXiv 1801.00690)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_pbrl.envs.base import Array, Simulator, check_horizon, need, rescale
from lightning_pbrl.errors import UserError, nearest

if TYPE_CHECKING:
    from lightning_pbrl.envs.episodic import Episodic

SIZES = {
    "acrobot": {"swingup swingup_sparse": (6, 1)},
    "ball_in_cup": {"catch": (8, 2)},
    "cartpole": {
        "balance balance_sparse swingup swingup_sparse": (5, 1),
        "two_poles": (8, 1),
        "three_poles": (11, 1),
    },
    "cheetah": {"run": (17, 6)},
    "dog": {"stand walk trot run": (223, 38), "fetch": (232, 38)},
    "finger": {"spin": (9, 2), "turn_easy turn_hard": (12, 2)},
    "fish": {"upright": (21, 5), "swim": (24, 5)},
    "hopper": {"stand hop": (15, 4)},
    "humanoid": {"stand walk run": (67, 21), "run_pure_state": (55, 21)},
    "humanoid_CMU": {"stand walk run": (137, 56)},
    "manipulator": {"bring_ball bring_peg insert_ball insert_peg": (44, 5)},
    "pendulum": {"swingup": (3, 1)},
    "point_mass": {"easy hard": (4, 2)},
    "quadruped": {"walk run": (78, 12), "fetch": (90, 12)},
    "reacher": {"easy hard": (6, 2)},
    "stacker": {"stack_2": (49, 5), "stack_4": (63, 5)},
    "swimmer": {"swimmer6": (25, 5), "swimmer15": (61, 14)},
    "walker": {"stand walk run": (24, 6)},
}
"""Flat observation and action size by domain and tasks.

Left out of the suite's 51 tasks: ``lqr`` (unbounded actions) and ``quadruped-escape`` (its reset renders).
"""

TASKS = {f"{domain}-{task}": size for domain, groups in SIZES.items() for tasks, size in groups.items() for task in tasks.split()}
"""Observation and action size by ``domain-task``."""

FRAMES = 1000
"""Frames after which the suite ends an episode."""

CURE = (
    "install it with pip install 'lightning-pbrl[dmc]' on Python 3.11 or 3.12 "
    "(on 3.13 its dependency labmaze has no wheel, use Python 3.12)."
)


class DMControl(Simulator):
    """One task of the DeepMind Control Suite, its observation dictionary laid end to end in the suite's order.

    Args:
        domain_task: domain and task joined by a dash, for instance ``walker-walk``.
        horizon: steps per episode, each of ``action_repeat`` frames; it replaces the suite's own time limit. None: as many as
            fill the suite's 1000 frames.
        action_repeat: frames (control steps of the suite) for which an action is held; a step's reward is their sum.
    """

    packages = ("dm_control", "mujoco")

    def __init__(self, domain_task: str, horizon: int | None = None, action_repeat: int = 1) -> None:
        if domain_task not in TASKS:
            raise UserError(f"The control suite has no task {domain_task!r}; {nearest(domain_task, TASKS)}")
        if not 1 <= action_repeat <= FRAMES:
            raise UserError(f"action_repeat of {domain_task} is {action_repeat}; give from 1 to {FRAMES} frames per step.")
        self.name = self.domain_task = domain_task
        self.name += f"-repeat{action_repeat}" if action_repeat > 1 else ""
        self.action_repeat = action_repeat
        self.horizon = check_horizon(FRAMES // action_repeat if horizon is None else horizon)
        self.obs_dim, self.action_dim = TASKS[domain_task]

    def make(self, render: bool = False) -> Episodic:
        """Build the environment; see :meth:`Simulator.make`.

        Raises:
            UserError: when dm_control is not installed.
        """
        suite = need("dm_control.suite", CURE)
        from lightning_pbrl.envs.episodic import Episodic

        domain, task = self.domain_task.split("-")
        env = suite.load(domain, task, task_kwargs={"time_limit": float("inf")})
        return Episodic(self, _Suite(env, self.action_repeat), render)

    def describe(self) -> dict[str, Any]:
        """Class name and settings."""
        repeat = {"action_repeat": self.action_repeat} if self.action_repeat > 1 else {}
        return {"simulator": "DMControl", "domain_task": self.domain_task, "horizon": self.horizon, **repeat}


class _Suite:
    """The physics of one task (see :class:`lightning_pbrl.envs.base.Physics`)."""

    def __init__(self, env: Any, action_repeat: int) -> None:
        self.env, self.action_repeat = env, action_repeat
        spec = env.action_spec()
        self.low, self.high = spec.minimum, spec.maximum
        self.camera: str | int = 0 if env.physics.model.ncam > 0 else -1

    @property
    def model(self) -> Any:
        return self.env.physics.model.ptr

    @property
    def data(self) -> Any:
        return self.env.physics.data.ptr

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        # RandomState takes 32 bits at a time; a small seed gives the stream users of the suite expect.
        words = seed if seed < 1 << 32 else [seed & 0xFFFFFFFF, seed >> 32]
        self.env.task._random = np.random.RandomState(words)
        return self._flat(self.env.reset()), {}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        action, reward = rescale(action, self.low, self.high), 0.0
        for _ in range(self.action_repeat):
            step = self.env.step(action)
            reward += float(step.reward)
            if step.last():
                break
        return self._flat(step), reward, bool(step.last()), {}

    @staticmethod
    def _flat(step: Any) -> Array:
        return np.concatenate([np.ravel(part) for part in step.observation.values()])
