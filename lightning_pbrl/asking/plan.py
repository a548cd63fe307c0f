"""The plan of a run's questions: who asks, who answers, how many, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from lightning_pbrl.asking.schedule import Constant, InitialShare, Progress, Schedule, rounds_left
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.mixed import uniformly
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.teachers.base import Teacher


class Learner(Protocol):
    """What asking must know of a method; a strategy may ask it for more (:class:`~lightning_pbrl.queries.base.Scorer`)."""

    kinds: ClassVar[Any]
    context: int

    @property
    def hparams(self) -> Any:
        """Its settings, which a strategy may follow."""

    @property
    def env_steps(self) -> int:
        """Env steps done."""

    @property
    def planned_env_steps(self) -> int | None:
        """Env steps of the whole run; None where it does not act."""

    @property
    def planned_round_steps(self) -> int | None:
        """Env steps of a round; None where that is not known."""

    def round_starts(self) -> Sequence[int] | None:
        """Env steps done when each round of the run begins; None where the number of rounds is not known."""


@dataclass(frozen=True)
class AskingPlan:
    """Who asks, who answers, how many questions, and in which rounds.

    Attributes:
        teacher: who answers; None where nobody is asked.
        query: chooses the questions.
        budget: questions in total.
        schedule: questions per round that asks, as long as the budget lasts.
        initial: the same for the first round that asks; None for no exception.
        uniform_first: the first round that asks draws its questions uniformly.
        first_round: the first round that asks, from 0.
        every: every how many rounds questions are asked.
        rounds: how many rounds ask; None where that follows from the method's env steps.
    """

    teacher: Teacher | None = None
    query: QueryStrategy = field(default_factory=UniformQuery)
    budget: int = 0
    schedule: Schedule = field(default_factory=lambda: Constant(50))
    initial: InitialShare | None = None
    uniform_first: bool = True
    first_round: int = 0
    every: int = 1
    rounds: int | None = None

    @property
    def even(self) -> bool:
        """Return whether a larger budget asks the same questions in more rounds."""
        bound = self.initial, self.rounds, getattr(self.teacher, "final_gap", None)  # all follow how far the budget is spent
        return isinstance(self.schedule, Constant) and all(setting is None for setting in bound)

    def strategy(self, number: int) -> QueryStrategy:
        """Return what chooses the questions of a round."""
        return uniformly(self.query.kinds) if number == self.first_round and self.uniform_first else self.query

    def before(self, number: int) -> int:
        """Return how many rounds before ``number`` ask, for one that asks itself."""
        return (number - self.first_round) // self.every

    def is_last(self, number: int) -> bool:
        """Return whether no round after ``number`` asks, as far as the number of rounds was given."""
        return self.rounds is not None and number >= self.first_round + self.every * (self.rounds - 1)

    def size(self, number: int, learner: Learner, asked: int, env_steps: int) -> int:
        """Return how many questions round ``number`` asks, as long as the budget lasts.

        Args:
            number: of the round.
            learner: the method that acts and learns.
            asked: questions of the rounds before.
            env_steps: env steps done when the round begins.
        """
        since = number - self.first_round
        if since < 0 or since % self.every:
            return 0
        done, left = self.before(number), None
        planned, steps = learner.planned_env_steps, learner.planned_round_steps
        if self.rounds is not None:
            left = self.rounds - done
        elif planned is not None and steps is not None:
            left = rounds_left(env_steps, planned, steps * self.every)
        schedule = self.initial if since == 0 and self.initial is not None else self.schedule
        return schedule.size(Progress(asked, done, left, env_steps, planned))

    def sizes(self, learner: Learner) -> list[int] | None:
        """Return how many questions each round would ask if the budget had no end; None where there is no end of rounds."""
        starts = learner.round_starts()
        if starts is None:
            return None
        sizes, asked = [], 0
        for number, done in enumerate(starts):
            sizes.append(self.size(number, learner, asked, done))
            asked += sizes[-1]
        return sizes
