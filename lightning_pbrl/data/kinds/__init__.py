"""Kinds of answer, one module each: pairs, ratings, graded pairs, best of several."""

from lightning_pbrl.data.kinds.base import REGISTRY, AnswerKind, ChoiceKind, axis_of, base_of, check_axes, choices, of
from lightning_pbrl.data.kinds.pair import Pair
from lightning_pbrl.data.kinds.rating import Rating

from lightning_pbrl.data.kinds.graded import Graded  # isort: skip - the order in which they are listed
from lightning_pbrl.data.kinds.best import Best  # isort: skip

__all__ = [
    "REGISTRY",
    "AnswerKind",
    "Best",
    "ChoiceKind",
    "Graded",
    "Pair",
    "Rating",
    "axis_of",
    "base_of",
    "check_axes",
    "choices",
    "of",
]
