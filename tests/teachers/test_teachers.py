"""Simulated teachers: labels by hand, frequencies within binomial intervals."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query, Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import question_keys
from lightning_pbrl.teachers.base import RoundStats, Teacher, realised_rates, true_returns
from lightning_pbrl.teachers.person import Person
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.teachers.skip import SkipTeacher
from lightning_pbrl.teachers.tie import TieTeacher

N = 12_000
FIRST, EQUAL, SECOND, SKIP = "first", "equal", "second", "skip"


def ask(teacher: Teacher, reward: Tensor, keys: Tensor | None = None) -> Answer:
    """Answers about per-step rewards, (B, 2, T)."""
    count, _, length = reward.shape
    clips = Clips(torch.zeros(count, 2, length, 1), torch.zeros(count, 2, length, 1), reward)
    query = Query("pair", torch.zeros(count, 2, dtype=torch.int64), length)
    return teacher.answer(query, clips, question_keys(3, 0, count) if keys is None else keys)


def words(answer: Answer) -> list[str]:
    """Answers in words; also checks that value and status agree."""
    out = []
    for value, status in zip(answer.value.tolist(), answer.status.tolist(), strict=True):
        if status == Status.SKIPPED:
            assert math.isnan(value)
            out.append(SKIP)
        elif status == Status.EQUAL:
            assert value == 0.5
            out.append(EQUAL)
        else:
            assert status == Status.ANSWERED
            out.append({0.0: FIRST, 1.0: SECOND}[value])
    return out


def pairs(*returns: tuple[float, float], length: int = 1) -> Tensor:
    """Rewards whose sums over ``length`` steps are the given returns, (B, 2, T)."""
    return (torch.tensor(returns) / length).unsqueeze(-1).expand(-1, -1, length).contiguous()


def near(count: int, n: int, p: float) -> bool:
    """Whether ``count`` successes of ``n`` lie within 4 standard deviations of a binomial law."""
    return abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p))


def started(teacher: Teacher, mean_reward: float) -> Teacher:
    teacher.start_round(RoundStats(0, mean_reward))
    return teacher


# --- B-Pref -----------------------------------------------------------------------------------------------------------


def test_oracle_prefers_the_larger_return_and_calls_an_exact_tie_first() -> None:
    assert words(ask(SimulatedTeacher(), pairs((1, 2), (2, 1), (1, 1)))) == [SECOND, FIRST, FIRST]


def test_bpref_skips_when_both_are_poor() -> None:
    # margin = 2 per step x 4 steps = 8, threshold 0.5 x 8 = 4 on the better of the two sums; equality skips.
    teacher = started(SimulatedTeacher(eps_skip=0.5), 2.0)
    reward = pairs((0, 3.9), (0, 4), (0, 4.25), (9, 9), (4.25, 0), length=4)
    assert words(ask(teacher, reward)) == [SKIP, SKIP, SECOND, FIRST, FIRST]
    assert teacher.thresholds(4) == {"teacher/skip_threshold": 4.0, "teacher/equal_threshold": 0.0}


def test_bpref_skip_is_off_at_thresholds_not_above_zero() -> None:
    for mean_reward in (0.0, -1.0):
        assert words(ask(started(SimulatedTeacher(eps_skip=0.5), mean_reward), pairs((-9, -8)))) == [SECOND]


def test_bpref_equal_is_strict_and_skip_wins() -> None:
    # T = 2, margin 2 x 4 = 8: equal below a gap of 2, skipped up to a best sum of 4.
    teacher = started(SimulatedTeacher(eps_equal=0.25, eps_skip=0.5), 4.0)
    reward = pairs((10, 11.5), (10, 12), (12.5, 10), (1, 1), length=2)
    assert words(ask(teacher, reward)) == [EQUAL, SECOND, FIRST, SKIP]


def test_equal_overwrites_mistakes() -> None:
    teacher = started(SimulatedTeacher(eps_equal=0.25, eps_mistake=1.0), 4.0)
    assert words(ask(teacher, pairs((10, 10.5), (10, 20), (20, 10)))) == [EQUAL, FIRST, SECOND]


def test_thresholds_follow_the_round() -> None:
    teacher = SimulatedTeacher(eps_equal=0.1)
    reward = pairs((0, 3))
    assert words(ask(started(teacher, 10.0), reward)) == [SECOND]  # threshold 1
    assert words(ask(started(teacher, 40.0), reward)) == [EQUAL]  # threshold 4


def test_eps_twice_from_the_second_round_on() -> None:
    """Margin 2 steps x 50: thresholds 0.1 x 100 = 10 in the first round, 0.1 x 0.1 x 100 = 1 in the later ones."""
    reward = pairs((20, 25), (20, 20.5), (8, 5), (0.5, 0.9), length=2)
    teacher = SimulatedTeacher(eps_skip=0.1, eps_equal=0.1, eps_twice=True)
    for number, threshold, said in ((0, 10, [EQUAL, EQUAL, SKIP, SKIP]), (1, 1, [SECOND, EQUAL, FIRST, SKIP])):
        teacher.start_round(RoundStats(number, 50.0))
        assert words(ask(teacher, reward)) == said
        assert teacher.thresholds(2) == pytest.approx({"teacher/skip_threshold": threshold, "teacher/equal_threshold": threshold})
    intended = SimulatedTeacher(eps_skip=0.1, eps_equal=0.1)
    intended.start_round(RoundStats(1, 50.0))
    assert words(ask(intended, reward)) == [EQUAL, EQUAL, SKIP, SKIP]
    assert teacher.describe()["eps_twice"] is True and "eps_twice" not in intended.describe()


def test_myopic_return_by_hand() -> None:
    # gamma 1/2, T = 3: weights 1/4, 1/2, 1. First: 4, 0, 0 -> 1; second: 0, 0, 2 -> 2. Undiscounted 4 > 2.
    reward = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 0.0, 2.0]]])
    clips = Clips(torch.zeros(1, 2, 3, 1), torch.zeros(1, 2, 3, 1), reward)
    assert true_returns(clips, "x", 0.5).tolist() == [[1.0, 2.0]]
    assert true_returns(clips, "x").tolist() == [[4.0, 2.0]]
    assert words(ask(SimulatedTeacher(gamma=0.5), reward)) == [SECOND]
    assert words(ask(SimulatedTeacher(), reward)) == [FIRST]
    # Thresholds look at undiscounted sums: gap 2 is "equal" below 3, though the myopic gap is 1 either way.
    assert words(ask(started(SimulatedTeacher(gamma=0.5, eps_equal=1.0), 1.0), reward)) == [EQUAL]
    assert words(ask(started(SimulatedTeacher(gamma=0.5, eps_equal=0.5), 1.0), reward)) == [SECOND]


@pytest.mark.parametrize(("beta", "gap"), [(1.0, 0.0), (1.0, 1.0), (0.5, -3.0), (10.0, 0.1)])
def test_boltzmann_frequency(beta: float, gap: float) -> None:
    answer = ask(SimulatedTeacher(beta=beta), pairs((0.0, gap)).expand(N, -1, -1))
    assert near(int(answer.value.sum()), N, 1 / (1 + math.exp(-beta * gap)))


def test_mistake_frequency() -> None:
    answer = ask(SimulatedTeacher(eps_mistake=0.1), pairs((0, 1)).expand(N, -1, -1))
    assert near(int((answer.value == 0).sum()), N, 0.1)


def test_choice_and_mistake_draw_different_numbers() -> None:
    # P(second) = 1/2, flipped w.p. 1/2: with a shared number the outcome would be constant.
    answer = ask(SimulatedTeacher(beta=1.0, eps_mistake=0.5), pairs((0, 0)).expand(N, -1, -1))
    assert near(int(answer.value.sum()), N, 0.5)


# --- CLARIFY ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.25, 0.5, 0.75, 1.0, 2.0])
def test_clarify_rule(eps: float) -> None:
    # r_bar 2, T = 4: threshold 8 eps, exact in binary; the gap itself is a skip, 1/8 more is clear.
    teacher, gap = started(SkipTeacher(eps), 2.0), 8 * eps
    assert teacher.thresholds(4) == {"teacher/skip_threshold": gap}
    reward = pairs((20, 20 + gap), (20 + gap, 20), (20, 20 + gap + 0.125), (20 + gap + 0.125, 20), (20, 20), length=4)
    assert words(ask(teacher, reward)) == [SKIP, SKIP, SECOND, FIRST, SKIP]


@pytest.mark.parametrize(("eps", "mean_reward"), [(0.0, 2.0), (0.5, 0.0), (0.5, -2.0)])
def test_clarify_rule_off(eps: float, mean_reward: float) -> None:
    teacher = started(SkipTeacher(eps), mean_reward)
    assert words(ask(teacher, pairs((1, 1.01), (1, 1), (1.01, 1)))) == [SECOND, EQUAL, FIRST]


def test_clarify_mistakes_touch_choices_only() -> None:
    close = started(SkipTeacher(0.5, too_close="equal"), 2.0)  # the same rule, read as a tie; T = 1, so the threshold is 1
    assert words(ask(close, pairs((0, 1), (0, 1.5), (3, 1), (2, 2)))) == [EQUAL, SECOND, FIRST, EQUAL]
    teacher = started(SkipTeacher(0.5, eps_mistake=1.0), 2.0)
    assert words(ask(teacher, pairs((0, 5), (0, 1)))) == [FIRST, SKIP]
    answer = ask(started(SkipTeacher(0.5, eps_mistake=0.2), 2.0), pairs((0, 5)).expand(N, -1, -1))
    assert near(int((answer.value == 0).sum()), N, 0.2)


def test_skip_frequency_on_random_returns() -> None:
    # Returns uniform on [0, 1]: P(gap <= t) = 1 - (1 - t)^2; eps 0.6 x mean 0.5 = 0.3 -> 0.51.
    reward = torch.rand(N, 2, 1, generator=torch.Generator().manual_seed(0))
    answer = ask(started(SkipTeacher(0.6), 0.5), reward)
    assert near(int((answer.status == Status.SKIPPED).sum()), N, 0.51)
    # B-Pref's rule on the same returns: P(max <= 0.3) = 0.09; equal: P(gap < 0.1) = 0.19.
    bpref = ask(started(SimulatedTeacher(eps_skip=0.6), 0.5), reward)
    assert near(int((bpref.status == Status.SKIPPED).sum()), N, 0.09)
    equal = ask(started(SimulatedTeacher(eps_equal=0.2), 0.5), reward)
    assert near(int((equal.status == Status.EQUAL).sum()), N, 0.19)


# --- LiRE -------------------------------------------------------------------------------------------------------------


def test_lire_tie_is_not_strict() -> None:
    # T = 25, threshold 0.5: gap 12.5 exactly ties.
    teacher = TieTeacher()
    assert teacher.thresholds(25) == {"teacher/equal_threshold": 12.5}
    assert words(ask(teacher, pairs((0, 12.5), (0, 12.75), (12.75, 0), length=25))) == [EQUAL, SECOND, FIRST]


def test_lire_noise() -> None:
    strict = words(ask(TieTeacher(noise=0.4), pairs((0, 9)).expand(N, -1, -1)))
    assert near(strict.count(SECOND), N, 0.6)
    assert near(strict.count(FIRST), N, 0.2)
    assert near(strict.count(EQUAL), N, 0.2)
    tied = words(ask(TieTeacher(noise=0.4), pairs((9, 9)).expand(N, -1, -1)))
    assert near(tied.count(EQUAL), N, 0.6)
    assert near(tied.count(FIRST), N, 0.2)
    assert near(tied.count(SECOND), N, 0.2)


# --- all --------------------------------------------------------------------------------------------------------------

ALL = [
    SimulatedTeacher(beta=2.0, gamma=0.9, eps_mistake=0.2, eps_skip=0.5, eps_equal=0.1),
    SkipTeacher(0.5, eps_mistake=0.3),
    TieTeacher(0.05, noise=0.3),
]


@pytest.mark.parametrize("teacher", ALL, ids=lambda teacher: type(teacher).__name__)
def test_answers_belong_to_the_question(teacher: Teacher) -> None:
    started(teacher, 0.5)
    reward, keys = torch.rand(300, 2, 7, generator=torch.Generator().manual_seed(1)), question_keys(5, 0, 300)
    whole = words(ask(teacher, reward, keys))
    assert len(set(whole)) >= 3  # the test would say little otherwise
    single = [words(ask(teacher, reward[i : i + 1], keys[i : i + 1]))[0] for i in range(300)]
    assert single == whole
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    assert words(ask(teacher, reward[order], keys[order])) == [whole[i] for i in order]
    assert words(ask(teacher, reward, question_keys(6, 0, 300))) != whole  # another run seed


@pytest.mark.parametrize("teacher", ALL, ids=lambda teacher: type(teacher).__name__)
def test_no_true_reward_is_a_sentence(teacher: Teacher) -> None:
    started(teacher, 0.5)
    with pytest.raises(UserError, match=f"{type(teacher).__name__} compares true rewards and this data set has none"):
        ask(teacher, torch.full((2, 2, 3), float("nan")))


def test_thresholds_need_the_mean_reward() -> None:
    with pytest.raises(UserError, match=r"SkipTeacher scales .* call start_round"):
        ask(SkipTeacher(), pairs((0, 1)))
    with pytest.raises(UserError, match="this data set has none"):
        ask(started(SkipTeacher(), float("nan")), pairs((0, 1)))
    assert words(ask(SkipTeacher(eps=0.0), pairs((0, 1)))) == [SECOND]


def test_settings_out_of_range() -> None:
    with pytest.raises(UserError, match=r"SimulatedTeacher got eps_mistake=1.5: give a number between 0 and 1\."):
        SimulatedTeacher(eps_mistake=1.5)
    with pytest.raises(UserError, match=r"SkipTeacher got eps=-1: give a number of at least 0\."):
        SkipTeacher(eps=-1)
    with pytest.raises(UserError, match="TieTeacher got noise=nan"):
        TieTeacher(noise=float("nan"))


def test_describe_is_plain_json() -> None:
    said = SimulatedTeacher(eps_mistake=0.1).describe()
    assert said == {
        "class": "SimulatedTeacher", "beta": -1.0, "gamma": 1.0, "eps_mistake": 0.1, "eps_skip": 0.0, "eps_equal": 0.0
    }  # fmt: skip
    assert json.loads(json.dumps(said)) == said


def test_realised_rates_by_hand() -> None:
    reward = pairs((0, 1), (0, 1), (0, 1), (1, 1), (0, 1), (0, 1))
    status = torch.tensor([1, 1, 2, 1, 3, 0])  # right, wrong, equal, exact tie answered, skipped, pending
    answer = Answer(torch.tensor([1.0, 0.0, 0.5, 0.0, float("nan"), float("nan")]), status)
    assert realised_rates(answer, reward) == pytest.approx(
        {
            "teacher/skip_rate": 1 / 5,
            "teacher/clear_ratio": 4 / 5,
            "teacher/equal_rate": 1 / 5,
            "teacher/error_rate": 1 / 3,
        }
    )
    blind = realised_rates(answer, torch.full_like(reward, float("nan")))
    assert "teacher/error_rate" not in blind
    assert blind["teacher/skip_rate"] == 1 / 5


def test_realised_rates_of_nothing() -> None:
    answer = Answer(torch.empty(0), torch.empty(0, dtype=torch.int64))
    assert realised_rates(answer, torch.zeros(0, 2, 1)) == {
        "teacher/skip_rate": 0.0, "teacher/clear_ratio": 1.0, "teacher/equal_rate": 0.0, "teacher/error_rate": 0.0
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["pair", "rating"])
def test_a_person_leaves_every_question_open(kind: Kind) -> None:
    clips = Clips(torch.zeros(3, 2, 4, 1), torch.zeros(3, 2, 4, 1), torch.zeros(3, 2, 4))
    answer = Person().answer(Query(kind, torch.zeros(3, 2, dtype=torch.int64), 4), clips, question_keys(0, 0, 3))
    assert answer.status.tolist() == [Status.PENDING] * 3 and answer.value.isnan().all()
    assert Person.kinds >= {kind} and not Person.simulated and Person().describe() == {"class": "Person"}
