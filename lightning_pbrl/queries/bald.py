"""Information-based queries: BALD for pairs and for ratings, in bits per unit of cost.

Source: Houlsby et al. 2011 (arXiv 1112.5745); dropout draws as in Gal, Islam and Ghahramani 2017 (arXiv 1703.02910).

A draw is one function, the same for both segments of a pair, for every step and for every candidate. Predicted returns of the
whole pool are then a matrix (draws, segments) in which each transition was evaluated once, and a pair is a subtraction.
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
"""Units of the scores of acquisitions whose pairs and ratings can be compared."""
CHUNK = 16_384
"""Number of candidates that are scored at once, which bounds the memory of (draws, candidates, answers)."""
OF_PROBABILITIES = {"bald": bald, "entropy": predictive_entropy, "margin": margin}
Acquisition = Literal["bald", "mixture", "entropy", "margin", "variance", "random"]


class Considered(NamedTuple):
    """Candidates of a round with their scores.

    Attributes:
        query: all B candidates.
        score: their acquisition scores, (B,), float64, higher is better.
        fresh: True if no segment of a candidate shares a step with an earlier question of its kind, (B,), bool.
    """

    query: Query
    score: Tensor
    fresh: Tensor


class BALDQuery(QueryStrategy, ranges={"clips": COUNT}):
    """Bayesian active learning by disagreement (BALD, Houlsby et al. 2011), for pairs or ratings.

    It proposes the questions with the highest expected information gain, or another acquisition. The segments of a round share no
    step with each other or with earlier ones of their kind. For pairs, ``large_batch`` random candidates per question are scored;
    for ratings, every segment of the pool. Segments are shown again only if too few unseen ones are left. A round is complete as
    long as there are candidates.

    Args:
        kind: pair or rating.
        acquisition: the acquisition function. bald: information about the model, bits (exact for the K ratings). mixture: the
            same for unrounded ratings, by quadrature. entropy: entropy of the predicted answer, bits. margin: one minus the
            lead of the likeliest answer. variance: variance over draws of the return difference of a pair, or of the predicted
            rating of a segment. random: random scores.
        draws: number of functions T drawn from the posterior of a model that has more than a few (dropout).
        large_batch: number of random pairs per question.
        clips: largest number of segments that are scored for ratings, drawn uniformly; None for all.
        cost: cost of a question of this kind; scores are divided by it.

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
        """Propose the ``n`` best candidates of :meth:`consider`, best first."""
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
        """Return the acquisition score of every question, (B,), before costs."""
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
        """Return the first ``n`` of :meth:`order` as questions."""
        index = self.order(considered, n)
        if len(index):
            self._seen.append((float(considered.score.nanmean()), float(considered.score[index].nanmean())))
        return take(considered.query, index)

    def order(self, considered: Considered, n: int) -> Tensor:
        """Return the numbers of the ``n`` best candidates, best first.

        Fresh candidates that share no step with a better one come first, while there are any. The result of a smaller ``n`` is a
        prefix of that of a larger one.
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
        if len(picked) < n:  # the others have been shown, at least in part
            rest = score.index_fill(0, torch.tensor(picked, dtype=torch.int64), -torch.inf)
            more = rest.argsort(descending=True, stable=True)[: max(min(n, len(score)) - len(picked), 0)]
            picked += more.tolist()
        return torch.tensor(picked, dtype=torch.int64)

    def metrics(self) -> dict[str, float]:
        """Return the mean score of all candidates and of those that were asked."""
        seen, self._seen = self._seen, []
        if not seen:
            return {}
        return {f"query/score_{self.kind}": seen[-1][0], f"query/score_asked_{self.kind}": seen[-1][1]}


def _chunks(query: Query) -> list[Query]:
    return [Query(query.kind, part, query.length) for part in query.start.split(CHUNK)]


def steps_of(model: Any, labels: Labels) -> Tensor:
    """Return the fingerprints of every observation in the segments of earlier questions, any order, (M,)."""
    if not len(labels):
        return torch.empty(0, dtype=torch.int64)
    kind: Kind = "pair" if labels.start.shape[1] == 2 else "rating"
    return fingerprint(model.observations(Query(kind, labels.start, labels.length))).flatten().unique()


def shows(model: Any, query: Query, asked: Tensor) -> Tensor:
    """Return True if a segment of a question overlaps with one whose observations have the fingerprints ``asked``, (B,), bool.

    Two segments of one length overlap if the first or the last step of one lies in the other. Comparing observations instead of
    row numbers is also valid for data that move or forget rows.
    """
    if not len(asked):
        return torch.zeros(len(query), dtype=torch.bool)
    ends = torch.cat([query.start, query.start + query.length - 1], 1)
    return torch.isin(fingerprint(model.observations(Query(query.kind, ends, 1))).squeeze(-1), asked.to(ends.device)).any(1)


def fingerprint(obs: Tensor) -> Tensor:
    """Return a hash of each observation: (..., O) float32 -> (...,), int64; different ones collide with probability 2^-60."""
    factors = torch.randint(-(2**62), 2**62, (obs.shape[-1],), generator=stream(0, "fingerprint")).to(obs.device) * 2 + 1
    return (obs.contiguous().view(torch.int32).long() * factors).sum(-1)  # integer sums are exact
