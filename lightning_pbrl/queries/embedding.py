"""CLARIFY's queries: rejection sampling on embedding distances, to ask about pairs that the teacher can probably compare.

Source: CLARIFY (ICML 2025, arXiv 2506.00388) and its released code for constants. The distance of a pair is the Euclidean
distance of its two segments' embeddings. Candidates are kept at distances where clear answers have outnumbered skips.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.base import QueryStrategy, best, draw_candidates, take
from lightning_pbrl.queries.disagreement import disagreement

Array = NDArray[np.float64]
TINY = 1e-6
"""Constant added to denominators (released code), and the relative spread below which all distances count as equal."""
FLOOR = 1e-3
"""Weight of the max-ratio target on every bin but the best (released code)."""
PSEUDO_COUNT = 1.0
"""Number of pseudo-rows, distributed like all rows, that the kernel estimate adds to either class.

With few data, the classes then look alike.
"""


def histogram(x: Array, edges: Array, closed: bool = True) -> Array:
    """Return the fraction of the numbers in each bin [lo, hi), among those in any bin: (N,), (K + 1,) -> (K,).

    Args:
        x: numbers, (N,).
        edges: edges of the bins, increasing, (K + 1,).
        closed: include the upper end of the last bin.
    """
    number = np.searchsorted(edges, x, side="right") - 1
    if closed:
        number = np.where(x == edges[-1], len(edges) - 2, number)
    inside = (number >= 0) & (number < len(edges) - 1)
    return normal(np.bincount(number[inside], minlength=len(edges) - 1).astype(np.float64))


def kernel_density(x: Array, at: Array, bandwidth: float) -> Array:
    """Return the Gaussian kernel density estimate at the points ``at``, scaled to sum 1: (N,), (K,) -> (K,)."""
    return normal(np.exp(-0.5 * ((at[:, None] - x) / bandwidth) ** 2).sum(1))


def normal(x: Array) -> Array:
    """Scale to sum 1; zeros stay zeros."""
    total = x.sum()
    return x / total if total > 0 else x


def class_ratios(everything: Array, clear: Array, skipped: Array) -> tuple[Array, Array]:
    """Return the over-representation of each class per bin, each scaled to sum 1: rho ~ class / all."""
    return normal(clear / (everything + TINY)), normal(skipped / (everything + TINY))


def clarify_target(everything: Array, clear: Array, skipped: Array) -> Array:
    """Return CLARIFY's target density of questions, q = p (rho_1 + rho_2) / 2, (K,) each -> (K,).

    It averages the classes' difference and their ratio.
    """
    of_clear, of_skipped = class_ratios(everything, clear, skipped)
    difference = normal(np.maximum(of_clear - of_skipped, 0.0) * everything)
    ratio = normal(of_clear / (of_skipped + TINY) * everything)
    return (difference + ratio) / 2


def max_ratio_target(everything: Array, clear: Array, skipped: Array) -> Array:
    """Return the same weight on every bin with the largest ratio of clear to skipped (the paper's ablation), (K,) each -> (K,).

    Several bins share the largest ratio if no pair was skipped and clear ones are equally over-represented.
    """
    of_clear, of_skipped = class_ratios(everything, clear, skipped)
    ratio = of_clear / (of_skipped + TINY)
    return FLOOR + (ratio == ratio.max()).astype(np.float64)


def acceptance(distance: Array, centres: Array, target: Array, candidates: Array, exact: bool = False) -> Array:
    """Return the acceptance probability of each candidate: the ratio of target to candidate density.

    Both densities are interpolated between bin centres.

    Args:
        distance: distances of the candidates, (N,).
        centres: centres of the bins, (K,).
        target: target density at the centres.
        candidates: the candidates' own density at the centres.
        exact: divide by the largest ratio, so that the kept candidates follow the target exactly; else clip ratios at 1
            (released code), which keeps more and follows it approximately.
    """
    ratio = np.interp(distance, centres, target) / (np.interp(distance, centres, candidates) + TINY)
    return np.clip(ratio / max(ratio.max(initial=0.0), TINY) if exact else ratio, 0.0, 1.0)


def within(x: Array, sigmas: float) -> NDArray[np.bool_]:
    """Return True for numbers within ``sigmas`` standard deviations (ddof 0) of the mean; True for all if none varies."""
    return (np.abs(x - x.mean()) < sigmas * x.std()) | (x.std() == 0)


def separation(clear: Array, skipped: Array) -> float:
    """Return the probability that a clear pair's distance exceeds a skipped pair's, ties counted half (AUC).

    NaN without both classes.
    """
    if not len(clear) or not len(skipped):
        return float("nan")
    order = np.sort(skipped)
    below, upto = np.searchsorted(order, clear, side="left"), np.searchsorted(order, clear, side="right")
    return float((below + upto).mean() / (2 * len(skipped)))


class Grid(NamedTuple):
    """Grid on which densities of distances are estimated.

    Attributes:
        edges: edges of the bins, (K + 1,).
        bandwidth: bandwidth of the kernel estimates.
    """

    edges: Array
    bandwidth: float

    @property
    def centres(self) -> Array:
        """Centres of the bins, (K,)."""
        return (self.edges[:-1] + self.edges[1:]) / 2


class EmbeddingQuery(QueryStrategy):
    """Rejection sampling on embedding distances, then ensemble disagreement (CLARIFY, ICML 2025).

    Of n * large_batch random pairs it keeps those that rejection sampling accepts, and proposes the n of largest
    disagreement. It falls back to disagreement alone if the answers are of a single class, all clear or all skipped
    (``query/single_class``), or if all distances are equal (``query/collapsed``). If too few candidates are kept, it draws
    new ones up to ``redraws`` times. Then it fills up by disagreement (``query/filled`` questions). Equal answers belong to
    neither class.

    Args:
        large_batch: number of candidates per question (paper 10).
        density: kernel: Gaussian kernel with Scott's bandwidth and one pseudo-row per class, so that an empty bin
            is not an infinite ratio. histogram: that of the released code.
        target: clarify, or max_ratio (the paper's ablation: the best bin, or several tied ones).
        rejection: clipped (released code) or exact; see :func:`acceptance`.
        bins: number of points at which densities are estimated, over the range of the answered pairs' distances.
        outlier: leave out distances this many standard deviations from the mean, of answers and of candidates.
        rows: all answered pairs, or resampled: n * large_batch of them with replacement, ten times as many for max_ratio
            (released code).
        redraws: largest number of new draws of candidates if too few are kept (released code 0).
        fill: fill up by disagreement after the last redraw; false proposes fewer questions than requested, unless none was
            kept.
        pick: selection among the kept pairs: those of largest disagreement (paper), or random ones, to isolate the effect of
            rejection sampling.

    Raises:
        UserError: for a setting out of range, or if the model is an ensemble of one.

    Differences: the released code stops with an error without both classes, and charges a short round in full. Here questions
    that are not proposed are not charged.
    """

    needs = frozenset({"returns", "embed"})

    def __init__(
        self,
        large_batch: int = 10,
        density: Literal["kernel", "histogram"] = "kernel",
        target: Literal["clarify", "max_ratio"] = "clarify",
        rejection: Literal["clipped", "exact"] = "clipped",
        bins: int = 32,
        outlier: float = 3.0,
        rows: Literal["all", "resampled"] = "all",
        redraws: int = 4,
        fill: bool = True,
        pick: Literal["disagreement", "random"] = "disagreement",
    ) -> None:
        self.large_batch = large_batch
        self.density, self.target, self.rejection = density, target, rejection
        self.bins, self.outlier, self.rows = bins, outlier, rows
        self.redraws, self.fill, self.pick = redraws, fill, pick
        self._counts: dict[str, float] = {}

    def metrics(self) -> dict[str, float]:
        """Return counts since the last call: candidates, accepted, redraws, filled, and the two fallbacks; and the answers' AUC.

        ``query/accepted`` counts the candidates that rejection sampling kept, before the best n are taken.
        ``query/embedding_auc`` is :func:`separation` of the answered pairs (on which the encoder was trained).
        """
        names = ("candidates", "accepted", "redraws", "filled", "single_class", "collapsed")
        counts = {f"query/{name}": 0.0 for name in names} | self._counts
        self._counts = {}
        return counts

    def _count(self, name: str, number: float = 1.0) -> None:
        self._counts[f"query/{name}"] = self._counts.get(f"query/{name}", 0.0) + number

    def propose(self, pool: SegmentPool, n: int, model: Any, labels: Labels, rng: torch.Generator) -> Query:
        """Propose at most ``n`` pairs, largest disagreement first (see the class)."""
        wanted = self._wanted(n, model, labels, rng)
        kept, left = [], []
        for attempt in range(1 if wanted is None else 1 + self.redraws):
            self._count("redraws", float(attempt > 0))
            candidates = draw_candidates(pool, n, self.large_batch, rng)
            self._count("candidates", len(candidates))
            if wanted is None:
                kept.append(candidates.start)
                break
            accept = self._accept(*wanted, distances(model, candidates), rng)
            self._count("accepted", float(accept.sum()))
            kept.append(candidates.start[accept])
            left.append(candidates.start[~accept])
            if sum(map(len, kept)) >= n:
                break
        found = Query("pair", torch.cat(kept), pool.length)
        # Candidates come in random order, so the first n that were kept are n random ones.
        chosen = take(found, torch.arange(len(found))[:n]) if self.pick == "random" and left else most_disagreed(model, found, n)
        missing = n - len(chosen)
        if missing and left and (self.fill or not len(chosen)):
            more = most_disagreed(model, Query("pair", torch.cat(left), pool.length), missing)
            self._count("filled", len(more))
            chosen = Query("pair", torch.cat([chosen.start, more.start]), pool.length)
        return chosen

    def _wanted(self, n: int, model: Any, labels: Labels, rng: torch.Generator) -> tuple[Grid, Array] | None:
        """Return the target density of distances and its grid, or None (counted) if the answers do not define it."""
        answered = (labels.status != Status.PENDING).nonzero().squeeze(-1).cpu()
        if not self._both_classes(labels.status.cpu()[answered].numpy()):
            return None
        distance = distances(model, Query("pair", labels.start[answered], labels.length))
        status = labels.status.cpu()[answered].numpy()
        clear, skipped = distance[status == Status.ANSWERED], distance[status == Status.SKIPPED]
        self._counts["query/embedding_auc"] = separation(clear, skipped)
        if self.rows == "resampled":
            draws = n * self.large_batch * (10 if self.target == "max_ratio" else 1)
            index = torch.randint(len(distance), (draws,), generator=rng).numpy()
            distance, status = distance[index], status[index]
        inside = within(distance, self.outlier)
        distance, status = distance[inside], status[inside]
        if not len(distance) or not np.ptp(distance) > TINY * distance.max():  # also when a distance is NaN
            self._count("collapsed")
            return None
        if not self._both_classes(status):
            return None
        scott = float(distance.std() * len(distance) ** -0.2)  # Scott's rule in one dimension
        grid = Grid(np.linspace(distance.min(), distance.max(), self.bins + 1), scott)
        everything = self._estimate(distance, grid)
        classes = [distance[status == kind] for kind in (Status.ANSWERED, Status.SKIPPED)]
        if self.density == "kernel":
            parts = [(len(c) * self._estimate(c, grid) + PSEUDO_COUNT * everything) / (len(c) + PSEUDO_COUNT) for c in classes]
        else:
            parts = [histogram(c, grid.edges, closed=False) for c in classes]
        target = clarify_target if self.target == "clarify" else max_ratio_target
        return grid, target(everything, *parts)

    def _both_classes(self, status: NDArray[np.int64]) -> bool:
        both = bool((status == Status.ANSWERED).any() and (status == Status.SKIPPED).any())
        self._count("single_class", float(not both))
        return both

    def _estimate(self, distance: Array, grid: Grid) -> Array:
        if self.density == "kernel":
            return kernel_density(distance, grid.centres, grid.bandwidth)
        return histogram(distance, grid.edges)

    def _accept(self, grid: Grid, target: Array, distance: Array, rng: torch.Generator) -> torch.Tensor:
        """Return True for candidates that are kept, (N,), bool."""
        inside = within(distance, self.outlier)
        density = self._estimate(distance[inside], grid)
        chance = acceptance(distance, grid.centres, target, density, self.rejection == "exact") * inside
        drawn = torch.rand(len(distance), generator=rng, dtype=torch.float64)
        return drawn < torch.from_numpy(chance)


def distances(model: Any, query: Query) -> Array:
    """Return the Euclidean distance of each pair's embeddings, (B,)."""
    z = model.embed(query).double()
    return (z[:, 0] - z[:, 1]).norm(dim=-1).cpu().numpy()


def most_disagreed(model: Any, candidates: Query, n: int) -> Query:
    """Return the ``n`` candidates of largest disagreement, largest first."""
    if not len(candidates):
        return candidates
    return take(candidates, best(disagreement(model.returns(candidates)), n))
