"""LiRE's questions: find each new segment's place in a ranked list by binary search.

Source: Choi et al., "Listwise Reward Estimation for Offline Preference-based Reinforcement Learning", ICML 2024
(arXiv 2408.04190), and its released code.

A list of n groups takes about log2(n) answers per new segment and orders it against all members, so that 500 answers
give some 8,000 pairs. The teacher compares two segments at a time and knows nothing of lists; learners read the pairs
with ``pairs: ranked`` (:func:`lightning_pbrl.data.ranking.derived_pairs`).

Differences: the released code looks at its budget between insertions only, asks too much, and drops the segment
it was placing; here asking stops exactly when the budget says so, and the segment that waits is placed first in
the next round. A segment that is in the list is not drawn again. A segment that the teacher cannot compare is dropped.
"""

from __future__ import annotations

import torch

from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.ranking import Groups, RankedLists, rebuild
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.base import QueryStrategy, Scorer


class RankedListQuery(QueryStrategy):
    """One pair at a time: a new segment against a random member of the middle group that is left to it.

    The lists are rebuilt from the labels at every call, so a resumed run needs nothing else.

    Args:
        q_budget: answers after which a list is closed, once the segment at hand has its place; 1 gives
            independent pairs.
    """

    sequential = True

    def __init__(self, q_budget: int = 100) -> None:
        self.q_budget = q_budget

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        if n < 1 or awaits_an_answer(labels):
            return no_pair(pool)
        state = rebuild(RankedLists(), labels)
        groups = state.lists[-1] if state.lists else []
        if state.waiting is not None:
            segment, mid = state.waiting.segment, state.waiting.mid
        elif groups and state.spent < self.q_budget:
            drawn = draw_new(pool, groups, 1, rng)
            if not drawn:
                return no_pair(pool)
            (segment,), mid = drawn, len(groups) // 2
        else:
            return pair(pool, draw_new(pool, groups, 2, rng))
        member = groups[mid][int(torch.randint(len(groups[mid]), (1,), generator=rng))]
        return pair(pool, [segment, member])


def awaits_an_answer(labels: Labels) -> bool:
    """Whether a person still has a question: what to ask next depends on the answer."""
    return bool((labels.status == Status.PENDING).any())


def draw_new(pool: SegmentPool, groups: Groups, count: int, rng: torch.Generator) -> list[int]:
    """``count`` different segments that are not in the list ``groups``; none when the pool has not enough of them."""
    known = {segment for group in groups for segment in group}
    if len(pool) < len(known) + count:
        return []
    drawn: list[int] = []
    while len(drawn) < count:
        segment = int(pool.draw(1, rng))
        if segment not in known:
            known.add(segment)
            drawn.append(segment)
    return drawn


def pair(pool: SegmentPool, segments: list[int]) -> Query:
    """One question about two segments; no question for an empty list."""
    return Query("pair", torch.tensor(segments, dtype=torch.int64).reshape(-1, 2), pool.length)


def no_pair(pool: SegmentPool) -> Query:
    """Nothing to ask."""
    return pair(pool, [])
