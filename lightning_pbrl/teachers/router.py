"""Teacher that asks a model first and a person where the model is unsure.

Source of the idea: ROVED (arXiv 2603.28053), which combines a vision-language model with an oracle for its uncertain answers.

Differences: uncertainty is the model's own confidence or the disagreement of repeated draws, and the model is not adapted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Query, Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.ranges import COUNT, SHARE
from lightning_pbrl.rng import uniform
from lightning_pbrl.teachers.base import RoundStats, Teacher

DRAW_AGAIN = 1_000
"""Index of the random number that makes the key of the first repeated draw."""


class RouterTeacher(Teacher, ranges={"confidence": SHARE, "draws": COUNT}):
    """Model whose answers count where it is sure, and a person who gets all other questions.

    A question goes to the person if the model cannot tell, has no answer yet, or is less sure than ``confidence``. With one draw
    that is the model's own confidence (:meth:`~lightning_pbrl.teachers.base.Teacher.confident`). With several, the model is
    asked again with other keys, and it is the share of the draws that gave the most frequent answer.

    The label records name who has answered each question.

    Args:
        model: teacher who answers at once, such as VisionTeacher or FunctionTeacher.
        person: teacher who gets the rest; one who postpones questions (``Person``) leaves them open in the label store.
        confidence: least confidence, or least share of equal draws, at which the model's answer counts.
        draws: number of times that the model is asked; its answers must depend on the question's key.

    Raises:
        UserError: for settings out of range, or if the two share no kind of question.
    """

    simulated: ClassVar[bool] = False

    def __init__(self, model: Teacher, person: Teacher, confidence: float = 0.8, draws: int = 1) -> None:
        self.model, self.person, self.confidence, self.draws = model, person, confidence, draws
        self.kinds = model.kinds & person.kinds  # type: ignore[misc]
        self.wants_frames = model.wants_frames or person.wants_frames
        self.serve = person.serve
        self._names: Sequence[str] = []
        if not self.kinds:
            raise UserError(
                f"RouterTeacher got {type(model).__name__}, which answers {', '.join(model.kinds)} questions, and "
                f"{type(person).__name__}, which answers {', '.join(person.kinds)} questions: give two that answer the same kind."
            )

    @property
    def target(self) -> int:
        """Number of usable answers after which nothing more is asked; 0 for none."""
        return int(getattr(self.person, "target", 0))

    @property
    def bins(self) -> int | None:
        """Number of rating levels; None if the model has no fixed number."""
        return getattr(self.model, "bins", None)

    def start_round(self, stats: RoundStats) -> None:
        """Pass the statistics to both."""
        self.model.start_round(stats)
        self.person.start_round(stats)

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Ask the model, then the person about the questions on which it is unsure."""
        answer, sure = self._asked(query, clips, keys)
        value, status = answer.value.clone(), answer.status.clone()
        known = torch.isin(status, torch.tensor([int(Status.ANSWERED), int(Status.EQUAL)]))
        names = _names(self.model, len(query))
        rest = (~known | (sure < self.confidence)).nonzero().squeeze(1)
        if len(rest):
            asked = Query(query.kind, query.start[rest], query.length)
            theirs = self.person.answer(asked, clips.take(rest), keys[rest])
            value[rest], status[rest] = theirs.value.to(value), theirs.status.to(status)
            for place, name in zip(rest.tolist(), _names(self.person, len(rest)), strict=True):
                names[place] = name
        self._names = names
        return Answer(value, status)

    def enough(self, asked: int, answered: int, usable: int) -> bool:
        return self.person.enough(asked, answered, usable)

    def answered_by(self) -> str | Sequence[str]:
        """Return who gave each of the newest answers."""
        return self._names

    def _asked(self, query: Query, clips: Clips, keys: Tensor) -> tuple[Answer, Tensor]:
        """Return the model's answers, and its confidence or the share of draws that agree, (B,)."""
        answer, sure = self.model.confident(query, clips, keys)
        if self.draws == 1:
            return answer, sure
        others = [self.model.confident(query, clips, _again(keys, draw))[0] for draw in range(self.draws - 1)]
        every = [answer, *others]
        code = torch.stack([each.value.nan_to_num(-1.0).double() + 1_000_000.0 * each.status for each in every])  # (draws, B)
        votes = (code[:, None] == code[None]).sum(1)  # (draws, B): draws with the same answer
        best = votes.argmax(0)  # the first of the most frequent
        rows = torch.arange(len(query))
        value, status = (torch.stack([getattr(each, part) for each in every])[best, rows] for part in ("value", "status"))
        return Answer(value, status), votes[best, rows] / self.draws

    def thresholds(self, length: int) -> dict[str, float]:
        """Return the thresholds of both."""
        return {**self.model.thresholds(length), **self.person.thresholds(length)}

    def in_force(self) -> dict[str, Any]:
        """Return what is in force for each, if there is anything."""
        parts = {"model": self.model, "person": self.person}
        return {name: found for name, teacher in parts.items() if (found := teacher.in_force())}


def _again(keys: Tensor, draw: int) -> Tensor:
    """Return other keys, (B,), for a repeated draw."""
    return (uniform(keys, DRAW_AGAIN + draw) * 2.0**53).long()


def _names(teacher: Teacher, count: int) -> list[str]:
    """Return who gave each of the newest ``count`` answers of a teacher."""
    found = teacher.answered_by()
    return [found] * count if isinstance(found, str) else list(found)
