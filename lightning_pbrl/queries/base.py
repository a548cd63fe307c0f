"""Base class of query strategies, and the interface of the model that they use.

A strategy draws candidates from a pool of segments, scores them and proposes the best. It is a plain object, usable without a
Trainer; its randomness is the generator that it receives.
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
from lightning_pbrl.errors import UserError
from lightning_pbrl.finite import check_finite


class Scorer(Protocol):
    """Interface of the model for query strategies."""

    def returns(self, query: Query) -> Tensor:
        """Return the predicted return of each segment per ensemble member, (E, B, 2)."""
        ...

    def observations(self, query: Query) -> Tensor:
        """Return the observations of each segment, (B, 2, T, O)."""
        ...


class QueryStrategy(Described, ABC):
    """Base class of query strategies, which choose the questions of a round.

    Attributes:
        kinds: kinds of question that it asks.
        needs: methods of the model that it uses, a subset of {"returns", "observations", "embed", "posterior",
            "rating_probability"}. A method that lacks one of them refuses the strategy at start.
        sequential: True if a proposal depends on the answers to earlier ones. It is then called again until the round's
            questions are spent. Otherwise one proposal is the round, even if it is short.
        recent: number of newest episodes that form the pool; None for all.
        segments: largest number of segments of a question; a replay makes room for their copies.
    """

    kinds: frozenset[Kind] = frozenset({"pair"})
    needs: frozenset[str] = frozenset()
    sequential: bool = False
    recent: int | None = None
    segments: int = 2

    @abstractmethod
    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """Propose at most ``n`` questions.

        Args:
            pool: the segments that may be shown.
            n: requested number of questions.
            model: predictions for candidates.
            labels: all answers so far.
            rng: the strategy's own stream, on the CPU.
        """

    def at_random(self) -> QueryStrategy:
        """Return a strategy that asks random questions of the same kinds, for the first round."""
        from lightning_pbrl.queries.mixed import uniformly  # which is built on this module

        return uniformly(self.kinds)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Read the method's hyper-parameters, which a strategy may follow; called once at the start of a fit."""

    def proposals(
        self, pool: SegmentPool, n: int, model: Scorer, labels: Mapping[Kind, Labels], rng: torch.Generator
    ) -> list[Query]:
        """Propose a round of at most ``n`` questions in all, one query per kind, in the order of asking.

        A strategy of one kind implements :meth:`propose`; one that divides ``n`` among kinds overrides this method.

        Args:
            pool: the segments that may be shown.
            n: requested number of questions.
            model: predictions for candidates.
            labels: all answers so far, by kind.
            rng: the strategy's own stream, on the CPU.
        """
        (kind,) = self.kinds
        return [self.propose(pool, n, model, labels[kind], rng)]

    def notes(self) -> dict[str, Any]:
        """Return the state that later rounds need besides the answers (running scales ...), as plain JSON.

        It is stored in every label record and passed to :meth:`recall` at the start of the next round with questions. A strategy
        thus remembers only what the label store holds.
        """
        return {}

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Restore the :meth:`notes` of the newest round with questions; empty before the first."""

    def observe(self, query: Query, answer: Answer) -> None:
        """Receive the answers to a proposal, before the next proposal."""

    def metrics(self) -> dict[str, float]:
        """Return metrics of the proposals since the last call, by metric key; called once a round."""
        return {}


UNSCORED = ("The score of a candidate question", "the model that scores them has diverged, so lower its lr", "candidate")
"""Subject, cure and item of the error about scores that are not finite."""


def draw_candidates(pool: SegmentPool, n: int, large_batch: int, rng: torch.Generator) -> Query:
    """Draw ``large_batch`` candidates for each of the ``n`` requested pairs uniformly: n * large_batch pairs."""
    return pool.pairs(n * large_batch, rng)


def take(query: Query, index: Tensor) -> Query:
    """Return the questions ``index`` of a query, (n,), in that order."""
    return Query(query.kind, query.start[index.to(query.start.device)], query.length)


def best(score: Tensor, n: int) -> Tensor:
    """Return the indices of the ``n`` largest scores, best first, (min(n, B),); of equal scores the earlier one comes first.

    Raises:
        UserError: for a score that is not finite, which cannot be ordered.
    """
    check_finite(score, *UNSCORED)
    return score.argsort(descending=True, stable=True)[:n]


def check_members(returns: Tensor, instead: str) -> None:
    """Check that the returns, (E, ...), are those of members that can disagree.

    Args:
        returns: predicted returns per ensemble member.
        instead: what to use in place of disagreement, for the message.

    Raises:
        UserError: for a single member, which never disagrees.
    """
    if returns.shape[0] < 2:
        raise UserError(
            f"Disagreement needs at least two ensemble members and the model has one: raise ensemble_size, or use {instead}."
        )
