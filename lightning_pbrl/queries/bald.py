"""Ask what tells most about the model: BALD for pairs and for ratings, in bits per unit of cost.

Source: Houlsby et al. 2011 (arXiv 1112.5745); dropout draws as in Gal, Islam and Ghahramani 2017 (arXiv 1703.02910).

A draw is one function, the same for both clips of a pair, for every step and for every candidate. Predicted returns of the whole
pool are then a matrix (draws, clips) in which each transition was evaluated once, and a pair is a subtraction.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Kind, Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.errors import UserError
from lightning_pbrl.finite import check_finite
from lightning_pbrl.losses.information import bald, margin, mixture_bald, pair_probability, predictive_entropy, spread
from lightning_pbrl.queries.base import UNSCORED, QueryStrategy, Scorer, take
from lightning_pbrl.queries.uniform import distinct
from lightning_pbrl.ranges import COUNT
from lightning_pbrl.rng import stream

UNITS = {"bald": "bits about the model", "mixture": "bits about the model", "entropy": "bits of the answer", "margin": "margin"}
"""What scores are in where those of pairs and of ratings can be weighed against each other."""
CHUNK = 16_384
"""Candidates that are scored at once: bounds the memory of (draws, candidates, answers)."""
OF_PROBABILITIES = {"bald": bald, "entropy": predictive_entropy, "margin": margin}
Acquisition = Literal["bald", "mixture", "entropy", "margin", "variance", "random"]


class Considered(NamedTuple):
    """The candidates of a round.

    Attributes:
        query: all of them, B.
        score: what they are worth, (B,), float64, higher is better.
        fresh: whether no clip of theirs shares a step with one that was asked about before, (B,), bool.
    """

    query: Query
    score: Tensor
    fresh: Tensor


class BALDQuery(QueryStrategy, ranges={"clips": COUNT}):
    """The questions worth most, about clips that share no step with each other or with earlier ones of their kind.

    Of pairs ``large_batch`` random candidates per question are scored, of ratings every clip of the pool. Only where too few
    clips are left that nobody was asked about are some of them shown again: a round is whole as long as there are candidates.

    Args:
        kind: pair or rating.
        acquisition: what is worth most. bald: information about the model, bits (exact, of the K ratings). mixture: of a rating,
            the same as if ratings were not rounded, by quadrature. entropy: of the predicted answer, bits. margin: lead of the
            likeliest answer, reversed. variance: over draws, of the difference of returns of a pair or the predicted rating of a
            clip. random.
        draws: T, functions drawn from the posterior of a model that has more than a few (dropout).
        large_batch: random pairs per question.
        clips: at most so many clips are scored for ratings, drawn uniformly; None for all.
        cost: of a question of this kind; scores are divided by it.

    Raises:
        UserError: for an acquisition that the kind does not have, or a setting out of range.
    """

    def __init__(
        self,
        kind: Kind = "pair",
        acquisition: Acquisition = "bald",
        draws: int = 20,
        large_batch: int = 100,
        clips: int | None = None,
        cost: float = 1.0,
    ) -> None:
        if acquisition == "mixture" and kind == "pair":
            raise UserError("BALDQuery got acquisition=mixture for pairs, whose answers are not rounded: use bald.")
        self.kind, self.kinds, self.acquisition, self.draws = kind, frozenset({kind}), acquisition, draws
        self.large_batch, self.clips, self.cost = large_batch, clips, cost
        self.needs = frozenset({"observations"})
        if acquisition != "random":
            self.needs |= {"posterior", "decode", "rating_probability"} if kind == "rating" else {"posterior"}
        self._seen: list[tuple[float, float]] = []

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """The ``n`` best of :meth:`consider`, best first."""
        return self.choose(self.consider(pool, n, model, labels, rng), n)

    def consider(self, pool: SegmentPool, n: int, model: Any, labels: Labels, rng: torch.Generator) -> Considered:
        """Draw the candidates of a round of ``n`` questions and score them."""
        if self.kind == "pair":
            query = pool.pairs(n * self.large_batch, rng)
        else:
            few = self.clips is not None and self.clips < len(pool)
            number = distinct(len(pool), self.clips or 1, rng) if few else torch.arange(len(pool))
            query = Query("rating", pool.start(number).unsqueeze(1), pool.length)
        if self.acquisition == "random":
            score = torch.rand(len(query), generator=rng, dtype=torch.float64)
        else:
            score = torch.cat([self.score(part, model).cpu() for part in _chunks(query)])
            check_finite(score, *UNSCORED)
        asked = steps_of(model, labels)
        fresh = torch.cat([~shows(model, part, asked).cpu() for part in _chunks(query)])
        return Considered(query, score.double() / self.cost, fresh)

    def score(self, query: Query, model: Any) -> Tensor:
        """What every question is worth to the model, (B,), before costs."""
        sample = model.posterior(query, self.draws)
        if self.kind == "pair":
            returns = sample if sample.dim() == 3 else sample[..., 0]
            if self.acquisition == "variance":
                return spread(returns[..., 1] - returns[..., 0])
            return OF_PROBABILITIES[self.acquisition](pair_probability(returns))
        if self.acquisition in OF_PROBABILITIES:
            return OF_PROBABILITIES[self.acquisition](model.rating_probability(sample).squeeze(2))
        mean, variance = (part.squeeze(2) for part in model.decode(sample))
        return spread(mean) if self.acquisition == "variance" else mixture_bald(mean, variance)

    def choose(self, considered: Considered, n: int) -> Query:
        """The first ``n`` of :meth:`order`, as questions."""
        index = self.order(considered, n)
        if len(index):
            self._seen.append((float(considered.score.nanmean()), float(considered.score[index].nanmean())))
        return take(considered.query, index)

    def order(self, considered: Considered, n: int) -> Tensor:
        """Numbers of the ``n`` best candidates, best first: fresh ones that share no step with a better one, while there are any.

        Those of a smaller ``n`` are the first of a larger.
        """
        query, length = considered.query, considered.query.length
        score = considered.score.nan_to_num(nan=-1e300, posinf=1e300, neginf=-1e300)
        left = score.masked_fill(~considered.fresh, -torch.inf)
        start, picked = query.start.cpu(), list[int]()
        while len(picked) < min(n, len(score)) and left.max() > -torch.inf:
            at = int(left.argmax())
            picked.append(at)
            near = (start.unsqueeze(-1) - start[at]).abs() < length  # (B, C, C)
            left[near.flatten(1).any(1)] = -torch.inf
        if len(picked) < n:  # what is left has been shown, at least in part
            rest = score.index_fill(0, torch.tensor(picked, dtype=torch.int64), -torch.inf)
            more = rest.argsort(descending=True, stable=True)[: max(min(n, len(score)) - len(picked), 0)]
            picked += more.tolist()
        return torch.tensor(picked, dtype=torch.int64)

    def metrics(self) -> dict[str, float]:
        """Mean score of all candidates and of those that were asked."""
        seen, self._seen = self._seen, []
        if not seen:
            return {}
        return {f"query/score_{self.kind}": seen[-1][0], f"query/score_asked_{self.kind}": seen[-1][1]}


def _chunks(query: Query) -> list[Query]:
    return [Query(query.kind, part, query.length) for part in query.start.split(CHUNK)]


def steps_of(model: Any, labels: Labels) -> Tensor:
    """Fingerprints of every observation in clips that were asked about, any order, (M,)."""
    if not len(labels):
        return torch.empty(0, dtype=torch.int64)
    kind: Kind = "pair" if labels.start.shape[1] == 2 else "rating"
    return fingerprint(model.observations(Query(kind, labels.start, labels.length))).flatten().unique()


def shows(model: Any, query: Query, asked: Tensor) -> Tensor:
    """Whether a clip of a question overlaps with one of those whose observations ``asked`` are the fingerprints, (B,), bool.

    Two clips of one length overlap when the first or the last step of one lies in the other. Comparing what was seen rather than
    row numbers is right for data that move or forget rows as well.
    """
    if not len(asked):
        return torch.zeros(len(query), dtype=torch.bool)
    ends = torch.cat([query.start, query.start + query.length - 1], 1)
    return torch.isin(fingerprint(model.observations(Query(query.kind, ends, 1))).squeeze(-1), asked.to(ends.device)).any(1)


def fingerprint(obs: Tensor) -> Tensor:
    """A number that equal observations share and, but for one chance in 2^60, no others: (..., O) float32 -> (...,), int64."""
    factors = torch.randint(-(2**62), 2**62, (obs.shape[-1],), generator=stream(0, "fingerprint")).to(obs.device) * 2 + 1
    return (obs.contiguous().view(torch.int32).long() * factors).sum(-1)  # in integers, whose sum has no rounding
