"""LiRE's queries: binary search for the position of each new segment in a ranked list.

Source: Choi et al., "Listwise Reward Estimation for Offline Preference-based Reinforcement Learning", ICML 2024 (arXiv
2408.04190), and its released code.

A list of n groups takes about log2(n) answers per new segment and orders it against all members, so 500 answers give some 8,000
pairs. The teacher compares two segments at a time and knows nothing of lists. Learners read the pairs with ``pairs: ranked``
(:func:`lightning_pbrl.data.ranking.derived_pairs`).

Differences: the released code checks its budget between insertions only, asks too much, and drops the segment of the unfinished
insertion. Here asking stops exactly at the budget, and the next round first finishes that insertion. A segment that is in the
list is not drawn again. A segment that the teacher cannot compare is dropped.
"""

from __future__ import annotations

import torch

from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.ranking import Groups, RankedLists, rebuild
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.queries.base import QueryStrategy, Scorer


class RankedListQuery(QueryStrategy):
    """Ranked lists grown by binary insertion, one pair at a time (LiRE, Choi et al. 2024).

    Each question compares a new segment with a random member of the middle group of its remaining range. The lists are rebuilt
    from the labels at every call, so a resumed run needs no other state.

    Args:
        q_budget: number of answers after which a list is closed, once the current segment is inserted; 1 gives
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
    """Return True while a question is pending: the next question depends on its answer."""
    return bool((labels.status == Status.PENDING).any())


def draw_new(pool: SegmentPool, groups: Groups, count: int, rng: torch.Generator) -> list[int]:
    """Draw ``count`` different segments that are not in the list ``groups``; none if the pool has too few of them."""
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
    """Return one question about two segments; no question for an empty list."""
    return Query("pair", torch.tensor(segments, dtype=torch.int64).reshape(-1, 2), pool.length)


def no_pair(pool: SegmentPool) -> Query:
    """Return an empty query."""
    return pair(pool, [])
