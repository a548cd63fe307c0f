"""Ratings by hand, noise without bias inside the scale, scales that are estimated; and a preference teacher on a stated unit."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Query, Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import question_keys
from lightning_pbrl.teachers.base import RoundStats, Teacher
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.rating import RatingTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher

N = 20_000


def ask(teacher: Teacher, reward: Tensor, keys: Tensor | None = None) -> Answer:
    """Answers about per-step rewards, (B, C, T)."""
    count, clips, length = reward.shape
    shown = Clips(torch.zeros(count, clips, length, 1), torch.zeros(count, clips, length, 1), reward)
    query = Query("pair" if clips == 2 else "rating", torch.zeros(count, clips, dtype=torch.int64), length)
    return teacher.answer(query, shown, question_keys(3, 0, count) if keys is None else keys)


def clips(*returns: float) -> Tensor:
    return torch.tensor(returns).view(-1, 1, 1)


def test_bins_by_hand() -> None:
    """[-30, 120] in ten bins of 15: an inner edge goes up, the ends and what lies beyond them to the outermost bins."""
    teacher = RatingTeacher(low=-30, high=120)
    answer = ask(teacher, clips(-99, -30, -16, -15, 0, 44.9, 45, 104.9, 105, 119, 120, 500))
    assert answer.value.tolist() == [0, 0, 0, 1, 2, 4, 5, 8, 9, 9, 9, 9]
    assert (answer.status == Status.ANSWERED).all() and answer.value.dtype == torch.float32
    assert teacher.in_force() == {"range": [-30, 120], "bins": 10}


def test_discount_weighs_the_first_steps() -> None:
    reward = torch.tensor([[[0.0, 0.0, 10.0]], [[10.0, 0.0, 0.0]]])
    assert ask(RatingTeacher(low=0, high=10, discount=0.5), reward).value.tolist() == [2, 9]  # 2.5 and 10
    assert ask(RatingTeacher(low=0, high=10), reward).value.tolist() == [9, 9]


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_noise_has_zero_mean_inside_the_scale(beta: float) -> None:
    """Five standard deviations from both ends, the mean error is 0 and its variance beta^2 + 1/12 for beta that is not small."""
    rating = ask(RatingTeacher(bins=21, low=0, high=21, eval_beta=beta), torch.full((N, 1, 1), 10.5)).value.double()
    error = rating - 10
    assert error.mean().abs() < 4 * error.std() / math.sqrt(N)
    assert set(rating.tolist()) <= set(range(21))
    if beta == 1.0:
        assert error.var().item() == pytest.approx(1 + 1 / 12, rel=0.04)
    exact = torch.special.ndtr(torch.tensor([-0.5 / beta], dtype=torch.float64)).item()  # one bin too low or lower
    assert (error < 0).double().mean().item() == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / N))


def test_noise_never_leaves_the_scale() -> None:
    rating = ask(RatingTeacher(low=0, high=10, eval_beta=3.0), torch.full((N, 1, 1), 9.5)).value
    assert set(rating.tolist()) == set(range(10))


def test_the_released_noise_is_always_positive() -> None:
    """The fact sheet's measurement at beta .5: shift 5.1 with s.d. 2.5 for N(0, 5^2) within [1, 10]; ratings up to 19."""
    teacher = RatingTeacher(low=0, high=10, eval_beta=0.5, reference_noise=True)
    shift = ask(teacher, torch.full((N, 1, 1), 9.5)).value.double() - 9
    assert shift.min() >= 1 and shift.max() <= 10
    low, high = 1 / 5, 10 / 5
    share = 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
    mean = 5 * (math.exp(-(low**2) / 2) - math.exp(-(high**2) / 2)) / math.sqrt(2 * math.pi) / share
    assert shift.mean().item() == pytest.approx(mean, abs=4 * shift.std().item() / math.sqrt(N))


def test_an_answer_depends_on_its_key_alone() -> None:
    teacher, reward, keys = RatingTeacher(low=0, high=10, eval_beta=2.0), 10 * torch.rand(50, 1, 4) / 4, question_keys(0, 0, 50)
    together = ask(teacher, reward, keys).value
    order = torch.randperm(50)
    assert torch.equal(ask(teacher, reward[order], keys[order]).value, together[order])
    assert not torch.equal(ask(teacher, reward, keys + 1).value, together)


def test_the_range_follows_what_there_is_to_see() -> None:
    """Returns 0, 1, ..., 100: the ends are the quantiles, told in every record of the round."""
    teacher = RatingTeacher(bins=4, quantiles=(0.1, 0.9))
    with pytest.raises(UserError, match="takes its range from the returns of segments and was given none"):
        ask(teacher, clips(1.0))
    teacher.start_round(RoundStats(0, 0.0, torch.arange(101.0).unsqueeze(1)))
    assert teacher.range == pytest.approx((10.0, 90.0))
    assert ask(teacher, clips(0, 29, 31, 51, 71, 100)).value.tolist() == [0, 0, 1, 2, 3, 3]
    teacher.start_round(RoundStats(1, 0.0, 2 * torch.arange(101.0).unsqueeze(1)))
    assert teacher.in_force()["range"] == pytest.approx([20.0, 180.0])
    assert "range" not in teacher.describe() and json.dumps(teacher.describe())  # settings do not change from round to round
    teacher.start_round(RoundStats(2, 0.0, torch.full((5, 1), 7.0)))
    assert ask(teacher, clips(7.0)).value.tolist() == [2.0]  # all alike: the middle
    given = RatingTeacher(low=0, high=1)
    given.start_round(RoundStats(0, 0.0))
    assert given.range == (0, 1)


