"""Queries for corrections: a segment, and another way to go on from nearly the same situation."""

from __future__ import annotations

import torch

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.base import QueryStrategy, Scorer
from lightning_pbrl.queries.best_of import different
from lightning_pbrl.ranges import COUNT


class CorrectionQuery(QueryStrategy, ranges={"large_batch": COUNT}):
    """Corrections: pairs of a random segment and the one among others that begins nearest to it.

    The distance is that of the first observations, each coordinate in standard deviations over all candidates. Whoever answers
    prefers the second segment where it corrects the first, and otherwise cannot tell
    (:class:`~lightning_pbrl.teachers.correcting.CorrectingTeacher`).

    Args:
        large_batch: candidates per question.
    """

    needs = frozenset({"observations"})

    def __init__(self, large_batch: int = 100) -> None:
        self.large_batch = large_batch

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """Propose exactly ``n`` pairs."""
        start = different(pool, n, min(1 + self.large_batch, len(pool)), rng).start
        first = model.observations(Query("best", start, 1))[:, :, 0]  # (n, 1 + K, O)
        first = first / first.flatten(0, 1).std(0).clamp(min=1e-6)
        nearest = 1 + (first[:, 1:] - first[:, :1]).square().sum(-1).argmin(1).to(start.device)
        return Query("pair", torch.stack([start[:, 0], start[torch.arange(n), nearest]], 1), pool.length)
