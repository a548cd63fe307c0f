"""Graded queries: the pairs of another strategy, asked with the strength of the preference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_pbrl.data.feedback import Answer, Kind, Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.base import QueryStrategy, Scorer
from lightning_pbrl.queries.uniform import UniformQuery


class GradedQuery(QueryStrategy):
    """Graded pairs: which segment is better, and how much, about the pairs that another strategy chooses.

    Args:
        pairs: strategy that chooses the pairs, a round at once; None for random ones.

    Raises:
        UserError: for a strategy of other questions, and for ranked lists, which need plain answers.
    """

    kinds: frozenset[Kind] = frozenset({"graded"})

    def __init__(self, pairs: QueryStrategy | None = None) -> None:
        self.pairs = pairs or UniformQuery()
        if self.pairs.kinds != {"pair"} or self.pairs.sequential:
            raise UserError(
                f"GradedQuery got {type(self.pairs).__name__} for its pairs: give a strategy that asks pairs alone and proposes "
                "a round at once, such as UniformQuery or DisagreementQuery."
            )
        self.needs, self.recent = self.pairs.needs, self.pairs.recent

    def at_random(self) -> QueryStrategy:
        return GradedQuery()

    def begin(self, settings: Mapping[str, Any]) -> None:
        self.pairs.begin(settings)
        self.recent = self.pairs.recent

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        pairs = self.pairs.propose(pool, n, model, labels, rng)
        return Query("graded", pairs.start, pairs.length)

    def observe(self, query: Query, answer: Answer) -> None:
        self.pairs.observe(query, answer)

    def notes(self) -> dict[str, Any]:
        return self.pairs.notes()

    def recall(self, notes: Mapping[str, Any]) -> None:
        self.pairs.recall(notes)

    def metrics(self) -> dict[str, float]:
        return self.pairs.metrics()
