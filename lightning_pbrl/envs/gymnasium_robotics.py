"""AntMaze, the Adroit hand and the Franka kitchen of Gymnasium-Robotics, observed and scored as in D4RL's data files.

Gymnasium-Robotics (github.com/Farama-Foundation/Gymnasium-Robotics) maintains D4RL's environments on today's MuJoCo. It made
changes that affect a policy learned from D4RL's files (arXiv 2004.07219). They are undone here:

=========  ====================================================================================================================
AntMaze    D4RL's 29 numbers (qpos 15, qvel 14; no goal), its maze (x right, y down, the origin at the start), its ant
           (30 Nm motors and 0.1 s per step, not 150 and 0.05; legs that weigh 4 to 7 % less, see
           :mod:`~lightning_pbrl.envs.d4rl_physics`), its start (at the origin, noise 0.1) and goals (drawn
           anew in each episode within 1.5 m of the goal cell's centre; reached within 0.5 m, which ends the episode)
Adroit     D4RL's layout already; a dropped pen ends the episode, 100 steps of pen; door, hammer and relocate subtract 0.1 of
           the distance from palm to object, where version 1 of today's environments adds it
Kitchen    D4RL's 60 numbers (9 robot and 21 object positions, 30 goal positions, zero where there is no goal), its 10 % noise
=========  ====================================================================================================================

Differences: MuJoCo itself is another version, and episodes were not compared with D4RL's step for step. Adroit's inertias are
given in its files. Those of the kitchen's kettle and microwave door are up to 0.3 % larger today; their masses are the same.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_pbrl.envs.base import Array, OverEnv, Simulator, check_horizon, need
from lightning_pbrl.envs.d4rl_physics import restore_bodies
from lightning_pbrl.envs.models import models_read_once
from lightning_pbrl.errors import UserError, nearest

if TYPE_CHECKING:
    from lightning_pbrl.envs.episodic import Episodic

CURE = "install it with pip install 'lightning-pbrl[robotics]'."


class _Task(NamedTuple):
    """Specification of a task, known without building it.

    ``detail`` is the maze, the position of palm minus object, or the subtasks.
    """

    env_id: str
    obs_dim: int
    action_dim: int
    horizon: int
    detail: Any


_MAZES = {
    "umaze": ("#####", "#r..#", "###.#", "#g..#", "#####"),
    "medium": ("########", "#r.##..#", "#..#...#", "##...###", "#..#...#", "#.#..#.#", "#...#.g#", "########"),
    "large": (
        "############",
        "#r...#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#.g.#",
        "############",
    ),
}
"""Walls #, start r and goal g, seen from above with D4RL's y pointing down."""

_SLIDE = ("microwave", "kettle", "light switch", "slide cabinet")
_BURNER = ("microwave", "kettle", "bottom burner", "light switch")

TASKS = {
    "antmaze-umaze": _Task("AntMaze_UMaze-v5", 29, 8, 700, _MAZES["umaze"]),
    "antmaze-medium": _Task("AntMaze_UMaze-v5", 29, 8, 1000, _MAZES["medium"]),
    "antmaze-large": _Task("AntMaze_UMaze-v5", 29, 8, 1000, _MAZES["large"]),
    "pen": _Task("AdroitHandPen-v1", 45, 24, 100, None),
    "hammer": _Task("AdroitHandHammer-v1", 46, 26, 200, lambda obs: obs[33:36] - obs[36:39]),
    "door": _Task("AdroitHandDoor-v1", 39, 28, 200, lambda obs: obs[35:38]),
    "relocate": _Task("AdroitHandRelocate-v1", 39, 30, 200, lambda obs: obs[30:33]),
    "kitchen-complete": _Task("FrankaKitchen-v1", 60, 9, 280, _SLIDE),
    "kitchen-partial": _Task("FrankaKitchen-v1", 60, 9, 280, _SLIDE),
    "kitchen-mixed": _Task("FrankaKitchen-v1", 60, 9, 280, _BURNER),
}
"""Tasks by D4RL's names, without the parts that describe only the recorded data."""


