"""The part of a method that knows what it may learn from: answers, and what it does when none of them can be learned from.

One rule for all learners. A round without a usable answer changes nothing and may be followed by better ones; when no more
answers can come, a method that has none is refused, so that nothing untrained is saved, judged or used for relabelling.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytorch_lightning as pl

from lightning_pbrl.data.feedback import Asked, Kind, Labels, Status
from lightning_pbrl.errors import UserError


class Answers(pl.LightningModule):
    """What every method knows about answers; :class:`~lightning_pbrl.methods.base.Method` is one of these.

    Attributes:
        labels: all answers about pairs, given with the data or by a teacher.
        ratings: all answers about single clips.
        asked: how many questions there were and will be.
        pending: questions of the run that nobody has answered yet.
        answers_from: the label store that answers are read from; empty without one.
        learned_from: answers that this round learns from; None before the first round, and for methods that read none.
    """

    needs: ClassVar[frozenset[str]]
    kinds: ClassVar[frozenset[Kind]]
    waits: ClassVar[bool] = False
    """Whether a fit stops, to be resumed, while questions are unanswered that it would learn from; others end with a warning."""
    labels: Labels
    ratings: Labels
    asked: Asked
    pending: int = 0
    answers_from: str = ""
    learned_from: int | None = None

    def usable(self) -> int:
        """How many of the present answers can be learned from."""
        pairs = len(self.labels.preferences()) if "pair" in self.kinds else 0
        return pairs + (len(self.ratings.preferences()) if "rating" in self.kinds else 0)

    @property
    def answers_may_come(self) -> bool:
        """Whether a later round asks."""
        return self.asked.remaining > 0 and not self.asked.over

    def check_answers(self) -> None:
        """Count what a round that begins can learn from.

        Raises:
            UserError: when that is nothing and no round will ask, or when unanswered questions are all that is left to wait for.
        """
        if "labels" not in self.needs:
            return
        before, self.learned_from = self.learned_from, self.usable()
        if not self.learned_from and not self.answers_may_come:
            raise self.nothing_learned()
        if self.left_waiting and not self.asked.this_round and before == self.learned_from:
            raise self.unanswered()

    @property
    def left_waiting(self) -> bool:
        """Whether all has been asked and some of it not been answered, by somebody who is waited for."""
        return self.waits and self.pending > 0 and not self.answers_may_come

    def nothing_learned(self, labels: Labels | None = None) -> UserError:
        """The error of a learner without a single usable answer; ``labels`` are its pairs where these are not its own."""
        labels = self.labels if labels is None else labels
        name, count = type(self).__name__, len(labels) + len(self.ratings)
        if not count:
            return UserError(f"{name} learns from answers and there are none: set ask.budget and ask.teacher, or give labels.")
        if self.pending:
            return self.unanswered()
        both = "rating" in self.kinds
        return UserError(
            f"None of the {count} answers compares two segments{' or rates one' if both else ''}, and {name} learns from such "
            f"answers alone ({_told(labels, self.ratings)}): raise ask.per_round, or use a teacher who skips less."
        )

    def unanswered(self) -> UserError:
        """The error of a fit that can only wait."""
        name, count = type(self).__name__, len(self.labels) + len(self.ratings)
        where = f" in the label store {self.answers_from}" if self.answers_from else ""
        others = f"has learned from {self.learned_from} others" if self.learned_from else "has nothing else to learn from"
        return UserError(
            f"{self.pending} of {count} questions{where} have not been answered yet, and {name} {others}: answer them, "
            "then the same command with --resume goes on."
        )


def _told(labels: Labels, ratings: Labels) -> str:
    """How many answers are of which kind and status, as ``"38 skipped, 2 ratings answered"``."""
    parts = []
    for found, kind in ((labels, ""), (ratings, "ratings ")):
        for status in Status:
            number = int((found.status == status).sum())
            parts += [f"{number} {kind}{status.name.lower()}"] if number else []
    return ", ".join(parts)


def check_learned(method: Any, what: str) -> None:
    """Refuse a model that has been fitted and has learned from no answer.

    Raises:
        UserError: beginning with ``what``.
    """
    if method.learned_from == 0:
        raise UserError(
            f"{what} is a {type(method).__name__} that has not learned from a single answer, so its reward is that of initial "
            "weights: go on with its fit until it has, or give another reward model."
        )
