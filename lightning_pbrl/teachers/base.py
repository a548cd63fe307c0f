"""Base class of teachers and the pure functions that simulated teachers are built from.

A teacher answers a batch of questions from their content (:class:`~lightning_pbrl.data.feedback.Clips`, true rewards included).
All of its randomness comes from the questions' keys. An answer therefore depends neither on its batch nor on earlier questions,
and a resumed run gets the same answers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query, Status
from lightning_pbrl.describe import Described
from lightning_pbrl.errors import UserError

TINY = 1e-12
"""Smallest standard deviation of returns that counts, reward units."""
DRAW_CHOICE = 0
"""Index of the random number that decides a noisily rational choice."""
DRAW_MISTAKE = 1
"""Index of the random number that decides whether the answer is corrupted."""
DRAW_CORRUPTION = 2
"""Index of the random number that decides the value of a corrupted answer."""
DRAW_NOISE = 3
"""Index of the random number that decides the noise of a rating."""


class RoundStats(NamedTuple):
    """Statistics of a round that adaptive thresholds may use.

    Attributes:
        round: number of the round, from 0; only rounds that may ask are counted.
        mean_reward: mean true reward per environment step: of the data set (offline), of recent episodes (online).
        rewards: true rewards of segments drawn uniformly from those that may be shown, (n, T). Ranges and standard deviations
            of returns are estimated from them. None if none were drawn.
        progress: progress of the run, in [0, 1]: the fraction of the planned env steps done (online), or of the budget spent.
    """

    round: int
    mean_reward: float
    rewards: Tensor | None = None
    progress: float = 0.0


UNLEARNED = frozenset({"serve"})
"""Settings of teachers on which nothing depends that is learned; they may differ when a run goes on."""


class Teacher(Described, ABC):
    """Base class of teachers, which answer questions about segments; usable without a Trainer.

    Attributes:
        kinds: kinds of question that the teacher can answer.
        simulated: True if the teacher answers by itself, at once and at no cost; False for a person, and for a model whose
            answers cost time or money.
        wants_frames: True if the teacher looks at ``clips.frames``.
        serve: page to be served beside the run, for people: True, a port, or options of ``lightning-pbrl label``.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair"})
    simulated: ClassVar[bool] = True
    wants_frames: bool = False
    serve: bool | int | dict[str, Any] = False

    def answers_kind(self, kind: Kind) -> bool:
        """Return True if the teacher answers questions of this kind, which may carry an axis."""
        return kind in self.kinds

    def start_round(self, stats: RoundStats) -> None:
        """Prepare for a round, for instance by adapting thresholds.

        The method is called once at the start of every round, before :meth:`answer`.
        """

    @abstractmethod
    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Answer every question of ``query``.

        Args:
            query: B questions.
            clips: their content, (B, C, T, ...), on the CPU.
            keys: one key per question, (B,), int64, the only source of randomness
                (:func:`lightning_pbrl.rng.uniform`).
        """

    def enough(self, asked: int, answered: int, usable: int) -> bool:
        """Return True if a round may go on; people make it wait.

        Args:
            asked: questions of the round.
            answered: those of them that are answered.
            usable: answers of the run that can be learned from: preferences, equal ones and ratings.
        """
        return True

    def confident(self, query: Query, clips: Clips, keys: Tensor) -> tuple[Answer, Tensor]:
        """Return the answers and the confidence in each, (B,), in [0, 1]; 0 where there is none.

        A teacher that does not say how sure it is counts as sure of every answer but a skipped one.
        """
        answer = self.answer(query, clips, keys)
        return answer, torch.isin(answer.status, torch.tensor([int(Status.ANSWERED), int(Status.EQUAL)])).double()

    def answered_by(self) -> str | Sequence[str]:
        """Return who gave the newest answers: one name for all, or one for each; the label records keep it."""
        return type(self).__name__

    def thresholds(self, length: int) -> dict[str, float]:
        """Return the current thresholds on return gaps of segments of ``length`` steps, in reward units, by metric key."""
        return {}

    def in_force(self) -> dict[str, Any]:
        """Return everything besides the settings that this round's answers depend on (the edges of bins ...), as plain JSON.

        It is stored in the label records.
        """
        return {}


class AdaptiveTeacher(Teacher):
    """Base class of teachers with thresholds relative to the mean true return of a segment (Lee et al. 2021, sec. 4)."""

    _mean_reward: float | None = None

    def start_round(self, stats: RoundStats) -> None:
        """Store the mean true reward, to which the thresholds of this round are relative."""
        super().start_round(stats)
        self._mean_reward = stats.mean_reward

    def margin(self, eps: float, length: int) -> float:
        """Return ``eps`` times the mean true return of ``length`` steps, environment reward units; 0 if ``eps`` is 0.

        Raises:
            UserError: if the mean true reward is not known.
        """
        if eps == 0:
            return 0.0
        if self._mean_reward is None:
            raise UserError(
                f"{type(self).__name__} scales its thresholds by the mean true reward and was given none: "
                "call start_round(RoundStats(round, mean_reward)) before answer."
            )
        if self._mean_reward != self._mean_reward:
            raise no_true_reward(type(self).__name__)
        return eps * self._mean_reward * length


class ScaledTeacher(Teacher):
    """Base class of teachers whose settings are in reward units, or in standard deviations of the returns of segments.

    Attributes:
        unit: reward, or return_std.
        return_std: that standard deviation, reward units; None estimates it each round from segments that may be shown.
    """

    unit: Literal["reward", "return_std"] = "reward"
    return_std: float | None = None
    _stats = RoundStats(0, float("nan"))

    def start_round(self, stats: RoundStats) -> None:
        """Store the statistics from which the unit is estimated."""
        super().start_round(stats)
        self._stats = stats

    @property
    def scale(self) -> float:
        """Size of one ``unit`` in reward units."""
        if self.unit == "reward":
            return 1.0
        if self.return_std is not None:
            return self.return_std
        returns = known_returns(self._stats, type(self).__name__, "return_std")
        return max(float(returns.std(correction=0)), TINY)  # all returns alike: no gap is a gap

    def in_force(self) -> dict[str, Any]:
        """Return the unit in reward units, if it is another."""
        return {} if self.unit == "reward" else {"unit": self.scale}


def no_true_reward(teacher: str) -> UserError:
    """Return the error of a simulated teacher on data without a true reward."""
    return UserError(
        f"{teacher} compares true rewards and this data set has none; "
        "ask a person (the labelling page) or import a file of labels."
    )


def true_returns(clips: Clips, teacher: str, gamma: float = 1.0) -> Tensor:
    """Compute the return of each segment as the teacher perceives it: (B, C), float64, environment reward units.

    sum_t gamma^(T - 1 - t) r_t: with ``gamma`` < 1 recent steps weigh most, a myopic teacher (Lee et al. 2021, eq. 2). float32
    rewards are summed in float64, so no rounding depends on the batch.

    Raises:
        UserError: if a reward is NaN; the sentence begins with the name ``teacher``.
    """
    reward = clips.reward.double()
    if reward.isnan().any():
        raise no_true_reward(teacher)
    if gamma == 1.0:
        return reward.sum(-1)
    age = torch.arange(reward.shape[-1] - 1, -1, -1, dtype=torch.float64)
    return (reward * gamma**age).sum(-1)


def known_returns(stats: RoundStats, teacher: str, what: str, discount: float = 1.0) -> Tensor:
    """Compute the returns of the segments in a round's statistics, sum_t discount^t r_t, (n,), float64.

    Raises:
        UserError: if there are none, or they have no true reward; ``what`` names the setting that makes them unnecessary.
    """
    if stats.rewards is None or not len(stats.rewards):
        raise UserError(
            f"{teacher} takes its scale from the returns of segments and was given none: "
            f"call start_round(RoundStats(..., rewards=...)) before answer, or set {what}."
        )
    rewards = stats.rewards.double()
    if rewards.isnan().any():
        raise no_true_reward(teacher)
    return discounted(rewards, discount)


def discounted(reward: Tensor, discount: float) -> Tensor:
    """Return the discounted sum that weighs the *first* steps most, sum_t discount^t r_t: (..., T) -> (...,)."""
    if discount == 1.0:
        return reward.sum(-1)
    return (reward * discount ** torch.arange(reward.shape[-1], dtype=reward.dtype)).sum(-1)


def rational_choice(returns: Tensor) -> Tensor:
    """Return P(second preferred) of a rational teacher: (B, 2) -> (B,), 1 where the second return is larger, else 0."""
    return (returns[:, 0] < returns[:, 1]).float()


def boltzmann_choice(returns: Tensor, beta: float, u: Tensor) -> Tensor:
    """Return a Boltzmann-rational choice: (B, 2) -> (B,), 1 with probability sigmoid(beta (R_1 - R_0)), else 0.

    Args:
        returns: returns of both segments, (B, 2).
        beta: rationality, in 1 / reward units; larger is more rational.
        u: one uniform number in [0, 1) per question, (B,).
    """
    return (u < torch.sigmoid(beta * (returns[:, 1] - returns[:, 0]))).float()


def softmax_choice(returns: Tensor, beta: float, u: Tensor) -> Tensor:
    """Return a noisily rational choice among k: (B, k) -> (B,), i with probability softmax(beta R)_i; for beta <= 0 the largest.

    Args:
        returns: returns of the segments, (B, k).
        beta: rationality, in 1 / reward units.
        u: one uniform number in [0, 1) per question, (B,).
    """
    if beta <= 0:
        return returns.argmax(-1).float()
    below = (beta * returns).softmax(-1).cumsum(-1)[:, :-1]
    return (u.unsqueeze(-1) >= below).sum(-1).float()


def flip(label: Tensor, u: Tensor, eps: float) -> Tensor:
    """Flip the labels whose ``u`` < ``eps``, (B,); ``eps`` = 0 flips none."""
    return torch.where(u < eps, 1.0 - label, label)


def make_answer(label: Tensor, equal: Tensor, skipped: Tensor) -> Answer:
    """Combine labels with explicit statuses; skipped takes precedence over equal, and equal over a choice.

    Args:
        label: P(second preferred), (B,), 0 or 1.
        equal: mask of equal answers, (B,), bool.
        skipped: mask of skipped questions, (B,), bool.
    """
    status = torch.full_like(label, Status.ANSWERED, dtype=torch.int64)
    status = status.masked_fill(equal, Status.EQUAL).masked_fill(skipped, Status.SKIPPED)
    value = label.float().masked_fill(equal, 0.5).masked_fill(skipped, float("nan"))
    return Answer(value, status)


def rates(kind: Kind, answer: Answer, reward: Tensor) -> dict[str, float]:
    """Return statistics of a round's answers of one kind; of one on an axis, named after it (``teacher/safety_skip_rate``)."""
    if axis := kinds.axis_of(kind):
        told = realised_rates(answer, torch.full_like(reward, torch.nan), kind)  # the true reward is not that of the axis
        return {key.replace("/", f"/{axis}_", 1): rate for key, rate in told.items()}
    return rating_rates(answer, reward) if kind == "rating" else realised_rates(answer, reward, kind)


