"""Mixed queries: pairs and ratings in one round, from two strategies and a quota that divides the questions between them."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch

from lightning_pbrl.data.feedback import Answer, Kind, Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.bald import UNITS, BALDQuery
from lightning_pbrl.queries.base import QueryStrategy, Scorer
from lightning_pbrl.queries.quota import FixedShare, Quota, Worth
from lightning_pbrl.queries.uniform import UniformQuery


class MixedQuery(QueryStrategy):
    """Mixture of pairs from one strategy and ratings from another, in proportions set by a quota.

    Together they are exactly as many as the round has questions.

    Args:
        pair: strategy for pairs; None for the most informative (BALD).
        rating: strategy for ratings of segments; None for the most informative (BALD).
        quota: division of a round's questions; None for half and half. A quota that compares scores needs two strategies
            with scores in one unit.

    Raises:
        UserError: for a strategy of the wrong kind, a sequential strategy, or a quota that needs scores of a strategy without
            scores.
    """

    kinds: frozenset[Kind] = frozenset({"pair", "rating"})

    def __init__(
        self, pair: QueryStrategy | None = None, rating: QueryStrategy | None = None, quota: Quota | None = None
    ) -> None:
        self.pair, self.rating = pair or BALDQuery("pair"), rating or BALDQuery("rating")
        self.quota = quota or FixedShare()
        for kind, part in (("pair", self.pair), ("rating", self.rating)):
            if part.kinds != {kind} or part.sequential:
                raise UserError(
                    f"MixedQuery got {type(part).__name__} for the questions of kind {kind!r}: give a strategy that asks this "
                    "kind alone and proposes a round at once, such as UniformQuery or BALDQuery with that kind."
                )
            if self.quota.scored and not isinstance(part, BALDQuery):
                raise UserError(
                    f"{type(self.quota).__name__} weighs kinds of question by their scores and {type(part).__name__} has none: "
                    "use BALDQuery for both, or FixedShare."
                )
        units = [UNITS.get(getattr(part, "acquisition", "")) for part in (self.pair, self.rating)]
        if self.quota.scored and (units[0] is None or units[0] != units[1]):
            raise UserError(
                f"{type(self.quota).__name__} weighs pairs by {self.pair.acquisition} against ratings by "  # type: ignore[attr-defined]
                f"{self.rating.acquisition}, which have no unit in common: give both acquisition=bald."  # type: ignore[attr-defined]
            )
        self.needs = self.pair.needs | self.rating.needs
        self._asked: dict[Kind, int] = {}

    def begin(self, settings: Mapping[str, Any]) -> None:
        self.pair.begin(settings)
        self.rating.begin(settings)

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        raise TypeError("two kinds of question are no single query: call proposals")

    def proposals(
        self, pool: SegmentPool, n: int, model: Scorer, labels: Mapping[Kind, Labels], rng: torch.Generator
    ) -> list[Query]:
        """Propose the quota's share of pairs, then ratings: ``n`` in all, as far as the two strategies find questions."""
        asked = self._asked = {kind: len(found) for kind, found in labels.items()}
        if self.quota.scored and isinstance(self.pair, BALDQuery) and isinstance(self.rating, BALDQuery):
            first = self.pair.consider(pool, n, model, labels["pair"], rng)
            second = self.rating.consider(pool, n, model, labels["rating"], rng)
            best = (part.score[by.order(part, n)] for by, part in ((self.pair, first), (self.rating, second)))
            pairs = self.quota.pairs(n, asked, Worth(first.score, second.score, *best))
            chosen = [self.pair.choose(first, pairs)]
            chosen.append(self.rating.choose(second, n - len(chosen[0])))
            return chosen
        pairs = self.quota.pairs(n, asked)
        chosen = [self.pair.propose(pool, pairs, model, labels["pair"], rng)] if pairs else []
        left = n - sum(len(query) for query in chosen)
        return [*chosen, self.rating.propose(pool, left, model, labels["rating"], rng)] if left else chosen

    def observe(self, query: Query, answer: Answer) -> None:
        self._asked[query.kind] = self._asked.get(query.kind, 0) + len(query)
        (self.pair if query.kind == "pair" else self.rating).observe(query, answer)

    def notes(self) -> dict[str, Any]:
        return self.quota.notes()

    def recall(self, notes: Mapping[str, Any]) -> None:
        self.quota.recall(notes)

    def metrics(self) -> dict[str, float]:
        """Return metrics of the quota and of both strategies, and the share of pairs among all questions so far."""
        total = sum(self._asked.values())
        share = {"query/share_pair": self._asked.get("pair", 0) / total} if total else {}
        return {**share, **self.quota.metrics(), **self.pair.metrics(), **self.rating.metrics()}


def uniformly(kinds: Set[Kind]) -> QueryStrategy:
    """Return a strategy of random questions of these kinds, half of them pairs if there are both."""
    if len(kinds) == 1:
        return UniformQuery("pair" if "pair" in kinds else "rating")
    return MixedQuery(UniformQuery("pair"), UniformQuery("rating"), FixedShare(0.5))
