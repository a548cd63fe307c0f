"""Coverage-based queries: pairs far from each other and from all earlier ones, by greedy k-center.

Source: B-Pref (arXiv 2111.03026), sec. 5.2, coverage-based and hybrid sampling; O. Sener, S. Savarese, "Active Learning for
Convolutional Neural Networks: A Core-Set Approach", ICLR 2018, Algorithm 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.base import QueryStrategy, Scorer, best, draw_candidates, take
from lightning_pbrl.queries.disagreement import disagreement
from lightning_pbrl.queries.entropy import entropy

BLOCK = 256
"""Number of pairs whose observations are gathered at a time, and which are brought up to date together, at most."""
PER_POINT = 4
"""Number of centres whose reading takes as long as gathering one point."""

Features = Callable[[Tensor], Tensor]
"""Gathers the features of some points: indices (m,) -> (m, D)."""


def k_center(features: Features, count: int, centres: Iterable[Tensor], n: int) -> Tensor:
    """Choose points by greedy farthest-first selection: n times the point farthest (L2) from its nearest centre, a new centre.

    The choice is exact and lazy. A new centre can only bring a point nearer, so the distance that a point had some centres ago
    is an upper bound. Only the points with the largest bounds are compared with the centres that they have not seen; the largest
    that has seen all is chosen. Features are gathered in blocks: what is held grows with n and not with ``count``.

    Distances are ``|x|^2 - 2 x.c + |c|^2`` of centred data, clamped at 0.

    Args:
        features: features of the points to choose from.
        count: number of points, C.
        centres: the first centres, in blocks (l, D); if there are none, the first pick is point 0.
        n: number of points to choose.

    Returns:
        Indices in the order of choice, (min(n, C),), int64, without repetition; of equally far points the first.
    """
    n = min(n, count)
    if n <= 0:
        return torch.empty(0, dtype=torch.int64)
    blocks = torch.arange(count).split(BLOCK)
    one = features(torch.zeros(1, dtype=torch.int64))
    sums = one.new_empty(len(blocks), one.shape[1])  # at once: what is kept between large blocks splits the heap
    for number, block in enumerate(blocks):
        torch.sum(features(block), 0, out=sums[number])
    mean = sums.sum(0) / count
    nearest = torch.full((count,), torch.inf)  # squared distance of each point to its nearest centre, or more

    for given in centres:
        centre = given - mean
        squares = centre.square().sum(1)
        for block in blocks:
            _bring_nearer(nearest, block, features(block).sub_(mean), centre, squares)

    chosen = torch.empty(n, len(mean), device=mean.device)
    squares = torch.empty(n, device=mean.device)
    known = torch.zeros(count, dtype=torch.int64)  # picks that each point has been compared with
    picks: list[int] = []
    while (done := len(picks)) < n:
        pick, wider = int(nearest.argmax()), 1
        while (since := int(known[pick])) < done:
            width = min(wider * max((done - since) // PER_POINT, 1), BLOCK, count)
            top = nearest.topk(width).indices
            top = torch.cat([top[(known[top] >= since) & (known[top] < done) & (top != pick)], torch.tensor([pick])])
            _bring_nearer(nearest, top, features(top).sub_(mean), chosen[since:done], squares[since:done])
            known[top] = done
            pick, wider = int(nearest.argmax()), 2 * wider
        point = features(torch.tensor([pick]))[0] - mean
        chosen[done], squares[done] = point, point.square().sum()
        picks.append(pick)
        nearest[pick] = -1.0  # below every other point: never chosen again
        known[pick] = n
    return torch.tensor(picks)


def _bring_nearer(nearest: Tensor, index: Tensor, points: Tensor, centres: Tensor, squares: Tensor) -> None:
    """Lower the distances of the points ``index``, (m,), to what they are with further centres, in place.

    Args:
        nearest: squared distance of each point to its nearest centre, (C,).
        index: the points, (m,).
        points: their features, (m, D).
        centres: further centres, (l, D).
        squares: squared norms of these, (l,).
    """
    distance = torch.addmm(points.square().sum(1, keepdim=True) + squares, points, centres.T, alpha=-2)
    nearest[index] = torch.minimum(nearest[index], distance.clamp(min=0).amin(1).to(nearest.device))


class KCenterQuery(QueryStrategy):
    """Greedy k-center coverage of observations, given the answered pairs (core-set, Sener and Savarese 2018).

    It chooses n of n * large_batch random pairs. A pair's feature is all observations (no actions) of both its segments, side by
    side: 2 x T x O numbers.

    Args:
        large_batch: candidates per question (papers: 10).

    Raises:
        UserError: if earlier labels are of segments of another length.

    Bias: distances are of raw observations, so coordinates with a large scale dominate. As in B-Pref, skipped questions
    are no centres.
    """

    needs = frozenset({"observations"})

    def __init__(self, large_batch: int = 10) -> None:
        self.large_batch = large_batch

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """Propose the candidates of :meth:`shortlist` that :func:`k_center` picks, in its order."""
        candidates = self.shortlist(draw_candidates(pool, n, self.large_batch, rng), n, model)

        def features(points: Tensor) -> Tensor:
            return model.observations(take(candidates, points)).flatten(1)

        return take(candidates, k_center(features, len(candidates), _labelled(labels, candidates.length, model), n))

    def shortlist(self, candidates: Query, n: int, model: Scorer) -> Query:
        """Return the candidates that k-center may choose from: all."""
        return candidates


class _HybridQuery(KCenterQuery):
    """Base class of k-center among the most informative candidates.

    Args:
        large_batch: candidates per question (papers: 10).
        keep: fraction of the candidates that is kept, in (0, 1] (papers: 0.5); never fewer than requested.
    """

    needs = frozenset({"returns", "observations"})

    def __init__(self, large_batch: int = 10, keep: float = 0.5) -> None:
        super().__init__(large_batch)
        self.keep = keep

    def shortlist(self, candidates: Query, n: int, model: Scorer) -> Query:
        """Return the candidates with the highest scores."""
        score = self.acquisition(model.returns(candidates))
        return take(candidates, best(score, max(n, int(self.keep * len(candidates)))))

    @staticmethod
    @abstractmethod
    def acquisition(returns: Tensor) -> Tensor:
        """Return the score of each candidate, (E, B, 2) -> (B,); the largest are kept."""


class KCenterDisagreementQuery(_HybridQuery):
    """Hybrid sampling: k-center among the half (``keep``) of the candidates with the largest disagreement (B-Pref)."""

    acquisition = staticmethod(disagreement)


class KCenterEntropyQuery(_HybridQuery):
    """Hybrid sampling: k-center among the half (``keep``) of the candidates with the largest entropy (B-Pref)."""

    acquisition = staticmethod(entropy)


def _labelled(labels: Labels, length: int, model: Scorer) -> Iterator[Tensor]:
    """Yield the features of the answered pairs, in blocks (at most BLOCK, 2 T O)."""
    answered = labels.preferences()
    if len(answered) and answered.length != length:
        raise UserError(
            f"The labels so far are of segments of {answered.length} steps and the questions of {length}; k-center "
            "compares them: keep one segment_length per label store."
        )
    for at in range(0, len(answered), BLOCK):
        yield model.observations(Query("pair", answered.start[at : at + BLOCK], length)).flatten(1)
