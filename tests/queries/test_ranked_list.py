"""Questions that build ranked lists: against a slow transcription of the algorithm, exact budgets, resume anywhere."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.ranking import RankedLists, rebuild
from lightning_pbrl.data.segments import Episodes, SegmentPool
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.base import QueryStrategy, Scorer
from lightning_pbrl.queries.ranked_list import RankedListQuery
from lightning_pbrl.queries.seq_rank import SeqRankQuery

POOL = SegmentPool(Episodes(torch.tensor([0, 900, 2000])), 5)
NOBODY = cast(Scorer, None)  # these strategies ask the model nothing


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def worth(segment: int) -> int:
    """True value of a segment: 23 levels, so that ties happen."""
    return segment * 7919 % 23


def compare(first: int, second: int) -> float:
    return 0.5 if worth(first) == worth(second) else float(worth(second) > worth(first))


def ask(strategy: QueryStrategy, budget: int, generator: torch.Generator, labels: Labels | None = None, skip: int = 0) -> Labels:
    """Ask until ``budget`` answers are there or nothing is proposed; every ``skip``-th question cannot be compared."""
    labels = labels or Labels.empty(POOL.length)
    while len(labels) < budget:
        query = strategy.propose(POOL, budget - len(labels), NOBODY, labels, generator)
        if not len(query):
            break
        assert len(query) == 1
        value, status = compare(*query.start[0].tolist()), Status.ANSWERED
        if value == 0.5:
            status = Status.EQUAL
        if skip and (len(labels) + 1) % skip == 0:
            value, status = float("nan"), Status.SKIPPED
        labels = append(labels, query, value, status)
    return labels


def append(labels: Labels, query: Query, value: float, status: Status) -> Labels:
    return Labels(
        torch.cat([labels.start, query.start]),
        query.length,
        torch.cat([labels.value, torch.tensor([value])]),
        torch.cat([labels.status, torch.tensor([int(status)])]),
    )


def slow_lists(total: int, q_budget: int, generator: torch.Generator) -> tuple[list[tuple[int, int]], list[list[list[int]]]]:
    """LiRE's collection as its paper tells it: loops over lists, segments and comparisons; draws as ours does.

    Returns the questions and the lists, the last insertion left out when the budget ends inside it.
    """
    asked: list[tuple[int, int]] = []
    lists: list[list[list[int]]] = []

    def draw(known: list[list[int]]) -> int:
        while True:
            segment = int(POOL.draw(1, generator))
            if all(segment not in group for group in known):
                return segment

    while len(asked) < total:
        before = lists[-1] if lists else []
        a = draw(before)
        b = draw([*before, [a]])
        asked.append((a, b))
        answer = compare(a, b)
        ranking = [[a, b]] if answer == 0.5 else [[a], [b]] if answer == 1 else [[b], [a]]
        lists.append(ranking)
        spent = 1
        while spent < q_budget and len(asked) < total:
            x, low, high, tied = draw(ranking), 0, len(ranking), False
            while low < high and not tied:
                if len(asked) == total:
                    return asked, lists
                mid = (low + high) // 2
                y = ranking[mid][int(torch.randint(len(ranking[mid]), (1,), generator=generator))]
                asked.append((x, y))
                spent += 1
                answer = compare(x, y)
                if answer == 1:
                    high = mid
                elif answer == 0:
                    low = mid + 1
                else:
                    ranking[mid].append(x)
                    tied = True
            if not tied:
                ranking.insert(low, [x])
    return asked, lists


@pytest.mark.parametrize(("total", "q_budget"), [(60, 100), (60, 1), (83, 20), (120, 7), (1, 5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_questions_and_lists_are_those_of_the_slow_loop(total: int, q_budget: int, seed: int) -> None:
    labels = ask(RankedListQuery(q_budget), total, rng(seed))
    asked, lists = slow_lists(total, q_budget, rng(seed))
    assert [tuple(row) for row in labels.start.tolist()] == asked
    assert len(labels) == total  # not one answer more, wherever the insertion stands
    assert rebuild(RankedLists(), labels).lists == lists
    for groups in lists:
        values = [[worth(segment) for segment in group] for group in groups]
        assert all(len(set(group)) == 1 for group in values)
        assert [group[0] for group in values] == sorted({group[0] for group in values})


def test_budget_one_asks_independent_pairs() -> None:
    state = rebuild(RankedLists(), ask(RankedListQuery(1), 30, rng()))
    assert [sum(map(len, groups)) for groups in state.lists] == [2] * 30


def test_a_list_closes_after_its_budget_once_the_segment_is_placed() -> None:
    labels = ask(RankedListQuery(10), 200, rng())
    spent, state = [], RankedLists()
    for (first, second), value in zip(labels.start.tolist(), labels.value.tolist(), strict=True):
        lists = len(state.lists)
        before = state.spent
        state.add(first, second, value)
        if len(state.lists) > lists and lists:
            spent.append(before)
    assert len(spent) > 10
    assert min(spent) >= 10 and max(spent) <= 10 + 2  # at most 8 groups by then: an insertion needs 3 answers


def test_the_unfinished_segment_comes_first_in_the_next_round() -> None:
    strategy = RankedListQuery()
    for budget in range(3, 60):
        labels = ask(strategy, budget, rng(1))
        state = rebuild(RankedLists(), labels)
        query = strategy.propose(POOL, 50, NOBODY, labels, rng(99))  # another round, another generator
        if state.waiting is None:
            assert query.start[0, 0] not in labels.start
        else:
            assert query.start[0, 0] == state.waiting.segment == labels.start[-1, 0]
            assert query.start[0, 1] in state.lists[-1][state.waiting.mid]


@pytest.mark.parametrize("strategy", [RankedListQuery(8), SeqRankQuery()], ids=["ranked", "chain"])
@pytest.mark.parametrize("skip", [0, 5])
def test_a_replayed_round_asks_the_same(strategy: QueryStrategy, skip: int) -> None:
    """A crash in a round: its generator starts again, stored answers stand in, a new object knows nothing else."""
    labels = ask(strategy, 40, rng(3), skip=skip)
    again = type(strategy)(8) if isinstance(strategy, RankedListQuery) else SeqRankQuery()
    generator, known = rng(3), Labels.empty(POOL.length)
    for number in range(40):
        query = again.propose(POOL, 40 - number, NOBODY, known, generator)
        assert torch.equal(query.start[0], labels.start[number])
        known = Labels(labels.start[: number + 1], POOL.length, labels.value[: number + 1], labels.status[: number + 1])


def test_skipped_segments_are_dropped() -> None:
    labels = ask(RankedListQuery(), 60, rng(), skip=4)
    members = {segment for groups in rebuild(RankedLists(), labels).lists for group in groups for segment in group}
    dropped = set(labels.start[labels.status == Status.SKIPPED, 0].tolist())
    assert len(dropped) == 15 and not dropped & members


def test_chain_compares_each_segment_with_the_one_before() -> None:
    labels = ask(SeqRankQuery(), 50, rng())
    assert torch.equal(labels.start[1:, 0], labels.start[:-1, 1])
    assert len(labels) == 50
    skipping = ask(SeqRankQuery(), 50, rng(), skip=3)
    for before, after, status in zip(skipping.start[:-1], skipping.start[1:], skipping.status[:-1], strict=True):
        assert after[0] == (before[0] if status == Status.SKIPPED else before[1])


@pytest.mark.parametrize("strategy", [RankedListQuery(), SeqRankQuery()], ids=["ranked", "chain"])
def test_it_waits_for_a_person_and_stops_when_nothing_is_new(strategy: QueryStrategy) -> None:
    first = strategy.propose(POOL, 5, NOBODY, Labels.empty(POOL.length), rng())
    pending = append(Labels.empty(POOL.length), first, float("nan"), Status.PENDING)
    assert strategy.propose(POOL, 4, NOBODY, pending, rng()).start.shape == (0, 2)
    assert strategy.propose(POOL, 0, NOBODY, Labels.empty(POOL.length), rng()).start.shape == (0, 2)
    two = SegmentPool(Episodes(torch.tensor([0, 6])), 5)
    pair = strategy.propose(two, 5, NOBODY, Labels.empty(5), rng())
    assert sorted(pair.start[0].tolist()) == [0, 1]
    known = append(Labels.empty(5), pair, 1.0, Status.ANSWERED)
    assert len(strategy.propose(two, 5, NOBODY, known, rng())) == 0


def test_settings() -> None:
    with pytest.raises(UserError, match="RankedListQuery got q_budget=0: give a number of at least 1"):
        RankedListQuery(q_budget=0)
    assert RankedListQuery(7).describe() == {"class": "RankedListQuery", "q_budget": 7}
