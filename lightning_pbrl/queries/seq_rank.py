"""SeqRank's queries: each new segment is compared with its predecessor.

Source: Hwang et al., "Sequential Preference Ranking for Efficient Reinforcement Learning from Human Feedback", NeurIPS 2023, in
the form in which LiRE (arXiv 2408.04190) runs it as a baseline. Runs of one direction are ranked lists; learners read their pairs
with ``pairs: chain`` (:func:`lightning_pbrl.data.ranking.derived_pairs`).
"""

from __future__ import annotations

import torch

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.ranking import Chains, rebuild
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.base import QueryStrategy, Scorer
from lightning_pbrl.queries.ranked_list import awaits_an_answer, draw_new, no_pair, pair


class SeqRankQuery(QueryStrategy):
    """Sequential pairwise comparisons in a chain of segments (SeqRank, Hwang et al. 2023).

    Each question compares the newest segment of the chain with a new random one. A segment that the teacher cannot compare is
    dropped, and the next one is compared with the same predecessor. The chain continues in the next round; it is rebuilt from the
    labels at every call.
    """

    sequential = True

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        if n < 1 or awaits_an_answer(labels):
            return no_pair(pool)
        state = rebuild(Chains(), labels)
        if state.last is None:
            return pair(pool, draw_new(pool, [], 2, rng))
        drawn = draw_new(pool, state.lists[-1], 1, rng)
        return pair(pool, [state.last, *drawn]) if drawn else no_pair(pool)
