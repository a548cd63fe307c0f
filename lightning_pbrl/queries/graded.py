"""Graded queries: the pairs of another strategy, asked with the strength of the preference."""

from __future__ import annotations

import torch

from lightning_pbrl.data.feedback import Kind, Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.around import AroundQuery, rounds_of_pairs
from lightning_pbrl.queries.base import QueryStrategy, Scorer


class GradedQuery(AroundQuery):
    """Graded pairs: which segment is better, and how much, about the pairs that another strategy chooses.

    Args:
        pairs: strategy that chooses the pairs, a round at once; None for random ones.

    Raises:
        UserError: for a strategy of other questions, and for ranked lists, which need plain answers.
    """

    kinds: frozenset[Kind] = frozenset({"graded"})

    def __init__(self, pairs: QueryStrategy | None = None) -> None:
        self.pairs = rounds_of_pairs("GradedQuery", pairs)
        super().__init__(self.pairs)

    def at_random(self) -> QueryStrategy:
        return GradedQuery()

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        pairs = self.pairs.propose(pool, n, model, labels, rng)
        return Query("graded", pairs.start, pairs.length)
