"""Policy-aligned query selection of QPA: questions about the policy's newest behaviour.

Source: X. Hu, J. Li, X. Zhan, Q.-S. Jia, Y.-Q. Zhang, "Query-Policy Misalignment in Preference-Based Reinforcement Learning",
ICLR 2024 (arXiv 2305.17400), and its released code.

Answers about past behaviour train the reward model in states that the policy no longer visits. The remedy is a window: candidates
come from the newest trajectories only. The choice within the window is independent of it, and uniform in the paper. A wide window
is what PEBBLE's code uses (its last 100 trajectories).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_pbrl.data.feedback import Kind, Labels, Query
from lightning_pbrl.data.replay import RECENT_EPISODES
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.around import AroundQuery
from lightning_pbrl.queries.base import QueryStrategy, Scorer


class PolicyAlignedQuery(AroundQuery):
    """Policy-aligned selection: another strategy on the newest episodes only (QPA, Hu et al. 2024).

    Args:
        recent: number N of newest finished episodes in the window, at least 1; in a data set its last N (paper: 10; 30 or 60
            in Meta-World; PEBBLE's code: 100). None follows the method's own ``recent`` (QPA), and is 10 if it has none.
        inner: strategy within the window; None for uniform pairs, as in the paper.

    Raises:
        UserError: for a window without episodes.

    Bias: a short window holds similar segments, which a person may be unable to compare.
    """

    def __init__(self, recent: int | None = None, inner: QueryStrategy | None = None) -> None:
        super().__init__(inner)
        self.follows, self.recent = recent is None, recent or RECENT_EPISODES
        self.kinds, self.sequential, self.segments = self.inner.kinds, self.inner.sequential, self.inner.segments

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Follow the method's window, if none was given."""
        if self.follows:
            self.recent = settings.get("recent") or RECENT_EPISODES
        self.inner.begin(settings)

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """Propose as ``inner`` does; the pool is already that of the window."""
        return self.inner.propose(pool, n, model, labels, rng)

    def proposals(
        self, pool: SegmentPool, n: int, model: Scorer, labels: Mapping[Kind, Labels], rng: torch.Generator
    ) -> list[Query]:
        return self.inner.proposals(pool, n, model, labels, rng)
