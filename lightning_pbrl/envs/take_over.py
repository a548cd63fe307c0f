"""Interventions in data collection: the scripted expert takes over from a behaviour that is stuck."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lightning_pbrl.envs.base import Array, Expert, Simulator
from lightning_pbrl.envs.behaviour import Actor, Behaviour
from lightning_pbrl.errors import UserError


@dataclass(frozen=True)
class TakeOver:
    """Rule by which a script takes over from a behaviour that is stuck.

    The behaviour is stuck if the largest true reward of a step of its episode has not risen by more than ``margin`` for
    ``patience`` steps, and the task is not solved at this step. The script then acts for ``steps`` steps. Afterwards the
    behaviour goes on, and the count begins anew.

    Args:
        patience: steps without progress after which the script takes over, at least 1.
        margin: smallest rise of the reward that counts as progress, environment units.
        steps: steps of the script, at least 1.
        expert: true for the scripted expert of the simulator's own task; a task name for that of another task.
    """

    patience: int = 30
    margin: float = 0.1
    steps: int = 50
    expert: bool | str = True

    def __post_init__(self) -> None:
        for name in ("patience", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"take_over.{name} is {getattr(self, name)}: give at least 1 step.")
        if not 0.0 <= self.margin < float("inf"):
            raise UserError(f"take_over.margin is {self.margin}: give a number from 0 up.")
        if self.expert is False:
            raise UserError("take_over.expert is false: name who takes over, true for the expert of the task.")

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain JSON types."""
        return asdict(self)

    def check(self, simulator: Simulator, mixture: list[Behaviour]) -> None:
        """Check that ``simulator`` has such an expert.

        Raises:
            UserError: if it has none, or a behaviour sees a twin, which would miss the script's actions.
        """
        self._expert(simulator)
        if any(behaviour.twin != "none" for behaviour in mixture):
            raise UserError("A behaviour with a twin needs every action of its episode: leave take_over out, or the twin.")

    def begin(self, simulator: Simulator) -> Supervisor:
        """Watch one episode of ``simulator``."""
        return Supervisor(self, self._expert(simulator))

    def _expert(self, simulator: Simulator) -> Expert:
        return simulator.expert(None if self.expert is True else str(self.expert))


class Supervisor:
    """Supervisor of one episode: it passes the behaviour's actions on until it takes over.

    Attributes:
        spans: who took over, ``[first step, step after the last, "script"]`` each, counted from the episode's first step.
    """

    def __init__(self, rule: TakeOver, expert: Expert) -> None:
        self.rule, self.expert = rule, expert
        self.spans: list[list[Any]] = []
        self._step = self._left = self._since = 0
        self._best, self._solved = -np.inf, False

    def act(self, actor: Actor, info: dict[str, Any]) -> Array:
        """Return the action of behaviour or script, (A,), float32, in [-1, 1], given the environment's last ``info``."""
        if not self._left and self._since >= self.rule.patience and not self._solved:
            self._left = self.rule.steps
            self.spans.append([self._step, self._step, "script"])
        self._step += 1
        if not self._left:
            return actor.act(info)
        self._left, self._since = self._left - 1, -1  # counted from the first step that the behaviour makes again
        self.spans[-1][1] = self._step
        return np.clip(self.expert.act(info["full_obs"]), -1.0, 1.0).astype(np.float32)

    def see(self, reward: float, success: float) -> None:
        """Take the true reward of the step, and whether the task was solved at it."""
        self._since = 0 if reward > self._best + self.rule.margin and self._since >= 0 else self._since + 1
        self._best, self._solved = max(self._best, reward), success > 0.0
