"""Behaviour policies for data collection: a scripted expert, degraded in documented ways.

Offline preference learning needs episodes of every quality. If all are good, cloning them is enough and the reward does not
matter; if all are bad, nothing can be learned. A mixture of :class:`Behaviour` spreads the returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from lightning_pbrl.envs.base import Array, Expert, Simulator
from lightning_pbrl.envs.metaworld import SCENE, MetaWorld
from lightning_pbrl.envs.twin import Twin
from lightning_pbrl.errors import UserError


@dataclass(frozen=True)
class Behaviour:
    """Behaviour policy of an episode: a scripted expert with perturbations.

    Each perturbation adds its own kind of failure. ``noise`` blurs the path, ``bias`` bends it (one offset for the whole
    episode), ``random`` interrupts it. The two shifts aim it at the wrong place, and a twin blinds it. At 0 or none a
    perturbation is off.

    Args:
        weight: relative frequency of this behaviour among the weights of the mixture; 0 for never.
        expert: true for the scripted expert of the simulator's own task; a task name for the expert of that other
            task of the same simulator; false for uniformly random actions.
        noise: standard deviation of Gaussian noise added to every action, in action units (actions span 2).
        bias: standard deviation of a Gaussian offset added to the action, drawn once per episode, in action units.
        random: probability, 0 to 1, that a stretch of ``hold`` steps repeats one uniformly drawn action.
        hold: steps per stretch, at least 1.
        goal_shift: standard deviation per axis of a displacement of the goal that the expert observes,
            drawn once per episode, metres. Experts that never use the goal (drawer-open, window-open ...)
            ignore it.
        object_shift: standard deviation of the same displacement for the object positions that the expert observes.
        goal_offset: fixed displacement of the goal that the expert observes, x y z, metres; None for none. All such episodes
            aim at one wrong place, which cloning does not average out.
        twin: second environment that the expert observes instead, stepped with the same actions. "goal" is its own task with
            another object and goal, "task" a random other task (IPL's "within-env" and "cross-env" data). Meta-World only.
    """

    weight: float = 1.0
    expert: bool | str = True
    noise: float = 0.0
    bias: float = 0.0
    random: float = 0.0
    hold: int = 1
    goal_shift: float = 0.0
    object_shift: float = 0.0
    twin: Literal["none", "goal", "task"] = "none"
    goal_offset: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "noise", "bias", "random", "goal_shift", "object_shift"):
            value = getattr(self, name)
            if not 0.0 <= value < float("inf"):
                raise UserError(f"A behaviour's {name} is {value}; give a number from 0 up.")
        if self.goal_offset is not None and (np.shape(self.goal_offset) != (3,) or not np.isfinite(self.goal_offset).all()):
            raise UserError(f"A behaviour's goal_offset is {self.goal_offset}; give three numbers, metres.")
        if self.random > 1.0:
            raise UserError(f"A behaviour's random is {self.random}; it is a probability, from 0 to 1.")
        if self.hold < 1:
            raise UserError(f"A behaviour's hold is {self.hold}; give at least 1 step.")
        if self.twin != "none" and self.expert is not True:
            raise UserError(f"A behaviour has twin: {self.twin} and expert: {self.expert}; a twin needs expert: true.")

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain JSON types.

        Newer settings appear only if they are set, so older collections keep their names.
        """
        settings = asdict(self)
        if self.twin == "none":
            del settings["twin"]
        elif self.twin == "task":
            settings["scene"] = SCENE  # whatever task is recorded, the other may be one of the rebuilt ones
        del settings["goal_offset"]
        return settings if self.goal_offset is None else {**settings, "goal_offset": [float(x) for x in self.goal_offset]}

    def check(self, simulator: Simulator) -> None:
        """Check that ``simulator`` supports this behaviour.

        Raises:
            UserError: if it has no such expert, or no twin.
        """
        self._expert(simulator)
        if self.twin != "none" and not isinstance(simulator, MetaWorld):
            raise UserError(f"A behaviour has twin: {self.twin}, which only Meta-World has, not {simulator.name}; leave it out.")

    def begin(self, simulator: Simulator, rng: np.random.Generator) -> Actor:
        """Start the behaviour in one episode of ``simulator``, with all its randomness from ``rng``."""
        expert = self._expert(simulator)
        twin = None
        if isinstance(simulator, MetaWorld) and self.twin != "none":
            twin = Twin(simulator, self.twin == "task", rng)
            expert = simulator.expert(twin.task)
        return Actor(self, expert, simulator.action_dim, rng, twin)

    def _expert(self, simulator: Simulator) -> Expert | None:
        if self.expert is False:
            return None
        return simulator.expert(None if self.expert is True else self.expert)


class Actor:
    """Policy that follows one :class:`Behaviour` during one episode.

    Everything that is fixed for the episode is drawn at construction.
    """

    def __init__(
        self, behaviour: Behaviour, expert: Expert | None, action_dim: int, rng: np.random.Generator, twin: Twin | None = None
    ) -> None:
        self._behaviour, self._expert, self._size, self._rng, self._twin = behaviour, expert, action_dim, rng, twin
        self._bias = behaviour.bias * rng.standard_normal(action_dim)
        self._goal_shift = behaviour.goal_shift * rng.standard_normal(3) + np.array(behaviour.goal_offset or (0.0, 0.0, 0.0))
        self._object_shift = behaviour.object_shift * rng.standard_normal(3)
        self._shifted = behaviour.goal_shift > 0.0 or behaviour.object_shift > 0.0 or behaviour.goal_offset is not None
        self._step = 0
        self._repeated: Array | None = None

    def act(self, info: dict[str, Any]) -> Array:
        """Return the next action, (A,), float32, in [-1, 1], given the environment's last ``info``."""
        behaviour, rng = self._behaviour, self._rng
        if self._expert is None:
            return rng.uniform(-1.0, 1.0, self._size).astype(np.float32)
        if behaviour.random > 0.0 and self._step % behaviour.hold == 0:
            self._repeated = rng.uniform(-1.0, 1.0, self._size) if rng.random() < behaviour.random else None
        self._step += 1
        if self._repeated is not None:
            return self._moved(self._repeated.astype(np.float32))
        seen = info["full_obs"] if self._twin is None else self._twin.full_obs
        action = self._expert.act(self._shown(seen)) + self._bias
        if behaviour.noise > 0.0:
            action = action + behaviour.noise * rng.standard_normal(self._size)
        return self._moved(np.clip(action, -1.0, 1.0).astype(np.float32))

    def _moved(self, action: Array) -> Array:
        """Return ``action`` after the twin has taken it, too."""
        if self._twin is not None:
            self._twin.step(action)
        return action

    def _shown(self, full_obs: Array) -> Array:
        """Return the observation that the expert sees."""
        if self._expert is None or not self._shifted:
            return full_obs
        return self._expert.shifted(full_obs, self._goal_shift, self._object_shift)


def shares(mixture: Sequence[Behaviour]) -> Array:
    """Return the probability of each behaviour, (len(mixture),).

    Raises:
        UserError: for an empty mixture or one whose weights are all zero.
    """
    weights = np.array([behaviour.weight for behaviour in mixture], dtype=np.float64)
    if not weights.sum() > 0.0:
        raise UserError("The mixture has no behaviour with a positive weight; list one, for instance '- noise: 0.3'.")
    return weights / weights.sum()