def realised_rates(answer: Answer, reward: Tensor, kind: Kind = "pair") -> dict[str, float]:
    """Return the rates of skips, ties and errors in these answers; pending ones are not counted.

    Args:
        answer: B answers.
        reward: true reward per step of the segments, (B, C, T); NaN where the data have none.
        kind: kind of the answers, one that says which clip is better.

    Returns:
        ``teacher/skip_rate``, ``teacher/clear_ratio`` (= 1 - skip rate) and ``teacher/equal_rate`` are fractions of all
        answers (rates 0 if there are none). ``teacher/error_rate`` is the fraction of strict preferences that contradict
        the true undiscounted return (an exact tie contradicts nothing). It needs true rewards.
    """
    count = max(int((answer.status != Status.PENDING).sum()), 1)
    skip_rate = int((answer.status == Status.SKIPPED).sum()) / count
    found = {
        "teacher/skip_rate": skip_rate,
        "teacher/clear_ratio": 1.0 - skip_rate,
        "teacher/equal_rate": int((answer.status == Status.EQUAL).sum()) / count,
    }
    choice = kinds.of(kind)
    if isinstance(choice, kinds.ChoiceKind) and not reward.isnan().any():
        strict = answer.status == Status.ANSWERED
        wrong = strict & (choice.lead(reward.double().sum(-1), answer.value.nan_to_num(0.5)) < 0)
        found["teacher/error_rate"] = int(wrong.sum()) / max(int(strict.sum()), 1)
    return found


def rating_rates(answer: Answer, reward: Tensor) -> dict[str, float]:
    """Return statistics of the ratings of a round; pending ones are not counted.

    Args:
        answer: B answers.
        reward: true reward per step of the segments, (B, 1, T); NaN where the data have none.

    Returns:
        ``teacher/rating_skip_rate`` is the fraction of skipped questions. ``teacher/rating_mean`` and ``teacher/rating_std``
        describe the other answers, in rating units. With true rewards, ``teacher/rating_correlation`` is the correlation with
        the true undiscounted returns (left out if one of the two does not vary).
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
