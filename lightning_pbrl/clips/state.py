"""Description of a task's state as a function of its observation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lightning_pbrl.envs.base import Array
from lightning_pbrl.errors import UserError

TOLERANCE = 1e-3
"""Difference of positions, observed again, beyond which an observation is not one of this simulator."""


class StateOf(NamedTuple):
    """Functions between the observations and the states of one task.

    Attributes:
        rebuild: running physics and observation (O,), float64 -> positions (nq,) and velocities (nv,), new arrays.
        observe: running physics -> observation of its present state, (O,).
        positions: number of first entries of an observation that depend on positions alone.
        unseen: positions that no observation shows (the place along the ground).
        largest: absolute value at which observed velocities are clipped.
    """

    rebuild: Callable[[Any, Array], tuple[Array, Array]]
    observe: Callable[[Any], Array]
    positions: int
    unseen: tuple[int, ...] = ()
    largest: float = float("inf")


def copied(hidden: int) -> Callable[[Any, Array], tuple[Array, Array]]:
    """Return the ``rebuild`` of a task that observes all but ``hidden`` first positions, then all velocities."""

    def rebuild(physics: Any, obs: Array) -> tuple[Array, Array]:
        nq, nv = physics.model.nq, physics.model.nv
        seen = nq - hidden
        return np.concatenate([np.zeros(hidden), obs[:seen]]), obs[seen : seen + nv].copy()

    return rebuild


def compare(state: StateOf, physics: Any, recorded: Array, name: str) -> None:
    """Check that the present state is observed as recorded, as far as positions go.

    Args:
        state: functions of the task.
        physics: running physics, in the state.
        recorded: observation in the data, (O,).
        name: name of the simulator, for the message.

    Raises:
        UserError: if an entry differs.
    """
    seen = np.asarray(state.observe(physics), np.float64)
    apart = np.abs(seen[: state.positions] - recorded[: state.positions])
    wrong = ~(apart <= TOLERANCE * (1.0 + np.abs(seen[: state.positions])))
    if wrong.any():
        entry = int(wrong.argmax())
        raise UserError(
            f"Entry {entry} of an observation is {recorded[entry]:g}, and {name} observes {seen[entry]:g} in the state that was "
            "rebuilt from it: the data are of another simulator or were normalised; set data.simulator to theirs, or ask for "
            "plots of the observations (plots=True)."
        )
