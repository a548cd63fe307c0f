"""Bases of the kinds of answer. A new kind is one class: what is asked about, what counts as an answer, how it is learned from.

The name of a question's kind may carry an axis after a colon: "pair:safety" is a pair that is compared in safety alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from lightning_pbrl.data.status import Kind, Status
from lightning_pbrl.errors import UserError

Settled = tuple[float | None, Status]
"""Value and status of a label."""

MOST = 10
"""Largest number of clips of a question: the digits of a keyboard."""

REGISTRY: dict[str, AnswerKind] = {}
"""Kinds of answer by name; a subclass of :class:`AnswerKind` with a name enters itself."""


class AnswerKind(ABC):
    """Kind of answer.

    Attributes:
        name: its name in label stores and files.
        values: values that an answered question may have, as the tail of "a best is".
        ordered: whether values are ordered, so that a difference of answers has a size.
    """

    name: ClassVar[str]
    clips: ClassVar[int | None] = 2
    """Number of segments of a question; None for any number from 2 to 10."""
    values: ClassVar[str]
    ordered: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            REGISTRY[cls.name] = cls()

    @abstractmethod
    def takes(self, value: float, clips: int) -> bool:
        """Return True if an answer about so many clips may have this value."""

    def is_equal(self, value: float) -> bool:
        """Return True if a value says that no clip is better."""
        return False

    def better(self, value: float) -> int | None:
        """Return the preferred segment, in the stored order; None without one."""
        return None

    @abstractmethod
    def words(self, value: float) -> str:
        """Return an answer in words, with the segments in the stored order."""

    def about(self, clips: int) -> bool:
        """Return True if a question may be about so many segments."""
        return clips == self.clips if self.clips is not None else 2 <= clips <= MOST

    def settle(self, values: Sequence[float]) -> Settled:
        """Return the label that the answers of several people become, at least one: what most of them said.

        Without a majority nobody could tell.
        """
        (first, count), *others = Counter(values).most_common()
        return (None, Status.SKIPPED) if others and others[0][1] == count else (first, self.status(first))

    def status(self, value: float) -> Status:
        """Return the status of a question that is answered with a value."""
        return Status.EQUAL if self.is_equal(value) else Status.ANSWERED


class ChoiceKind(AnswerKind):
    """Kind of answer that says which clip is better: a likelihood given one score per clip, such as its predicted return."""

    @abstractmethod
    def loss(self, scores: Tensor, value: Tensor, cuts: Tensor | None = None) -> Tensor:
        """Return the negative log-likelihood of each answer, nats.

        Rows of other kinds may be among them: whatever their value is, the result must be finite.

        Args:
            scores: logarithm of each clip's weight, (..., B, C); a kind about two clips reads the first two.
            value: the answers, (..., B).
            cuts: what an ensemble learns beside its rewards to read levels of preference, (..., 2); None where it does not.
        """

    @abstractmethod
    def lead(self, scores: Tensor, value: Tensor) -> Tensor:
        """Return the lead of the preferred clip's score over the best of the others, (..., B); NaN where none is preferred."""


def of(kind: Kind) -> AnswerKind:
    """Return the kind of answer of this name, which may carry an axis."""
    return REGISTRY[base_of(kind)]


def choices() -> frozenset[Kind]:
    """Return the names of all kinds that say which clip is better, those of outside modules included."""
    return frozenset(name for name, kind in REGISTRY.items() if isinstance(kind, ChoiceKind))


def base_of(kind: Kind) -> str:
    """Return the name of a kind without its axis."""
    return kind.partition(":")[0]


def axis_of(kind: Kind) -> str:
    """Return the axis of a kind, such as "safety"; "" without one."""
    return kind.partition(":")[2]


def check_axes(axes: Sequence[str], whose: str) -> list[str]:
    """Return the names of axes.

    Raises:
        UserError: if there is none, one is there twice, or one is not a word of at most 40 letters, digits and underscores.
    """
    if isinstance(axes, str) or not axes or len(set(axes)) < len(axes):
        raise UserError(f"{whose} got axes={axes!r}: give a list of different names, such as [speed, safety].")
    if odd := [axis for axis in axes if not axis.isidentifier() or len(axis) > 40]:
        raise UserError(f"{whose} got the axis {odd[0]!r:.100}: name it by one word of letters, digits and underscores.")
    return list(axes)
