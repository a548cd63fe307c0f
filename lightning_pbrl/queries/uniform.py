"""Ask about random pairs: the strategy of "MR", and of the first round of every paper here."""

from __future__ import annotations

import torch

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.base import QueryStrategy, Scorer


class UniformQuery(QueryStrategy):
    """Pairs of two different segments, every segment of the pool equally likely."""

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """Exactly ``n`` random pairs."""
        return pool.pairs(n, rng)