def test_mixed_answers_both_kinds() -> None:
    teacher = MixedTeacher(rating=RatingTeacher(low=0, high=10))
    assert teacher.kinds == {"pair", "rating"}
    assert ask(teacher, torch.tensor([[[1.0], [2.0]], [[3.0], [1.0]]])).value.tolist() == [1.0, 0.0]
    assert ask(teacher, clips(3.5)).value.tolist() == [3.0]
    assert teacher.describe()["rating"]["class"] == "RatingTeacher"
    assert teacher.in_force() == {"rating": {"range": [0, 10], "bins": 10}}
    with pytest.raises(UserError, match="MixedTeacher got RatingTeacher for the questions of kind 'pair'"):
        MixedTeacher(RatingTeacher())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bins": 1}, "bins=1"),
        ({"low": 0.0}, "give both ends"),
        ({"low": 1.0, "high": 1.0}, "low below high"),
        ({"quantiles": (0.9, 0.1)}, "the smaller first"),
        ({"eval_beta": -1.0}, "eval_beta=-1"),
        ({"discount": 1.5}, "discount=1.5"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        RatingTeacher(**settings)  # type: ignore[arg-type]


def test_without_a_true_reward() -> None:
    nan = torch.full((2, 1, 3), float("nan"))
    with pytest.raises(UserError, match="this data set has none"):
        ask(RatingTeacher(low=0, high=1), nan)
    with pytest.raises(UserError, match="this data set has none"):
        RatingTeacher().start_round(RoundStats(0, 0.0, nan[:, 0]))


# Preferences on a stated unit --------------------------------------------------------------------------------------------


def told(teacher: SimulatedTeacher, spread: float = 8.0, progress: float = 0.0) -> SimulatedTeacher:
    """Knows returns of the given standard deviation."""
    teacher.start_round(RoundStats(0, 0.0, torch.tensor([[-spread], [spread]]), progress))
    return teacher


def test_scale_free_beta_means_the_same_in_any_unit() -> None:
    """A gap of one standard deviation at beta 1 is sigmoid(1) = 0.731, however large rewards are; in reward units it is not."""
    for spread in (0.05, 8.0, 4000.0):
        reward = torch.tensor([0.0, spread]).view(1, 2, 1).expand(N, -1, -1)
        share = ask(told(SimulatedTeacher(beta=1.0, unit="return_std"), spread), reward).value.mean().item()
        assert share == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=4 * math.sqrt(0.2 / N))
    fixed = ask(SimulatedTeacher(beta=1.0, unit="return_std", return_std=4000.0), reward)  # needs no round
    assert fixed.value.mean().item() == share
    assert ask(SimulatedTeacher(beta=1.0), reward).value.mean().item() == 1.0


def test_close_pairs_are_skipped() -> None:
    reward = torch.tensor([[[0.0], [0.2]], [[0.0], [0.3]], [[1.0], [0.0]]])
    answer = ask(SimulatedTeacher(min_gap=0.3), reward)
    assert answer.status.tolist() == [Status.SKIPPED, Status.ANSWERED, Status.ANSWERED]
    assert answer.value[1:].tolist() == [1.0, 0.0]
    relative = told(SimulatedTeacher(min_gap=0.5, unit="return_std"), spread=1.0)
    assert ask(relative, reward).status.tolist() == [Status.SKIPPED, Status.SKIPPED, Status.ANSWERED]
    assert relative.in_force() == {"unit": 1.0, "gap": 0.5} and relative.thresholds(5)["teacher/min_gap"] == 0.5


@pytest.mark.parametrize(("progress", "gap"), [(0.0, 4.0), (0.25, 3.25), (1.0, 1.0), (1.5, 1.0)])
def test_the_gap_shrinks_with_progress(progress: float, gap: float) -> None:
    assert told(SimulatedTeacher(min_gap=4.0, final_gap=1.0), progress=progress).gap == pytest.approx(gap)
    assert told(SimulatedTeacher(min_gap=4.0), progress=progress).gap == 4.0


def test_records_of_the_old_teacher_stay_what_they_were() -> None:
    assert set(SimulatedTeacher().describe()) == {"class", "beta", "gamma", "eps_mistake", "eps_skip", "eps_equal"}
    assert SimulatedTeacher(unit="return_std").describe()["unit"] == "return_std"
    assert SimulatedTeacher().in_force() == {} and "teacher/min_gap" not in SimulatedTeacher().thresholds(5)


def test_a_unit_that_nobody_has_told() -> None:
    with pytest.raises(UserError, match="SimulatedTeacher takes its scale from the returns of segments and was given none"):
        ask(SimulatedTeacher(beta=1.0, unit="return_std"), torch.zeros(1, 2, 1))
    for settings in ({"return_std": 0.0}, {"min_gap": -1.0}, {"final_gap": -1.0}):
        with pytest.raises(UserError, match="SimulatedTeacher got"):
            SimulatedTeacher(**settings)  # type: ignore[arg-type]
