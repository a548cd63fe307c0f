"""Teacher for pairs and ratings, composed of two teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.teachers.base import RoundStats, Teacher
from lightning_pbrl.teachers.rating import RatingTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher


class MixedTeacher(Teacher):
    """Combination of a teacher for pairs and a teacher for ratings.

    Args:
        pair: teacher that compares pairs; None for the rational teacher.
        rating: teacher that rates segments; None for ten noise-free bins over the range of the segments that may be shown.

    Raises:
        UserError: if one of them does not answer its kind of question.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair", "rating"})

    def __init__(self, pair: Teacher | None = None, rating: Teacher | None = None) -> None:
        self.pair, self.rating = pair or SimulatedTeacher(), rating or RatingTeacher()
        self.wants_frames = self.pair.wants_frames or self.rating.wants_frames
        self._newest: Teacher = self.pair
        for kind, teacher in self._parts().items():
            if kind not in teacher.kinds:
                raise UserError(
                    f"MixedTeacher got {type(teacher).__name__} for the questions of kind {kind!r}, which it does not answer: "
                    "give pair a teacher that compares and rating one that rates."
                )

    @property
    def bins(self) -> int | None:
        """Number of rating levels; None if the rating teacher has no fixed number."""
        return getattr(self.rating, "bins", None)

    def _parts(self) -> dict[str, Teacher]:
        return {"pair": self.pair, "rating": self.rating}

    def start_round(self, stats: RoundStats) -> None:
        """Pass the statistics to both teachers."""
        for teacher in self._parts().values():
            teacher.start_round(stats)

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Return the answer of the teacher for this kind of question."""
        self._newest = self._parts()[query.kind]
        return self._newest.answer(query, clips, keys)

    def confident(self, query: Query, clips: Clips, keys: Tensor) -> tuple[Answer, Tensor]:
        """Return the answer and the confidence of the teacher for this kind of question."""
        self._newest = self._parts()[query.kind]
        return self._newest.confident(query, clips, keys)

    def answered_by(self) -> str | Sequence[str]:
        """Return who gave each of the newest answers, if the teacher for their kind tells several names."""
        found = self._newest.answered_by()
        return super().answered_by() if isinstance(found, str) else found

    def thresholds(self, length: int) -> dict[str, float]:
        """Return the thresholds of both teachers."""
        return {**self.pair.thresholds(length), **self.rating.thresholds(length)}

    def in_force(self) -> dict[str, Any]:
        """Return what is in force for each teacher, by kind, if there is anything."""
        return {kind: found for kind, teacher in self._parts().items() if (found := teacher.in_force())}
