"""Disagreement-based queries: pairs on which the ensemble disagrees.

Source: P. Christiano et al., "Deep reinforcement learning from human preferences", 2017 (arXiv 1706.03741), sec. 2.2.4; the
acquisition of OPRL (arXiv 2301.01392) and of B-Pref (arXiv 2111.03026), whose formula this is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.base import QueryStrategy, Scorer, best, check_members, draw_candidates, take


def disagreement(returns: Tensor) -> Tensor:
    """Return the standard deviation over members (ddof 0) of P(second) = sigmoid(R_1 - R_0): (E, B, 2) -> (B,), in [0, 0.5].

    Raises:
        UserError: for a single member, which never disagrees.
    """
    check_members(returns, "UniformQuery, EntropyQuery or KCenterQuery")
    second = torch.sigmoid(returns[..., 1] - returns[..., 0])
    return (second - second.mean(0)).square().mean(0).sqrt()


class DisagreementQuery(QueryStrategy):
    """Uncertainty sampling by ensemble disagreement (Christiano et al. 2017).

    Of n * large_batch random pairs, it proposes the n on which the members' preferences differ most.

    Args:
        large_batch: candidates per question (papers: 10).

    Raises:
        UserError: if the model is an ensemble of one.

    Bias: the members differ most where returns are close. A teacher that skips close pairs therefore skips more of these
    than of uniform ones (CLARIFY, arXiv 2506.00388).
    """

    needs = frozenset({"returns"})

    def __init__(self, large_batch: int = 10) -> None:
        self.large_batch = large_batch

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        """Propose the candidates of largest :func:`disagreement`, largest first."""
        candidates = draw_candidates(pool, n, self.large_batch, rng)
        return take(candidates, best(disagreement(model.returns(candidates)), n))
