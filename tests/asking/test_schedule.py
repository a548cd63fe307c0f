"""How many questions a round asks: schedules by hand, budgets that are spent exactly, rounds that cannot spend them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

from lightning_pbrl.asking.checks import check_rounds
from lightning_pbrl.asking.plan import AskingPlan
from lightning_pbrl.asking.schedule import InitialShare, Progress, Spread, rounds_left, schedule_of
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.quota import FixedShare
from lightning_pbrl.teachers.simulated import SimulatedTeacher


class Learner:
    """Knows how long a run is, and nothing else."""

    kinds = frozenset({"pair"})
    context = env_steps = 0
    hparams: Any = {}

    def __init__(self, env_steps: int | None = None, round_steps: int | None = None, starts: Sequence[int] | None = None) -> None:
        self.planned_env_steps, self.planned_round_steps, self.starts = env_steps, round_steps, starts

    def round_starts(self) -> Sequence[int] | None:
        return self.starts


def plan(**settings: Any) -> AskingPlan:
    return AskTeacher(SimulatedTeacher(), **settings).plan


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 10, 100: 10, 1000: 10}),
        # 10 (1000 - s) / 1000: 9.0, 7.5, 0.01, and B-Pref's fraction 0.01 at the very end; at least 1
        ("decreasing", {100: 9, 250: 7, 999: 1, 1000: 1}),
        # 10 x 1000 / (1001 - s): 9.99, 19.96, 99.01, 5000
        ("increasing", {0: 9, 500: 19, 900: 99, 999: 5000}),
    ],
)
def test_schedules_by_hand(schedule: Any, expected: dict[int, int]) -> None:
    asking = plan(budget=10_000, per_round=10, schedule=schedule)
    for done, size in expected.items():
        assert asking.size(0, Learner(1000), 0, done) == size
        assert asking.schedule.size(Progress(env_steps=done, planned_env_steps=1000)) == size


@pytest.mark.parametrize("schedule", ["decreasing", "increasing"])
def test_schedules_are_those_of_the_released_code(schedule: Any) -> None:
    """int(M x fraction), up to its rounding, in walker-walk's sessions."""
    asking, total = schedule_of(schedule, 10_000, 100), 500_000
    for done in range(10_000, total, 20_000):
        fraction = (total - done) / total if schedule == "decreasing" else total / (total - done + 1)
        assert asking.size(Progress(env_steps=done, planned_env_steps=total)) == int(100 * fraction + 1e-9)


GRID = list(product((1, 7, 10, 99, 100, 750, 1000), (1, 2, 3, 7, 50), (None, 0.1, 0.25, 0.4, 1.0), (0.0, 0.3, 0.5, 1.0)))
"""Budget, rounds, share of the first round, share of pairs."""


def test_budgets_are_spent_exactly() -> None:
    """Whatever the sizes: never above, at the end equal, round sizes even to one, and so is the share of pairs."""
    for budget, rounds, share, pairs in GRID:
        settings: dict[str, Any] = {"budget": budget, "schedule": "spread", "rounds": rounds}
        if rounds > budget:
            with pytest.raises(UserError, match=f"ask.rounds is {rounds} and ask.budget {budget}"):
                plan(**settings)
            continue
        if rounds == 1 and share not in (None, 1.0):
            with pytest.raises(UserError, match=r"ask\.rounds is 1 and ask\.initial"):
                plan(**settings, initial=share)
            continue
        asking = plan(**settings, initial=share)
        asked: dict[Any, int] = {"pair": 0, "rating": 0}
        count, sizes = 0, []
        for number in range(rounds):
            size = min(asking.size(number, Learner(), count, 0), budget - count)
            sizes.append(size)
            quota = FixedShare(0.5 if number == 0 else pairs).pairs(size, asked)
            asked = {"pair": asked["pair"] + quota, "rating": asked["rating"] + size - quota}
            count += size
            assert 0 <= quota <= size and count <= budget
            if number and count * min(pairs, 1 - pairs) >= sizes[0]:
                assert abs(asked["pair"] - pairs * count) < 1
            assert asking.is_last(number) == (number == rounds - 1)
        assert count == budget
        if share is not None:
            assert sizes[0] == max(1, int(budget * share + 1e-9))
        later = sizes if share is None else sizes[1:]
        assert not later or max(later) - min(later) <= 1
        assert asking.size(rounds, Learner(), budget, 0) == 0


def test_spread_counts_the_rounds_that_env_steps_leave() -> None:
    """HalfCheetah of the fact sheet: 750 questions, a tenth at first, 250 rounds of 20,000 steps: then 2 or 3 a round."""
    asking = plan(budget=750, schedule="spread", initial=0.1)
    learner = Learner(5_000_000, 20_000, [20_000 * number for number in range(250)])
    sizes = asking.sizes(learner)
    assert sizes is not None and sizes[0] == 75 and set(sizes[1:]) == {2, 3} and sum(sizes) == 750


def test_rounds_left_by_hand() -> None:
    """100 steps in rounds of 30 that really take 32: 4, 3, 2 and 1 rounds are left."""
    assert [rounds_left(done, 100, 30) for done in (0, 32, 64, 96, 128)] == [4, 3, 2, 1, 1]
    sizes = [Spread(30).size(Progress(asked=5, rounds_left=left)) for left in (10, 2, 1, 0)]
    assert sizes == [2, 12, 25, 0]  # 25 are left; halves to even


def test_the_initial_share_is_at_least_one_question() -> None:
    assert [InitialShare(budget, 0.1).size(Progress()) for budget in (1, 9, 10, 19, 750)] == [1, 1, 1, 1, 75]
    assert InitialShare(100, 0.29).size(Progress()) == 29  # 28.999999999999996 in float64


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"per_round": 10, "every": 2}, 30),  # of the rounds 0 .. 5 those numbered 1, 3, 5
        ({"per_round": 10, "first_round": 4}, 20),
        ({"per_round": 6, "schedule": "decreasing"}, 15),  # 5, 4, 3, 2, 1: 6 (120 - s) / 120
        ({"per_round": 4, "schedule": "increasing"}, 49),  # 4, 5, 7, 11, 22
    ],
)
def test_a_budget_that_the_rounds_cannot_spend_is_refused(settings: dict[str, Any], most: int) -> None:
    """At the start, exactly: one question fewer is accepted."""
    learner = Learner(120, starts=[0, *range(20, 120, 20)])
    settings = {"first_round": 1, **settings}
    check_rounds(plan(budget=most, **settings), learner)
    message = rf"has 6 rounds and would ask {most} of its ask\.budget of {most + 1} questions: raise ask\.per_round or "
    message += rf"model\.init_args\.env_steps, .* or set ask\.budget to {most}\."
    with pytest.raises(UserError, match=message):
        check_rounds(plan(budget=most + 1, **settings), learner)
    check_rounds(plan(budget=most + 1, **settings), Learner(120))  # as many rounds as it takes
