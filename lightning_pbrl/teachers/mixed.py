"""One teacher for both kinds of question, made of two."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.teachers.base import RoundStats, Teacher
from lightning_pbrl.teachers.rating import RatingTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher


class MixedTeacher(Teacher):
    """Hands pairs to one teacher and ratings to another.

    Args:
        pair: who compares; the rational teacher when None.
        rating: who rates; ten noise-free bins over the range of the segments that may be shown when None.

    Raises:
        UserError: when one of them does not understand its kind of question.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair", "rating"})

    def __init__(self, pair: Teacher | None = None, rating: Teacher | None = None) -> None:
        self.pair, self.rating = pair or SimulatedTeacher(), rating or RatingTeacher()
        for kind, teacher in self._parts().items():
            if kind not in teacher.kinds:
                raise UserError(
                    f"MixedTeacher got {type(teacher).__name__} for the questions of kind {kind!r}, which it does not answer: "
                    "give pair a teacher who compares and rating one who rates."
                )

    @property
    def bins(self) -> int | None:
        """Levels of the ratings; None where the one who rates has no fixed number."""
        return getattr(self.rating, "bins", None)

    def _parts(self) -> dict[str, Teacher]:
        return {"pair": self.pair, "rating": self.rating}

    def start_round(self, stats: RoundStats) -> None:
        """Tell both."""
        for teacher in self._parts().values():
            teacher.start_round(stats)

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """The answer of the teacher of that kind."""
        return self._parts()[query.kind].answer(query, clips, keys)

    def thresholds(self, length: int) -> dict[str, float]:
        """Those of both."""
        return {**self.pair.thresholds(length), **self.rating.thresholds(length)}

    def in_force(self) -> dict[str, Any]:
        """What each answers by, where there is something."""
        return {kind: found for kind, teacher in self._parts().items() if (found := teacher.in_force())}
