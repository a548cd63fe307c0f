"""States of Gymnasium's MuJoCo tasks, version 5, from their observations (arXiv 2407.17032, and the tasks' ``_get_obs``).

Not rebuilt: Pusher, whose observation has centres of mass in place of joints.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_pbrl.clips.state import StateOf, copied
from lightning_pbrl.envs.base import Array

HIDDEN = {"Ant-v5": 2, "HalfCheetah-v5": 1, "Hopper-v5": 1, "Humanoid-v5": 2, "HumanoidStandup-v5": 2, "Swimmer-v5": 2}
HIDDEN |= {"Walker2d-v5": 1, "InvertedPendulum-v5": 0}
"""Number of first positions that are left out; then come the other positions and all velocities, in the model's order."""

POSITIONS = {"Ant-v5": 13, "HalfCheetah-v5": 8, "Hopper-v5": 5, "Humanoid-v5": 22, "HumanoidStandup-v5": 22, "Swimmer-v5": 3}
POSITIONS |= {"Walker2d-v5": 8, "InvertedPendulum-v5": 2}
"""Number of observed positions."""

CLIPPED = ("Hopper-v5", "Walker2d-v5")
"""Tasks of these that observe velocities clipped to [-10, 10]."""


def gymnasium_state(env_id: str) -> StateOf | None:
    """Return the functions of a task; None if its observation does not determine its positions.

    Velocities beyond 10 are clipped in observations of Hopper, Walker2d and InvertedDoublePendulum; positions are exact.
    """
    if env_id in HIDDEN:
        hidden = HIDDEN[env_id]
        largest = 10.0 if env_id in CLIPPED else float("inf")
        return StateOf(copied(hidden), _observe, POSITIONS[env_id], tuple(range(hidden)), largest)
    if env_id == "InvertedDoublePendulum-v5":
        return StateOf(_double_pendulum, _observe, 5, largest=10.0)
    return StateOf(_reacher, _observe, 6) if env_id == "Reacher-v5" else None


def _double_pendulum(physics: Any, obs: Array) -> tuple[Array, Array]:
    """Entries: cart, two sines, two cosines, three velocities, constraint force."""
    return np.concatenate([obs[:1], np.arctan2(obs[1:3], obs[3:5])]), obs[5:8].copy()


def _reacher(physics: Any, obs: Array) -> tuple[Array, Array]:
    """Entries: two cosines, two sines, target, two velocities, finger minus target."""
    return np.concatenate([np.arctan2(obs[2:4], obs[:2]), obs[4:6]]), np.concatenate([obs[6:8], np.zeros(2)])


def _observe(physics: Any) -> Array:
    return np.asarray(physics.env._get_obs())
