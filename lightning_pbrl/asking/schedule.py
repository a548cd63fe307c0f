"""Number of questions of a round by the progress of the run: one class per schedule.

Sources: B-Pref (arXiv 2111.03026) for decreasing and increasing; the repository `MariaGkoulta/rlhf-repo` for spread, where only
training items were counted and 2 % to 8 % more than the budget was spent. Here every question that was asked counts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

ScheduleName = Literal["constant", "decreasing", "increasing", "spread"]


class Progress(NamedTuple):
    """Progress of a run when a round begins that asks.

    Attributes:
        asked: questions of the rounds before.
        rounds_done: rounds that have asked.
        rounds_left: rounds that are still to ask, this one included; None where that is not known.
        env_steps: env steps done.
        planned_env_steps: env steps of the whole run; None for a method that does not act.
    """

    asked: int = 0
    rounds_done: int = 0
    rounds_left: int | None = None
    env_steps: int = 0
    planned_env_steps: int | None = None


class Schedule(ABC):
    """Schedule of the number of questions per round, as long as the budget lasts.

    Attributes:
        follows: what of the progress it must know, beside what was asked.
    """

    follows: ClassVar[Literal["nothing", "env steps", "rounds left"]] = "nothing"

    @abstractmethod
    def size(self, now: Progress) -> int:
        """Return the number of questions of the round that begins."""


@dataclass(frozen=True)
class Constant(Schedule):
    """Constant schedule: ``per_round`` questions."""

    per_round: int

    def size(self, now: Progress) -> int:
        return self.per_round


@dataclass(frozen=True)
class Decreasing(Schedule):
    """Decreasing schedule (B-Pref): ``per_round`` x (T - s) / T after s of T env steps, rounded down, at least 1.

    When the steps are done, a hundredth of ``per_round``.
    """

    per_round: int
    follows = "env steps"

    def size(self, now: Progress) -> int:
        total = now.planned_env_steps or 0
        left = total - now.env_steps
        return max(1, self.per_round * left // total if left > 0 else self.per_round // 100)


@dataclass(frozen=True)
class Increasing(Schedule):
    """Increasing schedule (B-Pref): ``per_round`` x T / (T - s + 1) after s of T env steps, rounded down, at least 1."""

    per_round: int
    follows = "env steps"

    def size(self, now: Progress) -> int:
        total = now.planned_env_steps or 0
        return max(1, self.per_round * total // (max(total - now.env_steps, 0) + 1))


@dataclass(frozen=True)
class Spread(Schedule):
    """Even schedule: an equal part of the remaining budget, rounded half to even; the last round asks all of it."""

    budget: int
    follows = "rounds left"

    def size(self, now: Progress) -> int:
        left = now.rounds_left or 0
        return max(0, round((self.budget - now.asked) / left)) if left > 0 else 0


@dataclass(frozen=True)
class InitialShare(Schedule):
    """Schedule of the first round alone: a ``share`` of the budget, rounded down, at least 1."""

    budget: int
    share: float

    def size(self, now: Progress) -> int:
        return max(1, math.floor(self.budget * self.share + 1e-9))


def schedule_of(name: ScheduleName, budget: int, per_round: int) -> Schedule:
    """Return the schedule of this name; only ``spread`` reads the budget, and it alone does without ``per_round``."""
    if name == "spread":
        return Spread(budget)
    kinds: dict[str, Callable[[int], Schedule]] = {"constant": Constant, "decreasing": Decreasing, "increasing": Increasing}
    return kinds[name](per_round)


def rounds_left(done: int, planned: int, steps: int) -> int:
    """Return the rounds of ``steps`` env steps that are still to begin, this one included, at least 1."""
    return max(1, -(-(planned - done) // steps))
