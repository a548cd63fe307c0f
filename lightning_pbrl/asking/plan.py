"""The plan of a run's questions: who asks, who answers, how many, and when."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lightning_pbrl.asking.schedule import Constant, InitialShare, Progress, Schedule, rounds_left
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.teachers.base import Teacher

if TYPE_CHECKING:
    from rich.table import Table


class Learner(Protocol):
    """Part of a method that asking relies on; a strategy may need more (:class:`~lightning_pbrl.queries.base.Scorer`)."""

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
    """The plan of a run's questions: who asks, who answers, how many, and in which rounds.

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
        return self.query.at_random() if number == self.first_round and self.uniform_first else self.query

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

    def rounds_that_ask(self, learner: Learner) -> list[tuple[int, int, int]] | None:
        """Return round, env steps done and questions of each round that asks; None where that cannot be said before.

        Sizes are those of a strategy that finds as many questions as it is asked for.
        """
        starts = learner.round_starts()
        if starts is None:  # as many rounds as it takes
            if self.rounds is None and not isinstance(self.schedule, Constant):
                return None
            starts = [0] * (self.first_round + self.every * (self.rounds or self.budget))
        found, asked = [], 0
        for number, done in enumerate(starts):
            size = min(self.size(number, learner, asked, done), self.budget - asked)
            if size > 0:
                found.append((number, done, size))
                asked += size
            if asked == self.budget:
                break
        return found

    def told(self, learner: Learner) -> list[tuple[str, str]]:
        """Return who asks, who answers, how many questions and when, each as a line of text."""
        if not self.budget:
            return [("who asks", "nobody: answers come with the data or are in the label store")]
        first = ", uniform in the first round" if self.uniform_first and not isinstance(self.query, UniformQuery) else ""
        lines = [("who asks", _named(self.query) + first)]
        lines += [("who answers", "nobody" if self.teacher is None else _named(self.teacher))]
        expected = self.rounds_that_ask(learner)
        if expected is None:
            return [*lines, ("how many", f"{self.budget:,}, {type(self.schedule).__name__.lower()}")]
        sizes = [f"{size:,}" for _, _, size in expected]
        numbers = [f"{number:,}" for number, _, _ in expected]
        asked = sum(size for _, _, size in expected)
        share = f"{self.budget:,}" if asked == self.budget else f"{asked:,} of {self.budget:,}, then the run ends,"
        lines += [("how many", f"{share} in {len(sizes):,} round{'s'[: len(sizes) != 1]}: {_some(sizes)}")]
        lines += [("when", f"at the start of round {_some(numbers)}")]
        if learner.planned_env_steps is not None:
            lines += [("after env steps", _some([f"{done:,}" for _, done, _ in expected]))]
        return lines

    def table(self, learner: Learner) -> Table:
        """Return the plan as a table to be printed."""
        from rich.table import Table

        table = Table(title="questions", title_justify="left", show_header=False)
        for name, text in self.told(learner):
            table.add_row(name, text)
        return table


SHOWN = 6
"""Numbers of a list that are shown before its last."""


def _some(numbers: Sequence[str]) -> str:
    """Return the first numbers of a list and its last."""
    if len(numbers) <= SHOWN + 1:
        return "; ".join(numbers)
    return "; ".join([*numbers[:SHOWN], "...", numbers[-1]])


def _named(thing: Any) -> str:
    """Return the class of a teacher or strategy with the settings that are not its defaults: ``SkipTeacher(eps=0.7)``."""
    about, usual = thing.describe(), inspect.signature(type(thing)).parameters
    settings = []
    for name, value in about.items():
        default = usual[name].default if name in usual else None
        if name in ("class", "module") or value == (list(default) if isinstance(default, tuple) else default):
            continue
        inner = getattr(thing, name, None)
        settings.append(f"{name}={_named(inner) if hasattr(inner, 'describe') else repr(value)}")
    name = str(about.get("class", type(thing).__name__))
    return f"{name}({', '.join(settings)})" if settings else name
