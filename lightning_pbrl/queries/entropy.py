"""Entropy-based queries: pairs on which the members themselves are uncertain.

Source: B-Pref (arXiv 2111.03026), sec. 5.2, uncertainty-based sampling by entropy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.base import QueryStrategy, Scorer, best, draw_candidates, take


def entropy(returns: Tensor) -> Tensor:
    """Return the mean over members of the entropy of Bernoulli(sigmoid(R_1 - R_0)): (E, B, 2) -> (B,), nats, in [0, log 2].

    With d = R_1 - R_0: -p log p - (1 - p) log(1 - p) = p softplus(-d) + (1 - p) softplus(d), finite for any d.
    """
    gap = returns[..., 1] - returns[..., 0]
    return (torch.sigmoid(gap) * F.softplus(-gap) + torch.sigmoid(-gap) * F.softplus(gap)).mean(0)


class EntropyQuery(QueryStrategy):
    """Uncertainty sampling by entropy (B-Pref, Lee et al. 2021).

    Of n * large_batch random pairs, it proposes the n whose predicted preference is closest to a coin toss.

    Args:
        large_batch: candidates per question (papers: 10).
    """

    needs = frozenset({"returns"})

    def __init__(self, large_batch: int = 10) -> None:
        self.large_batch = large_batch

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """Propose the candidates of largest :func:`entropy`, largest first."""
        candidates = draw_candidates(pool, n, self.large_batch, rng)
        return take(candidates, best(entropy(model.returns(candidates)), n))
