"""Rewards of OGBench's single tasks, computed from the simulator states in its files.

A task is a list of conditions on the state before a step, such as "cube 2 is within 4 cm of its place". The reward is the number
of met conditions minus their number, at most 0; where all are met, the task is solved and there is no future value.

Source: Park et al., "OGBench: Benchmarking Offline Goal-Conditioned RL", ICLR 2025 (arXiv 2410.20092); ogbench 1.2.2,
``relabel_utils.py``. The goals are in :mod:`lightning_pbrl.data.ogbench_goals`, so that neither the package nor its simulator is
needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_pbrl.data.guard import listed
from lightning_pbrl.data.ogbench_goals import CUBES, MAZES, PUZZLE_DEFAULTS, PUZZLES, SCENES, SOCCER
from lightning_pbrl.errors import UserError

CELL, FIRST = 4.0, -4.0
"""Side of a maze's cell, metres, and the coordinate of cell 0's middle."""
NEAR = 0.04
"""Distance within which a cube, a drawer or a window is in its place, metres."""
ARM, CUBE, BALL = 14, 7, 15
"""Entries of ``qpos`` before the first cube, of a cube, and before the ball."""

_NAME = re.compile(r"(?P<start>.+)-[a-z]+-singletask(?P<task>-task(?P<number>[1-5]))?-v0")
_FILE = re.compile(r"(?P<start>(visual-)?(\w+maze-\w+|antsoccer-\w+|cube-\w+|scene|puzzle-\w+))-[a-z]+-v0(-val)?\.npz")
_MAZE = re.compile(r"(?:visual-)?(point|ant|humanoid)maze-(\w+)")
_SOCCER = re.compile(r"(?:visual-)?antsoccer-(\w+)")
_MANIPULATION = re.compile(r"(?:visual-)?(cube|scene|puzzle)(?:-(\w+))?")

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
        UserError: for another name, or an environment that OGBench does not have.
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
    elif found := _MANIPULATION.fullmatch(start):
        return _manipulation(found[1], found[2], number, name)
    else:
        raise UserError(f"OGBench has no environment {start!r}, as {name} says: correct the name, or set task to null.")
    size = maze[maze.lastindex or 1]
    row, column = _known(cells, size, name)[(number or default) - 1]
    return Task(("qpos",), [([at, at + 1], np.array([[FIRST + CELL * column, FIRST + CELL * row]]), distance)])


def check_file(name: str, path: Path) -> None:
    """Check that a file with one of OGBench's names is of a task's environment; other names say nothing.

    Args:
        name: of the task, as :func:`task_of` knows it.
        path: file whose states would be compared with the task's goal; states of another maze or scene have the same shape.

    Raises:
        UserError: if the name is that of another environment.
    """
    match, file = _NAME.fullmatch(name), _FILE.fullmatch(path.name)
    if match and file and (there := file["start"].removeprefix("visual-")) != match["start"].removeprefix("visual-"):
        raise UserError(f"{path} is of {there} by its name, and {name} of another environment: correct path or task.")


def _manipulation(kind: str, size: str | None, number: int, name: str) -> Task:
    """Return task ``number`` of cubes, a scene or a puzzle; 0 for the default."""
    if kind == "puzzle":
        states = _known(PUZZLES, size, name)[(number or PUZZLE_DEFAULTS[str(size)]) - 1]
        return Task(("button_states",), [], _states(states))
    at = (number or 2) - 1
    if kind == "cube":
        return Task(("qpos",), [_cubes(_known(CUBES, size, name)[at])])
    cube, states, drawer, window = _known({None: SCENES}, size, name)[at]
    behind = ARM + CUBE + len(states)
    near = [_cubes(cube), ([behind, behind + 1], np.array([[drawer], [window]]), NEAR)]
    return Task(("qpos", "button_states"), near, _states(states))


def _known(goals: Mapping[Any, tuple[Any, ...]], size: str | None, name: str) -> tuple[Any, ...]:
    """Return the goals of an environment's five tasks."""
    if size not in goals:
        raise UserError(f"OGBench has no environment of size {size!r}, as {name} says: give one of {listed(goals)}.")
    return goals[size]


def _cubes(text: str) -> tuple[list[int], NDArray[np.float64], float]:
    """Return the condition that each cube is in its place."""
    target = np.array([place.split() for place in text.split(",")], dtype=np.float64)
    return [ARM + CUBE * cube + axis for cube in range(len(target)) for axis in range(3)], target, NEAR


def _states(text: str) -> NDArray[np.int64]:
    return np.array([int(state) for state in text.replace(" ", "")])
