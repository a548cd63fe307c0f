"""Meta-World's scripted policies, one per task, as plain functions of the full observation."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np

from lightning_pbrl.envs.base import Array, need
from lightning_pbrl.envs.metaworld import CURE, task_name


class Expert:
    """Scripted policy of one Meta-World task, deterministic and without memory.

    Not every expert solves its task in every episode; measure before relying on one.

    Args:
        task: name of the Meta-World task, with or without version suffix.

    Raises:
        UserError: for an unknown task, with the nearest names.
    """

    def __init__(self, task: str) -> None:
        self.task = task_name(task)

    @cached_property
    def _policy(self) -> Any:
        """The package's policy, imported when the expert first acts."""
        return need("metaworld.policies", CURE).ENV_POLICY_MAP[f"{self.task}-v3"]()

    def act(self, full_obs: Array) -> Array:
        """Return the expert's action, (4,), float32, in [-1, 1].

        Args:
            full_obs: observation with the goal, (39,), ``info["full_obs"]`` of :class:`MetaWorld`.
        """
        with warnings.catch_warnings():  # the gains are large on purpose; the action is clipped here
            warnings.filterwarnings("ignore", message="Constant.s. may be too high")
            return np.clip(self._policy.get_action(full_obs), -1.0, 1.0).astype(np.float32)

    def shifted(self, full_obs: Array, goal: Array, thing: Array) -> Array:
        """Return ``full_obs``, (39,), with displaced goal and objects.

        The entries: hand 3, gripper 1, two objects of position 3 and rotation 4, the same 18 one step earlier, goal 3.
        """
        shown = full_obs.copy()
        for first in (4, 11, 22, 29):  # an absent object is all zeros and stays so
            if shown[first : first + 3].any():
                shown[first : first + 3] += thing
        shown[36:39] += goal
        return shown
