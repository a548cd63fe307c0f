"""Rewards of OGBench's single tasks, computed from the simulator states in its files.

A task is a list of conditions on the state before a step, such as "cube 2 is within 4 cm of its place". The reward is the number
of met conditions minus their number, at most 0; where all are met, the task is solved and there is no future value.

Source: Park et al., "OGBench: Benchmarking Offline Goal-Conditioned RL", ICLR 2025 (arXiv 2410.20092); ogbench 1.2.2,
``relabel_utils.py`` (rules), ``locomaze/maze.py`` (cells of the mazes). Goals of the manipulation tasks are read from the
installed package.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_pbrl.data.guard import reason
from lightning_pbrl.errors import UserError

CELL, FIRST = 4.0, -4.0
"""Side of a maze's cell, metres, and the coordinate of cell 0's middle."""
MAZES = {
    "medium": ((6, 6), (1, 6), (4, 2), (6, 1), (1, 1)),
    "large": ((7, 10), (7, 1), (1, 10), (5, 4), (5, 4)),
    "giant": ((10, 14), (10, 1), (1, 1), (5, 12), (3, 8)),
    "teleport": ((7, 1), (7, 10), (7, 10), (7, 10), (7, 1)),
}
"""Row and column of the goal's cell in tasks 1 to 5."""
SOCCER = {
    "arena": ((5, 2), (2, 2), (6, 6), (6, 1), (1, 6)),
    "medium": ((6, 6), (1, 1), (6, 5), (5, 3), (1, 6)),
}
"""The same of the ball's goal."""
NEAR = 0.04
"""Distance within which a cube, a drawer or a window is in its place, metres."""
ARM, CUBE, BALL = 14, 7, 15
"""Entries of ``qpos`` before the first cube, of a cube, and before the ball."""

_NAME = re.compile(r"(?P<start>.+)-[a-z]+-singletask(?P<task>-task(?P<number>[1-5]))?-v0")
_MAZE = re.compile(r"(?:visual-)?(point|ant|humanoid)maze-(\w+)")
_SOCCER = re.compile(r"(?:visual-)?antsoccer-(\w+)")

Arrays = Mapping[str, NDArray[Any]]


class Task(NamedTuple):
    """Single task.

    Attributes:
        keys: arrays of the file that it reads, ``qpos`` or ``button_states``.
        near: entries of ``qpos``, their target positions (k, d), and the distance within which each of the k is there.
        buttons: target states of the buttons, (b,); None without.
    """

    keys: tuple[str, ...]
    near: list[tuple[list[int], NDArray[np.float64], float]]
    buttons: NDArray[np.int64] | None = None

    def met(self, arrays: Arrays) -> NDArray[np.bool_]:
        """Return which conditions are met in each state, (n, conditions).

        Args:
            arrays: ``qpos`` (n, q) and ``button_states`` (n, b), as far as ``keys`` names them.
        """
        parts = []
        for places, target, distance in self.near:
            found = arrays["qpos"][:, places].reshape(-1, *target.shape)
            parts.append(np.linalg.norm(found - target, axis=-1) <= distance)
        if self.buttons is not None:
            parts.append(arrays["button_states"] == self.buttons)
        return np.concatenate(parts, axis=1)

    def width(self) -> dict[str, int]:
        """Return the least number of entries that each array must have."""
        return {
            "qpos": 1 + max((max(places) for places, _, _ in self.near), default=-1),
            "button_states": 0 if self.buttons is None else len(self.buttons),
        }


def task_of(name: str) -> Task:
    """Return the task of a single-task data set.

    Args:
        name: for instance ``antmaze-large-navigate-singletask-task2-v0``; without ``-taskK`` the default task.

    Raises:
        UserError: for another name, a maze that OGBench does not have, or a manipulation task without the package ``ogbench``.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"OGBench has no single task {name!r}: give ENV-DATA-singletask-taskK-v0, such as "
            "antmaze-large-navigate-singletask-task2-v0, or null for a data set without rewards."
        )
    start, number = match["start"], int(match["number"] or 0)
    if maze := _MAZE.fullmatch(start):
        cells, at, default, distance = MAZES, 0, 1, 1.0 if maze[1] == "point" else 0.5
    elif maze := _SOCCER.fullmatch(start):
        cells, at, default, distance = SOCCER, BALL, 4, 0.5
    else:
        return _in_package(start, f"{start}-singletask{match['task'] or ''}-v0")
    size = maze[maze.lastindex or 1]
    if size not in cells:
        raise UserError(f"OGBench has no maze {size!r}, as {name} says: give one of {', '.join(cells)}.")
    row, column = cells[size][(number or default) - 1]
    return Task(("qpos",), [([at, at + 1], np.array([[FIRST + CELL * column, FIRST + CELL * row]]), distance)])


def _in_package(start: str, env_id: str) -> Task:
    """Return a manipulation task, with the targets that the installed package sets after a reset."""
    try:
        import gymnasium
        import ogbench.manipspace  # noqa: F401 - registers the environments
    except ModuleNotFoundError as error:
        raise UserError(
            f"The goal of {env_id} is known to the package ogbench alone, and {error.name} is not installed: install it with "
            "pip install 'lightning-pbrl[ogbench]', or set task to null."
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the types of its spaces
            env = gymnasium.make(env_id)
            env.reset(seed=0)
    except Exception as error:
        raise UserError(f"ogbench cannot build {env_id} ({reason(error)}): check the name of the task.") from error
    inside: Any = env.unwrapped
    found = _targets(start, inside)
    env.close()
    return found


def _targets(start: str, env: Any) -> Task:
    """Read the targets of an environment that has been reset."""
    cubes = int(getattr(env, "_num_cubes", 0))
    near: list[tuple[list[int], NDArray[np.float64], float]] = []
    if cubes:
        places = [ARM + CUBE * cube + axis for cube in range(cubes) for axis in range(3)]
        near.append((places, np.array(env._data.mocap_pos, dtype=np.float64), NEAR))
    buttons = getattr(env, "_target_button_states", None)
    if "scene" in start:
        behind = ARM + CUBE * cubes + int(env._num_buttons)
        near.append(([behind, behind + 1], np.array([[env._target_drawer_pos], [env._target_window_pos]]), NEAR))
    keys = ("qpos",) * bool(near) + ("button_states",) * (buttons is not None)
    return Task(keys, near, None if buttons is None else np.array(buttons))
