"""Uniform queries: random segments, the strategy of "MR" and of the first round of every paper here."""

from __future__ import annotations

from typing import Any, Literal

import torch

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.base import QueryStrategy, Scorer


class UniformQuery(QueryStrategy):
    """Uniform sampling of pairs of two different segments, or of single segments to be rated.

    Every segment of the pool is equally likely.

    Args:
        kind: pair or rating. Ratings are of different segments as long as the pool has enough of them.
    """

    def __init__(self, kind: Literal["pair", "rating"] = "pair") -> None:
        self.kind, self.kinds = kind, frozenset({kind})

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """Propose exactly ``n`` random questions."""
        if self.kind == "pair":
            return pool.pairs(n, rng)
        return Query("rating", pool.start(distinct(len(pool), n, rng)).unsqueeze(1), pool.length)

    def describe(self) -> dict[str, Any]:
        """Return class name, and the kind unless it is pairs."""
        return {name: value for name, value in super().describe().items() if name != "kind" or value != "pair"}


def distinct(size: int, n: int, rng: torch.Generator) -> torch.Tensor:
    """Draw ``n`` numbers of 0 .. ``size`` - 1 uniformly, (n,), int64; all different if ``size`` allows it."""
    drawn: dict[int, None] = {}
    while len(drawn) < min(n, size):
        drawn.update(dict.fromkeys(torch.randint(size, (n - len(drawn),), generator=rng).tolist()))
    more = torch.randint(size, (max(n - size, 0),), generator=rng).tolist()
    return torch.tensor([*list(drawn)[:n], *more], dtype=torch.int64)
