"""Teachers of graded pairs, of the best of several and of axes: by hand, and frequencies within binomial bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Query, Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import question_keys
from lightning_pbrl.teachers.base import RoundStats, Teacher, rates
from lightning_pbrl.teachers.best_of import BestOfTeacher
from lightning_pbrl.teachers.function import FunctionTeacher
from lightning_pbrl.teachers.graded import GradedTeacher
from lightning_pbrl.testing import check_teacher

A, EQUAL = int(Status.ANSWERED), int(Status.EQUAL)


def ask(teacher: Teacher, kind: str, returns: Tensor) -> Answer:
    """Answers about segments of one step with these returns, (B, C)."""
    shown = Clips(torch.zeros(*returns.shape, 1, 2), torch.zeros(*returns.shape, 1, 1), returns.unsqueeze(-1))
    query = Query(kind, torch.arange(returns.numel()).view(returns.shape), 1)
    return teacher.answer(query, shown, question_keys(0, 0, len(returns)))


def test_grades_by_hand() -> None:
    teacher = GradedTeacher(equal=1, much=3, unit="reward")
    found = ask(teacher, "graded", torch.tensor([[0.0, 1.0], [0, 1.1], [0, 3], [0, 3.5], [2, 0.5], [9, 0], [4, 4]]))
    assert found.value.tolist() == [0.5, 0.75, 0.75, 1.0, 0.25, 0.0, 0.5]
    assert found.status.tolist() == [EQUAL, A, A, A, A, A, EQUAL]
    scaled = GradedTeacher(equal=1, much=3, return_std=2.0)
    assert ask(scaled, "graded", torch.tensor([[0.0, 2.0], [0, 2.2], [0, 6.5]])).value.tolist() == [0.5, 0.75, 1.0]
    estimated = GradedTeacher(equal=1, much=3)
    estimated.start_round(RoundStats(0, 0.0, torch.tensor([[-2.0], [2.0]])))  # a standard deviation of 2
    assert ask(estimated, "graded", torch.tensor([[0.0, 2.0], [0, 2.2]])).value.tolist() == [0.5, 0.75]
    assert estimated.in_force() == {"unit": 2.0} and estimated.thresholds(5)["teacher/much_threshold"] == 6.0
    with pytest.raises(UserError, match="GradedTeacher got equal=1 and much=1: let much be the larger one"):
        GradedTeacher(equal=1, much=1)


def test_noisy_grades_follow_the_cumulative_logit() -> None:
    count, gap, beta = 4000, 0.7, 2.0
    found = ask(GradedTeacher(0.5, 1.5, beta, "reward"), "graded", torch.tensor([[0.0, gap]]).repeat(count, 1))
    below = [1 / (1 + math.exp(-beta * (cut - gap))) for cut in (-1.5, -0.5, 0.5, 1.5)]
    for cut, probability in zip((0.0, 0.25, 0.5, 0.75), below, strict=True):
        share = float((found.value <= cut).double().mean())
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / count)


def test_choices_by_hand_and_by_softmax() -> None:
    assert ask(BestOfTeacher(), "best", torch.tensor([[0.0, 2, 1], [3, 3, 1], [0, 1, 5]])).value.tolist() == [1.0, 0.0, 2.0]
    count, worth = 6000, torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = ask(BestOfTeacher(beta=2.0), "best", (worth.log() / 2).repeat(count, 1))
    for place, share in enumerate((0.1, 0.2, 0.3, 0.4)):
        seen = float((found.value == place).double().mean())
        assert abs(seen - share) < 4 * math.sqrt(share * (1 - share) / count)
    with pytest.raises(UserError, match="BestOfTeacher compares true rewards and this data set has none"):
        ask(BestOfTeacher(), "best", torch.tensor([[math.nan, 1.0]]))


@pytest.mark.parametrize(
    "teacher",
    [
        GradedTeacher(),
        GradedTeacher(beta=1.0),
        BestOfTeacher(),
        BestOfTeacher(beta=1.0, unit="return_std"),
        FunctionTeacher(lambda *shown: float(max(range(len(shown)), key=lambda i: shown[i].obs.sum())), kind="best"),
    ],
)
def test_they_are_teachers(teacher: Teacher) -> None:
    check_teacher(teacher)


def test_a_function_of_another_kind_is_checked() -> None:
    with pytest.raises(
        UserError, match=r"returned 4.0 at question 0 of 1.*: return the number of the best segment, from 0 or None"
    ):
        ask(FunctionTeacher(lambda *shown: 4.0, kind="best"), "best", torch.zeros(1, 3))
    graded = ask(FunctionTeacher(lambda one, two: 0.5, kind="graded"), "graded", torch.zeros(1, 2))
    assert (graded.value.tolist(), graded.status.tolist()) == ([0.5], [EQUAL])


def test_errors_are_counted_by_kind() -> None:
    reward = torch.tensor([[[1.0], [2.0], [3.0]], [[1.0], [2.0], [3.0]], [[3.0], [2.0], [1.0]]])
    best = Answer(torch.tensor([2.0, 1.0, math.nan]), torch.tensor([A, A, int(Status.SKIPPED)]))
    found = rates("best", best, reward)
    assert found["teacher/error_rate"] == 0.5 and found["teacher/skip_rate"] == pytest.approx(1 / 3)
    graded = Answer(torch.tensor([0.75, 0.0, 0.5]), torch.tensor([A, A, EQUAL]))
    assert rates("graded", graded, reward[:, :2])["teacher/error_rate"] == 0.5
    axis = rates("pair:safety", Answer(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([A, A, EQUAL])), reward[:, :2])
    assert axis["teacher/safety_equal_rate"] == pytest.approx(1 / 3) and "teacher/safety_error_rate" not in axis
