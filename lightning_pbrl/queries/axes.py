"""Queries on several axes: each pair of another strategy is asked once per axis.

Source: M. Torne et al., "Freeform Preference Learning for Robotic Manipulation", 2026 (arXiv 2606.32027): pairwise preferences
along named axes such as speed and safety.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lightning_pbrl.data.feedback import Answer, Kind, Labels, Query
from lightning_pbrl.data.kinds import check_axes
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.around import AroundQuery, rounds_of_pairs
from lightning_pbrl.queries.base import QueryStrategy, Scorer


class AxesQuery(AroundQuery):
    """Pairs on named axes: the pairs that another strategy chooses, each compared once per axis (Torne et al. 2026).

    An answer on an axis is a question of the budget: n questions are n / A pairs on A axes, rounded down.

    Args:
        axes: names of the axes, such as speed and safety.
        pairs: strategy that chooses the pairs, a round at once; None for random ones.

    Raises:
        UserError: for names that cannot be axes, and for a strategy of other questions or of ranked lists.

    Differences: in the paper people name the axes of each pair themselves; here they are the same for all.
    """

    def __init__(self, axes: Sequence[str] = ("task", "calm"), pairs: QueryStrategy | None = None) -> None:
        self.axes, self.pairs = check_axes(axes, "AxesQuery"), rounds_of_pairs("AxesQuery", pairs)
        super().__init__(self.pairs)
        self.kinds: frozenset[Kind] = frozenset(f"pair:{axis}" for axis in self.axes)

    def at_random(self) -> QueryStrategy:
        return AxesQuery(self.axes)

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        raise TypeError("questions on several axes are no single query: call proposals")

    def proposals(
        self, pool: SegmentPool, n: int, model: Scorer, labels: Mapping[Kind, Labels], rng: torch.Generator
    ) -> list[Query]:
        """Propose n // A pairs on each of the A axes; the strategy inside sees the answers on the first."""
        count = n // len(self.axes)
        if not count:
            return []
        pairs = self.pairs.propose(pool, count, model, labels[f"pair:{self.axes[0]}"], rng)
        return [Query(f"pair:{axis}", pairs.start, pairs.length) for axis in self.axes]

    def observe(self, query: Query, answer: Answer) -> None:
        if query.kind == f"pair:{self.axes[0]}":
            super().observe(query, answer)
