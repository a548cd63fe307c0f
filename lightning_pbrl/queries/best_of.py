"""Best-of-k queries: which of several segments is best, about random sets or those on which the ensemble disagrees."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Kind, Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.base import QueryStrategy, Scorer, best, check_members, take
from lightning_pbrl.ranges import Range


def choice_disagreement(returns: Tensor) -> Tensor:
    """Return how far the members' choices among k differ: (E, B, k) -> (B,), in [0, 0.71].

    The square root of half the sum over segments of the variance over members (ddof 0) of P(i best) = softmax(R)_i. With k = 2
    this is :func:`~lightning_pbrl.queries.disagreement.disagreement`.

    Raises:
        UserError: for a single member, which never disagrees.
    """
    check_members(returns, "acquisition=uniform")
    return (0.5 * returns.softmax(-1).var(0, correction=0).sum(-1)).sqrt()


class BestOfQuery(QueryStrategy, ranges={"clips": Range(2, 10), "large_batch": Range(1)}):
    """Best of k: which of k different segments is best.

    Args:
        clips: k, segments per question.
        acquisition: uniform, random sets; or disagreement, of ``large_batch`` random sets per question those on which the
            members' choices differ most.
        large_batch: candidates per question.

    Raises:
        UserError: if the data hold fewer than k segments.
    """

    kinds: frozenset[Kind] = frozenset({"best"})

    def __init__(
        self, clips: int = 4, acquisition: Literal["uniform", "disagreement"] = "uniform", large_batch: int = 10
    ) -> None:
        self.clips = self.segments = clips
        self.acquisition, self.large_batch = acquisition, large_batch
        self.needs = frozenset({"returns"} if acquisition == "disagreement" else ())

    def at_random(self) -> QueryStrategy:
        return BestOfQuery(self.clips)

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """Propose exactly ``n`` questions."""
        if self.acquisition == "uniform":
            return different(pool, n, self.clips, rng)
        candidates = different(pool, n * self.large_batch, self.clips, rng)
        return take(candidates, best(choice_disagreement(model.returns(candidates)), n))


def different(pool: SegmentPool, n: int, clips: int, rng: torch.Generator) -> Query:
    """Draw ``n`` sets of ``clips`` different segments uniformly.

    Raises:
        UserError: if the pool has fewer.
    """
    size = len(pool)
    if size < clips:
        raise UserError(f"A question about {clips} segments needs so many different ones and the data hold {size}: lower clips.")
    numbers = torch.stack([torch.randint(size - place, (n,), generator=rng) for place in range(clips)], 1)
    for place in range(1, clips):  # Number among those that are left: count up past each one that is taken, from the lowest
        taken = numbers[:, :place].sort(1).values
        for before in range(place):
            numbers[:, place] += numbers[:, place] >= taken[:, before]
    return Query("best", pool.start(numbers), pool.length)
