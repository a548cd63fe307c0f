"""Who answers: the teacher's interface and the few pure functions that all simulated teachers are made of.

A teacher answers a batch of questions from what it sees of them (:class:`~lightning_pbrl.data.feedback.Clips`, true
rewards included). All of its randomness comes from the questions' keys, so that an answer depends neither on the batch
its question came in nor on what was asked before: a resumed run gets the answers it would have got.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query, Status
from lightning_pbrl.describe import Described
from lightning_pbrl.errors import UserError

DRAW_CHOICE = 0
"""The number of a question that decides a noisily rational choice."""
DRAW_MISTAKE = 1
"""The number of a question that decides whether the answer is corrupted."""
DRAW_CORRUPTION = 2
"""The number of a question that decides what a corrupted answer becomes."""
DRAW_NOISE = 3
"""The number of a question that decides the noise of a rating."""


class RoundStats(NamedTuple):
    """What adaptive thresholds may depend on.

    Attributes:
        round: number of the round, from 0; only rounds that may ask are counted.
        mean_reward: mean true reward per environment step: of the data set (offline), of recent episodes (online).
        rewards: true rewards of segments drawn uniformly from those that may be shown, (n, T); what ranges and spreads of returns
            are estimated from. None where nobody has drawn any.
        progress: how far the run is, in [0, 1]: env steps done of those planned (online), or questions asked of the budget.
    """

    round: int
    mean_reward: float
    rewards: Tensor | None = None
    progress: float = 0.0


class Teacher(Described, ABC):
    """Answers questions about segments; usable without a Trainer.

    Attributes:
        kinds: the kinds of question it understands.
        simulated: whether it answers by itself, at once and free of charge; a person does not.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair"})
    simulated: ClassVar[bool] = True

    def start_round(self, stats: RoundStats) -> None:
        """Called once at the start of every round, before :meth:`answer`; the place to adapt thresholds."""

    @abstractmethod
    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Answer every question of ``query``.

        Args:
            query: B questions.
            clips: their content, (B, C, T, ...), on the CPU.
            keys: one key per question, (B,), int64: all the randomness there is
                (:func:`lightning_pbrl.rng.uniform`).
        """

    def thresholds(self, length: int) -> dict[str, float]:
        """The return gaps in force for segments of ``length`` steps, environment reward units, by metric key."""
        return {}

    def in_force(self) -> dict[str, Any]:
        """What this round's answers depend on beside the settings (the edges of bins ...), plain JSON; kept in their records."""
        return {}


class AdaptiveTeacher(Teacher):
    """A teacher whose thresholds are fractions of the mean true return of a segment (Lee et al. 2021, sec. 4)."""

    _mean_reward: float | None = None

    def start_round(self, stats: RoundStats) -> None:
        """Keep the mean true reward that the thresholds of this round scale with."""
        self._mean_reward = stats.mean_reward

    def margin(self, eps: float, length: int) -> float:
        """``eps`` times the mean true return of ``length`` steps, environment reward units; 0 when ``eps`` is 0.

        Raises:
            UserError: when the mean true reward is not known.
        """
        if eps == 0:
            return 0.0
        if self._mean_reward is None:
            raise UserError(
                f"{type(self).__name__} scales its thresholds by the mean true reward and was told none: "
                "call start_round(RoundStats(round, mean_reward)) before answer."
            )
        if self._mean_reward != self._mean_reward:
            raise no_true_reward(type(self).__name__)
        return eps * self._mean_reward * length


def no_true_reward(teacher: str) -> UserError:
    """The error of a simulated teacher on data without a true reward."""
    return UserError(
        f"{teacher} compares true rewards and this data set has none; "
        "ask a person (the labelling page) or import a file of labels."
    )


def true_returns(clips: Clips, teacher: str, gamma: float = 1.0) -> Tensor:
    """Return of each segment as a teacher perceives it: (B, C), float64, environment reward units.

    sum_t gamma^(T - 1 - t) r_t: with ``gamma`` < 1 the recent steps weigh most, a myopic teacher (Lee et al. 2021,
    eq. 2). Segments of float32 rewards are summed in float64, where no rounding depends on the batch.

    Raises:
        UserError: when a reward is NaN; ``teacher`` is the name the sentence begins with.
    """
    reward = clips.reward.double()
    if reward.isnan().any():
        raise no_true_reward(teacher)
    if gamma == 1.0:
        return reward.sum(-1)
    age = torch.arange(reward.shape[-1] - 1, -1, -1, dtype=torch.float64)
    return (reward * gamma**age).sum(-1)


def known_returns(stats: RoundStats, teacher: str, what: str, discount: float = 1.0) -> Tensor:
    """Returns of the segments that a round's statistics are about, sum_t discount^t r_t, (n,), float64.

    Raises:
        UserError: when there are none, or they have no true reward; ``what`` names the setting that would do without.
    """
    if stats.rewards is None or not len(stats.rewards):
        raise UserError(
            f"{teacher} takes its scale from the returns of segments and was told none: "
            f"call start_round(RoundStats(..., rewards=...)) before answer, or set {what}."
        )
    rewards = stats.rewards.double()
    if rewards.isnan().any():
        raise no_true_reward(teacher)
    return discounted(rewards, discount)


