"""Ask about what the policy does now: QPA's policy-aligned query selection.

Source: X. Hu, J. Li, X. Zhan, Q.-S. Jia, Y.-Q. Zhang, "Query-Policy Misalignment in Preference-Based Reinforcement
Learning", ICLR 2024 (arXiv 2305.17400), and its released code.

Answers about behaviour that the policy has left behind teach the reward model where the policy does not go. The remedy is a
window: candidates come from the newest trajectories only. How the questions are chosen within it is another matter, uniformly in
the paper; with a wide window it is what PEBBLE's code does (its last 100 trajectories).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_pbrl.data.feedback import Answer, Kind, Labels, Query
from lightning_pbrl.data.replay import RECENT_EPISODES
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.base import QueryStrategy, Scorer
from lightning_pbrl.queries.uniform import UniformQuery


class PolicyAlignedQuery(QueryStrategy):
    """Another strategy's questions, about the newest episodes only.

    Args:
        recent: N, newest finished episodes that questions are about, at least 1; in a data set its last N (paper: 10; 30 or 60
            in Meta-World; PEBBLE's code: 100). None follows the method's own ``recent`` (QPA), and is 10 where it has none.
        inner: chooses within the window; uniform pairs when None, as in the paper.

    Raises:
        UserError: for a window without episodes.

    Bias: a short window holds segments that look alike, which a person may be unable to compare.
    """

    def __init__(self, recent: int | None = None, inner: QueryStrategy | None = None) -> None:
        self.follows = recent is None
        self.recent, self.inner = recent or RECENT_EPISODES, inner or UniformQuery()
        self.kinds, self.needs, self.sequential = self.inner.kinds, self.inner.needs, self.inner.sequential

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Take over the method's window, if none was given."""
        if self.follows:
            self.recent = settings.get("recent") or RECENT_EPISODES
        self.inner.begin(settings)

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """What ``inner`` proposes; the pool is of the window already."""
        return self.inner.propose(pool, n, model, labels, rng)

    def proposals(
        self, pool: SegmentPool, n: int, model: Scorer, labels: Mapping[Kind, Labels], rng: torch.Generator
    ) -> list[Query]:
        return self.inner.proposals(pool, n, model, labels, rng)

    def notes(self) -> dict[str, Any]:
        return self.inner.notes()

    def recall(self, notes: Mapping[str, Any]) -> None:
        self.inner.recall(notes)

    def observe(self, query: Query, answer: Answer) -> None:
        self.inner.observe(query, answer)

    def metrics(self) -> dict[str, float]:
        return self.inner.metrics()
