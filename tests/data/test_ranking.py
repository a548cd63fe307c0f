"""Ranked lists and derived pairs from answers, worked out by hand."""

from __future__ import annotations

import torch

from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.ranking import Chains, RankedLists, derived_pairs, rebuild

SKIP, PENDING = "skip", "pending"


def labels(*answers: tuple[int, int, float | str]) -> Labels:
    """Answers (first, second, value) as a store gives them."""
    words = {SKIP: Status.SKIPPED, PENDING: Status.PENDING, 0.5: Status.EQUAL}
    value = [float("nan") if isinstance(v, str) else v for _, _, v in answers]
    status = [int(words.get(v, Status.ANSWERED)) for _, _, v in answers]
    start = torch.tensor([(a, b) for a, b, _ in answers], dtype=torch.int64).reshape(-1, 2)
    return Labels(start, 7, torch.tensor(value), torch.tensor(status, dtype=torch.int64))


def pairs(derived: Labels) -> dict[tuple[int, int], float]:
    rows = [tuple(row) for row in derived.start.tolist()]
    assert len(set(rows)) == len(rows)
    return dict(zip(rows, derived.value.tolist(), strict=True))


LIST = (
    (10, 20, 1.0),  # [10] [20]
    (30, 20, 0.0),  # 30 against the upper half: better than all: [10] [20] [30]
    (40, 20, 1.0),  # worse than 20 ...
    (40, 10, 0.0),  # ... better than 10: [10] [40] [20] [30]
    (50, 20, 0.5),  # equal to the third group: [10] [40] [20 50] [30]
)


def test_binary_insertion_by_hand() -> None:
    state = RankedLists()
    seen = []
    for answer in LIST:
        state.add(*answer)
        waiting = None if state.waiting is None else (state.waiting.segment, state.waiting.low, state.waiting.high)
        seen.append(([list(group) for group in state.lists[-1]], waiting, state.spent))
    assert seen == [
        ([[10], [20]], None, 1),
        ([[10], [20], [30]], None, 2),
        ([[10], [20], [30]], (40, 0, 1), 3),
        ([[10], [40], [20], [30]], None, 4),
        ([[10], [40], [20, 50], [30]], None, 5),
    ]


def test_derived_pairs_by_hand() -> None:
    derived = derived_pairs(labels(*LIST), "ranked")
    assert pairs(derived) == {
        (10, 40): 1.0,
        (10, 20): 1.0,
        (10, 50): 1.0,
        (10, 30): 1.0,
        (40, 20): 1.0,
        (40, 50): 1.0,
        (40, 30): 1.0,
        (20, 50): 0.5,
        (20, 30): 1.0,
        (50, 30): 1.0,
    }
    assert derived.length == 7
    equal = derived.value == 0.5
    assert (derived.status[equal] == Status.EQUAL).all() and (derived.status[~equal] == Status.ANSWERED).all()


def test_an_unfinished_insertion_is_in_no_pair() -> None:
    derived = derived_pairs(labels(*LIST[:3]), "ranked")
    assert pairs(derived) == {(10, 20): 1.0, (10, 30): 1.0, (20, 30): 1.0}


def test_lists_are_never_mixed() -> None:
    # (60, 70) names no member of the middle group: it begins a second list, which goes on with 80.
    both = labels(*LIST, (60, 70, 0.5), (80, 60, 1.0))
    state = rebuild(RankedLists(), both)
    assert state.lists[1] == [[80], [60, 70]] and state.spent == 2
    found = pairs(derived_pairs(both, "ranked"))
    assert len(found) == 10 + 3
    second = {pair: value for pair, value in found.items() if max(pair) >= 60}
    assert second == {(80, 60): 1.0, (80, 70): 1.0, (60, 70): 0.5}


def test_independent_pairs_are_lists_of_two() -> None:
    uniform = labels((1, 2, 1.0), (3, 4, 0.0), (5, 6, 0.5), (7, 8, SKIP), (9, 11, 0.0))
    for kind in ("ranked", "chain"):
        assert pairs(derived_pairs(uniform, kind)) == {(1, 2): 1.0, (4, 3): 1.0, (5, 6): 0.5, (11, 9): 1.0}  # (worse, better)


def test_skipped_and_pending_answers_place_nothing() -> None:
    # 40 is dropped in the middle of its insertion, 60 at its beginning; the skips are spent all the same.
    some = labels(*LIST[:3], (40, 10, SKIP), (60, 20, SKIP), (50, 20, 0.5), (70, 20, PENDING))
    state = rebuild(RankedLists(), some)
    assert state.lists == [[[10], [20, 50], [30]]]
    assert state.waiting is None and state.spent == 6


def test_chain_by_hand() -> None:
    answers = labels(
        (1, 2, 1.0),  # up: 1 < 2
        (2, 3, 0.5),  # equal to the top: 1 < 2 = 3
        (3, 4, 1.0),  # still up: 1 < 2 = 3 < 4
        (4, 5, 0.0),  # down: a new list 5 < 4
        (5, 6, 0.5),  # equal to the bottom
        (6, 7, SKIP),  # dropped
        (6, 8, 0.0),  # still down: 8 < 5 = 6 < 4
        (8, 9, 1.0),  # up again: 8 < 9
        (20, 21, 0.5),  # not a continuation: a list of its own without a direction ...
        (21, 22, 0.0),  # ... until now: 22 < 20 = 21
    )
    state = rebuild(Chains(), answers)
    assert state.lists == [[[1], [2, 3], [4]], [[8], [5, 6], [4]], [[8], [9]], [[22], [20, 21]]]
    assert (state.last, state.direction) == (22, -1)
    found = pairs(derived_pairs(labels(*zip([1, 2, 3], [2, 3, 4], [1.0, 0.5, 1.0], strict=True)), "chain"))
    assert found == {(1, 2): 1.0, (1, 3): 1.0, (1, 4): 1.0, (2, 3): 0.5, (2, 4): 1.0, (3, 4): 1.0}
    assert len(derived_pairs(answers, "chain")) == 6 + 6 + 1 + 3


def test_no_answers_no_pairs() -> None:
    for kind in ("ranked", "chain"):
        derived = derived_pairs(Labels.empty(7), kind)
        assert derived.start.shape == (0, 2) and derived.value.shape == (0,) and derived.status.shape == (0,)
