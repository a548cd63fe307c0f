"""What to ask: the interface of a query strategy, and what it may ask of the model.

A strategy draws candidates from a pool of segments, scores them and proposes the best. It is a plain object, usable
without a Trainer; its randomness is the generator that it is handed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Kind, Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.describe import Described
from lightning_pbrl.finite import check_finite


class Scorer(Protocol):
    """What a strategy may ask of the model."""

    def returns(self, query: Query) -> Tensor:
        """Predicted return of each segment per ensemble member, (E, B, 2)."""
        ...

    def observations(self, query: Query) -> Tensor:
        """Observations of each segment, (B, 2, T, O)."""
        ...


class QueryStrategy(Described, ABC):
    """Chooses the questions of a round.

    Attributes:
        kinds: the kinds of question it asks.
        needs: what it asks of the model, a subset of {"returns", "observations", "embed", "posterior", "rating_probability"}; a
            method that lacks one of them refuses the strategy at start.
        sequential: whether what it proposes next depends on the answers to what it proposed before; then it is asked again
            until the round's questions are spent. Otherwise one proposal is the round, also when it is short.
        recent: of how many of the newest episodes the pool is made; None for all.
    """

    kinds: frozenset[Kind] = frozenset({"pair"})
    needs: frozenset[str] = frozenset()
    sequential: bool = False
    recent: int | None = None

    @abstractmethod
    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """At most ``n`` questions.

        Args:
            pool: the segments that may be shown.
            n: how many questions are wanted.
            model: predictions for candidates.
            labels: every answer so far.
            rng: the strategy's own stream, on the CPU.
        """

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Called once at the start of a fit with the method's hyper-parameters, which a strategy may follow."""

    def proposals(
        self, pool: SegmentPool, n: int, model: Scorer, labels: Mapping[Kind, Labels], rng: torch.Generator
    ) -> list[Query]:
        """At most ``n`` questions in all, one query per kind, in the order of asking: what a round is made of.

        A strategy of one kind writes :meth:`propose`; one that shares ``n`` between kinds overrides this.

        Args:
            pool: the segments that may be shown.
            n: how many questions are wanted.
            model: predictions for candidates.
            labels: every answer so far, by kind.
            rng: the strategy's own stream, on the CPU.
        """
        (kind,) = self.kinds
        return [self.propose(pool, n, model, labels[kind], rng)]

    def notes(self) -> dict[str, Any]:
        """What later rounds must know of this one beside its answers (running scales ...), plain JSON.

        It is kept in every label record and handed to :meth:`recall` at the start of the next round that asks, so that a
        strategy remembers what the label store holds and nothing else.
        """
        return {}

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Take over the :meth:`notes` of the newest round that asked; empty before the first."""

    def observe(self, query: Query, answer: Answer) -> None:
        """Called with the answers to what was proposed, before the next proposal."""

    def metrics(self) -> dict[str, float]:
        """What to log about the proposals since this was last read, by metric key; read once a round."""
        return {}


UNSCORED = ("The score of a candidate question", "the model that scores them has diverged, so lower its lr", "candidate")
"""What is said of scores that are not finite."""


def draw_candidates(pool: SegmentPool, n: int, large_batch: int, rng: torch.Generator) -> Query:
    """``large_batch`` candidates for each of the ``n`` pairs wanted, drawn uniformly: n * large_batch pairs."""
    return pool.pairs(n * large_batch, rng)


def take(query: Query, index: Tensor) -> Query:
    """The questions ``index`` of a query, (n,), in that order."""
    return Query(query.kind, query.start[index.to(query.start.device)], query.length)


def best(score: Tensor, n: int) -> Tensor:
    """Indices of the ``n`` largest scores, best first, (min(n, B),); of equal scores the earlier one comes first.

    Raises:
        UserError: for a score that is not finite, which no order has a place for.
    """
    check_finite(score, *UNSCORED)
    return score.argsort(descending=True, stable=True)[:n]
