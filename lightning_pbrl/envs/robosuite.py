"""robosuite's Lift, Can and Square: a simulated Panda arm, the tasks of robomimic's data (Zhu et al. 2020, arXiv 2009.12293).

The robot is controlled by its default controller, OSC_POSE at 20 Hz: six numbers move the hand, the seventh closes the gripper.
The reward is sparse, 1 where the task is solved and 0 elsewhere. The first such step ends the episode (terminated); otherwise the
horizon does. A controller cannot be chosen. robosuite 1.5.2 silently drops ``control_delta: false`` from older settings and
treats absolute poses as displacements, so data of such a controller are refused. Every reset draws robot pose, object pose and
object size from the reset seed.

robosuite pins an old NumPy and therefore needs its own Python environment, ``requirements/robomimic.txt``. Its physics and some
conventions differ between versions, so results are reported with the versions of robosuite and mujoco.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_pbrl.data.robomimic import OBS_KEYS
from lightning_pbrl.envs.base import Array, Simulator, check_horizon, need
from lightning_pbrl.errors import UserError, nearest

if TYPE_CHECKING:
    from lightning_pbrl.envs.episodic import Episodic

TASKS = {"Lift": ("Lift", 10), "Can": ("PickPlaceCan", 14), "Square": ("NutAssemblySquare", 14)}
"""robosuite's name of each task, and the size of its observation ``object``."""

SIZES = {
    "robot0_joint_pos": 7,
    "robot0_joint_pos_cos": 7,
    "robot0_joint_pos_sin": 7,
    "robot0_joint_vel": 7,
    "robot0_eef_pos": 3,
    "robot0_eef_quat": 4,
    "robot0_gripper_qpos": 2,
    "robot0_gripper_qvel": 2,
}
"""Size of the robot's observations by key, the same in every task."""

CURE = (
    "robosuite needs an environment of its own: install requirements/robomimic.txt in a new one, and lightning-pbrl "
    "without its dependencies (pip install --no-deps), and evaluate there with `lightning-pbrl test`."
)


class Robosuite(Simulator):
    """robosuite task with the observations of robomimic's low-dimensional data.

    Args:
        task: Lift, Can or Square.
        obs_keys: observed keys, concatenated in this order; None for robomimic's nine keys, object first. ``object`` is
            robosuite's ``object-state``.
        horizon: steps per episode; robomimic evaluates with 500.
    """

    packages = ("robosuite", "mujoco")

    def __init__(self, task: str, obs_keys: list[str] | None = None, horizon: int = 500) -> None:
        if task not in TASKS:
            raise UserError(f"There is no robosuite task {task!r} here; {nearest(task, TASKS)}")
        self.name = self.task = task
        self.env_name, size = TASKS[task]
        sizes = {"object": size, **SIZES}
        self.obs_keys = list(OBS_KEYS if obs_keys is None else obs_keys)
        for key in self.obs_keys:
            if key not in sizes:
                raise UserError(f"{task} has no observation {key!r}; {nearest(key, sizes)}")
        self.horizon = check_horizon(horizon)
        self.obs_dim, self.action_dim = sum(sizes[key] for key in self.obs_keys), 7

    def make(self, render: bool = False) -> Episodic:
        """Build the environment; see :meth:`Simulator.make`.

        Raises:
            UserError: if robosuite is not installed.
        """
        log = logging.getLogger("robosuite_logs")  # it reports missing extras, and its controller at every reset
        log.disabled = True
        robosuite = need("robosuite", CURE)
        from lightning_pbrl.envs.episodic import Episodic

        env = robosuite.make(
            self.env_name,
            robots="Panda",
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            use_object_obs=True,
            reward_shaping=False,
            control_freq=20,
            ignore_done=True,  # the horizon is ours
            hard_reset=True,  # the cube's size is drawn when the model is built
        )
        return Episodic(self, _Panda(env, self.obs_keys), render)

    def describe(self) -> dict[str, Any]:
        """Return class name and settings."""
        return {"simulator": "Robosuite", "task": self.task, "obs_keys": self.obs_keys, "horizon": self.horizon}


class _Panda:
    """Physics of one robosuite task (see :class:`lightning_pbrl.envs.base.Physics`)."""

    camera: str | int = "agentview"

    def __init__(self, env: Any, obs_keys: Sequence[str]) -> None:
        self.env = env
        self.keys = ["object-state" if key == "object" else key for key in obs_keys]

    @property
    def model(self) -> Any:
        return self.env.sim.model._model

    @property
    def data(self) -> Any:
        return self.env.sim.data._data

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        # In place, because the samplers of object poses hold this very generator.
        self.env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        seen = self.env.reset()
        self.model.geom_rgba[self.model.geom_group == 0, 3] = 0.0  # videos show the bodies, not their coloured collision shapes
        return self._flat(seen), {"success": 0.0}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        seen, reward, _, info = self.env.step(action)
        solved = reward > 0.0
        return self._flat(seen), float(reward), solved, {**info, "success": float(solved)}

    def _flat(self, seen: dict[str, Array]) -> Array:
        return np.concatenate([seen[key] for key in self.keys])