class GymnasiumRobotics(Simulator):
    """AntMaze, Adroit or kitchen task as in D4RL's data (extra ``robotics``).

    Success is the ant at its goal, the hand's task achieved, or all four kitchen subtasks done. A kitchen return counts subtasks.

    Args:
        task: antmaze-umaze, antmaze-medium, antmaze-large; pen, hammer, door, relocate; kitchen-complete, kitchen-partial,
            kitchen-mixed.
        horizon: steps per episode; null for D4RL's: 700 and 1000, 200 (pen 100), 280. Returns of other horizons have no score.
    """

    packages = ("gymnasium-robotics", "gymnasium", "mujoco")
    d4rl_physics = True

    def __init__(self, task: str, horizon: int | None = None) -> None:
        if task not in TASKS:
            raise UserError(f"There is no task {task!r} of D4RL in Gymnasium-Robotics; {nearest(task, TASKS)}")
        self.name = self.task = task
        _, self.obs_dim, self.action_dim, usual, _ = TASKS[task]
        self.horizon = usual if horizon is None else check_horizon(horizon)
        self.d4rl_task = task if self.horizon == usual else None

    def make(self, render: bool = False) -> Episodic:
        """Build the environment; see :meth:`Simulator.make`.

        Raises:
            UserError: if gymnasium-robotics is not installed.
        """
        robotics = need("gymnasium_robotics", CURE)
        import gymnasium

        from lightning_pbrl.envs.episodic import Episodic

        gymnasium.register_envs(robotics)
        task = TASKS[self.task]
        family = _AntMaze if "maze" in self.task else _Kitchen if "kitchen" in self.task else _Adroit
        return Episodic(self, family(gymnasium, task), render)

    def describe(self) -> dict[str, Any]:
        """Return class name and settings."""
        bodies = {"physics": "d4rl"} if "maze" in self.task else {}  # absent from data of versions that did not restore them
        return {"simulator": "GymnasiumRobotics", "task": self.task, "horizon": self.horizon, **bodies}


class _Robot(OverEnv):
    """Common base of the three families (see :class:`lightning_pbrl.envs.base.Physics`)."""

    camera: str | int = -1

    def __init__(self, gymnasium: Any, task: _Task, **settings: Any) -> None:
        with models_read_once():
            self.env, self.task = gymnasium.make(task.env_id, **settings).unwrapped, task


class _AntMaze(_Robot):
    """Ant in a maze; cells are 4 m wide."""

    camera: str | int = "track"

    def __init__(self, gymnasium: Any, task: _Task) -> None:
        rows = [[1 if cell == "#" else 0 if cell == "." else cell for cell in row] for row in task.detail]
        super().__init__(gymnasium, task, maze_map=rows[::-1])  # Gymnasium-Robotics' y points up
        restore_bodies(self.model, self.env.tmp_xml_file_path)
        os.unlink(self.env.tmp_xml_file_path)
        self.ant = self.env.ant_env
        self.model.opt.timestep = 0.02
        self.model.actuator_gear[:, 0] = 30.0
        self.model.geom_solimp[:, :3] = 0.8, 0.8, 0.01
        self.env.position_noise_range, self.ant._reset_noise_scale = 0.0, 0.1
        self.origin = np.array([6.0 - 2.0 * len(rows[0]), 6.0 - 2.0 * len(rows)])  # of D4RL, there: the start's cell (1, 1)
        (self.goal_cell,) = ((4.0 * column - 4.0, 4.0 * row - 4.0) for row, cells in enumerate(rows) for column in _at(cells))

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        self.env.reset(seed=seed)
        noise = self.env.np_random.uniform(0.0, (1.0, 0.5), (2, 2)).sum(1)
        self.goal = self.goal_cell + noise
        return self._obs(), {"goal": self.goal}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        self.ant.do_simulation(action, self.ant.frame_skip)
        obs = self._obs()
        solved = bool(np.linalg.norm(obs[:2] - self.goal) <= 0.5)
        return obs, float(solved), solved, {"success": float(solved)}

    def _obs(self) -> Array:
        obs = np.concatenate([self.data.qpos[:15], self.data.qvel[:14]])
        obs[:2] -= self.origin
        return obs


def _at(cells: list[Any]) -> list[int]:
    """Return the columns of a row that hold the goal."""
    return [column for column, cell in enumerate(cells) if cell == "g"]


class _Adroit(_Robot):
    """Adroit hand."""

    camera: str | int = "vil_camera"

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        return self.env.reset(seed=seed)

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        obs, reward, _, _, info = self.env.step(action)
        info = {"success": float(info["success"])}
        if self.task.detail is None:  # pen: the height of the pen's centre
            return obs, float(reward), bool(obs[26] < 0.075), info
        return obs, float(reward) - 0.2 * float(np.linalg.norm(self.task.detail(obs))), False, info


class _Kitchen(_Robot):
    """Franka kitchen."""

    def __init__(self, gymnasium: Any, task: _Task) -> None:
        settings = {"tasks_to_complete": list(task.detail), "robot_noise_ratio": 0.1, "object_noise_ratio": 0.1}
        super().__init__(gymnasium, task, **settings)
        from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

        self.goal = np.zeros(30)
        for name in task.detail:
            self.goal[OBS_ELEMENT_INDICES[name]] = OBS_ELEMENT_GOALS[name]

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        return self._obs(self.env.reset(seed=seed)[0]), {}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        seen, reward, terminated, _, _ = self.env.step(action)
        return self._obs(seen), float(reward), bool(terminated), {"success": float(terminated)}

    def _obs(self, seen: dict[str, Any]) -> Array:
        """Return the observation from robot positions 9 and velocities 9, object positions 21 and velocities 20."""
        flat = seen["observation"]
        return np.concatenate([flat[:9], flat[18:39], self.goal])