def discounted(reward: Tensor, discount: float) -> Tensor:
    """Return that weighs the *first* steps most, sum_t discount^t r_t: (..., T) -> (...,)."""
    if discount == 1.0:
        return reward.sum(-1)
    return (reward * discount ** torch.arange(reward.shape[-1], dtype=reward.dtype)).sum(-1)


def rational_choice(returns: Tensor) -> Tensor:
    """P(second preferred) of a rational teacher: (B, 2) -> (B,), 1 where the second return is larger, else 0."""
    return (returns[:, 0] < returns[:, 1]).float()


def boltzmann_choice(returns: Tensor, beta: float, u: Tensor) -> Tensor:
    """A noisily rational choice: (B, 2) -> (B,), 1 with probability sigmoid(beta (R_1 - R_0)), else 0.

    Args:
        returns: (B, 2).
        beta: rationality, in 1 / reward units; larger is more rational.
        u: one number per question from the uniform law on [0, 1), (B,).
    """
    return (u < torch.sigmoid(beta * (returns[:, 1] - returns[:, 0]))).float()


def flip(label: Tensor, u: Tensor, eps: float) -> Tensor:
    """Reverse the labels whose ``u`` < ``eps``, (B,); ``eps`` = 0 reverses none."""
    return torch.where(u < eps, 1.0 - label, label)


def make_answer(label: Tensor, equal: Tensor, skipped: Tensor) -> Answer:
    """Label with explicit statuses: skipped wins over equal, equal over a choice.

    Args:
        label: P(second preferred), (B,), 0 or 1.
        equal: (B,), bool.
        skipped: (B,), bool.
    """
    status = torch.full_like(label, Status.ANSWERED, dtype=torch.int64)
    status = status.masked_fill(equal, Status.EQUAL).masked_fill(skipped, Status.SKIPPED)
    value = label.float().masked_fill(equal, 0.5).masked_fill(skipped, float("nan"))
    return Answer(value, status)


def realised_rates(answer: Answer, reward: Tensor) -> dict[str, float]:
    """How often the teacher skipped, tied and erred in these answers; pending ones are not counted.

    Args:
        answer: B answers.
        reward: true reward per step of what was shown, (B, C, T); NaN where the data have none.

    Returns:
        ``teacher/skip_rate``, ``teacher/clear_ratio`` (= 1 - skip rate) and ``teacher/equal_rate``, fractions of all
        answers (rates 0 when there is none); ``teacher/error_rate``, the fraction of strict preferences that contradict
        the true undiscounted return (an exact tie contradicts nothing), only where pairs with true rewards were shown.
    """
    count = max(int((answer.status != Status.PENDING).sum()), 1)
    skip_rate = int((answer.status == Status.SKIPPED).sum()) / count
    rates = {
        "teacher/skip_rate": skip_rate,
        "teacher/clear_ratio": 1.0 - skip_rate,
        "teacher/equal_rate": int((answer.status == Status.EQUAL).sum()) / count,
    }
    if reward.shape[1] == 2 and not reward.isnan().any():
        strict = answer.status == Status.ANSWERED
        returns = reward.double().sum(-1)
        wrong = strict & ((answer.value - 0.5) * (returns[:, 1] - returns[:, 0]) < 0)
        rates["teacher/error_rate"] = int(wrong.sum()) / max(int(strict.sum()), 1)
    return rates


def rating_rates(answer: Answer, reward: Tensor) -> dict[str, float]:
    """What the ratings of a round look like; pending ones are not counted.

    Args:
        answer: B answers.
        reward: true reward per step of what was shown, (B, 1, T); NaN where the data have none.

    Returns:
        ``teacher/rating_skip_rate``, the fraction of answers that are none; of the others ``teacher/rating_mean`` and
        ``teacher/rating_std``, rating units, and where true rewards were shown ``teacher/rating_correlation`` with the true
        undiscounted returns (left out where one of the two does not vary).
    """
    rated = answer.status == Status.ANSWERED
    count = max(int((answer.status != Status.PENDING).sum()), 1)
    rates = {"teacher/rating_skip_rate": int((answer.status == Status.SKIPPED).sum()) / count}
    if rated.any():
        value, returns = answer.value[rated].double(), reward[rated, 0].double().sum(-1)
        rates |= {"teacher/rating_mean": float(value.mean()), "teacher/rating_std": float(value.std(correction=0))}
        together = float(torch.corrcoef(torch.stack([value, returns]))[0, 1]) if len(value) > 1 else math.nan
        if math.isfinite(together):
            rates["teacher/rating_correlation"] = together
    return rates
