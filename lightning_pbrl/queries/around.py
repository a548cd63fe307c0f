"""Base class of strategies around another one, which chooses the segments."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any

from lightning_pbrl.data.feedback import Answer, Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.uniform import UniformQuery


class AroundQuery(QueryStrategy, ABC):
    """Base class of strategies that ask otherwise, or elsewhere, about the segments that another strategy chooses.

    The strategy inside reads the method's settings, observes the answers and keeps its notes as if it were alone.

    Args:
        inner: the strategy inside; None for uniform pairs.
    """

    def __init__(self, inner: QueryStrategy | None = None) -> None:
        self.inner = inner or UniformQuery()
        self.needs, self.recent = self.inner.needs, self.inner.recent

    def begin(self, settings: Mapping[str, Any]) -> None:
        self.inner.begin(settings)
        self.recent = self.inner.recent

    def observe(self, query: Query, answer: Answer) -> None:
        self.inner.observe(query, answer)

    def notes(self) -> dict[str, Any]:
        return self.inner.notes()

    def recall(self, notes: Mapping[str, Any]) -> None:
        self.inner.recall(notes)

    def metrics(self) -> dict[str, float]:
        return self.inner.metrics()


def rounds_of_pairs(owner: str, pairs: QueryStrategy | None) -> QueryStrategy:
    """Return a strategy that asks pairs alone and proposes a round at once; uniform pairs for None.

    Args:
        owner: strategy around it, for the message.
        pairs: the strategy that is checked.

    Raises:
        UserError: for a strategy of other questions, and for a sequential one.
    """
    if pairs is not None and (pairs.kinds != {"pair"} or pairs.sequential):
        raise UserError(
            f"{owner} got {type(pairs).__name__} for its pairs: give a strategy that asks pairs alone and proposes a round at "
            "once, such as UniformQuery or DisagreementQuery."
        )
    return pairs or UniformQuery()
