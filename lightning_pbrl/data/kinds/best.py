"""Best of k: which of several clips is best. The value is its number, 0 .. k - 1."""

from __future__ import annotations

from torch import Tensor

from lightning_pbrl.data.kinds.base import ChoiceKind
from lightning_pbrl.losses.best_of import choice_cross_entropy, choice_lead


class Best(ChoiceKind):
    """Choice of the best of k clips, by the model of Plackett and Luce."""

    name = "best"
    clips = None
    values = "the number of the best segment, from 0"

    def takes(self, value: float, clips: int) -> bool:
        return value in range(clips)

    def better(self, value: float) -> int | None:
        return int(value)

    def words(self, value: float) -> str:
        return f"clip {int(value) + 1} is best"

    def loss(self, scores: Tensor, value: Tensor, cuts: Tensor | None = None) -> Tensor:
        return choice_cross_entropy(scores, value)

    def lead(self, scores: Tensor, value: Tensor) -> Tensor:
        return choice_lead(scores, value)
