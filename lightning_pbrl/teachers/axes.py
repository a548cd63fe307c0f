"""Simulated teacher on several axes, each with a reward function of its own.

Source: the simulated axes of M. Torne et al., "Freeform Preference Learning for Robotic Manipulation", 2026 (arXiv 2606.32027).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.data.kinds import axis_of, check_axes
from lightning_pbrl.errors import UserError
from lightning_pbrl.ranges import ANY
from lightning_pbrl.rng import uniform
from lightning_pbrl.teachers.base import DRAW_CHOICE, Teacher, boltzmann_choice, make_answer, rational_choice, true_returns
from lightning_pbrl.teachers.function import load, name_of

AxisReward = Callable[[Clips], Tensor]
"""Function of the clips that returns the reward per step on an axis, (B, C, T)."""


def task(clips: Clips) -> Tensor:
    """Return the true reward per step."""
    return clips.reward


def calm(clips: Clips) -> Tensor:
    """Return the negative squared size of the action per step: the cost of control."""
    return -clips.action.square().sum(-1)


class AxesTeacher(Teacher, ranges={"beta": ANY}):
    """Simulated teacher who compares pairs on several axes, each by a reward function of its own (Torne et al. 2026).

    Args:
        rewards: reward function of each axis, by name: a function of :class:`~lightning_pbrl.data.feedback.Clips`, or its name as
            "module:function", such as "lightning_pbrl.teachers.axes:calm". None takes the true reward (task) and the cost of
            control (calm).
        beta: rationality, in 1 / reward units of an axis; 0 or less is perfectly rational.

    Raises:
        UserError: for names that cannot be axes, a function that is not there, and rewards that are not one number per step.
    """

    def __init__(self, rewards: Mapping[str, str | AxisReward] | None = None, beta: float = -1.0) -> None:
        rewards = rewards or {axis: f"{__name__}:{axis}" for axis in ("task", "calm")}
        check_axes(list(rewards), "AxesTeacher")
        self.functions = {axis: load(each) if isinstance(each, str) else each for axis, each in rewards.items()}
        self.rewards = {axis: each if isinstance(each, str) else name_of(each) for axis, each in rewards.items()}
        self._given["rewards"] = self.rewards  # so that a record and a config name them
        self.beta = beta
        self.kinds = frozenset(f"pair:{axis}" for axis in rewards)  # type: ignore[misc]

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Compare each pair on the axis of the question."""
        axis = axis_of(query.kind)
        reward: Any = self.functions[axis](clips)
        if not isinstance(reward, Tensor) or reward.shape != clips.reward.shape:
            told = tuple(reward.shape) if isinstance(reward, Tensor) else type(reward).__name__
            raise UserError(
                f"{type(self).__name__}: {self.rewards[axis]} returned {told} for the axis {axis!r}: return one reward per step, "
                f"{tuple(clips.reward.shape)}."
            )
        returns = true_returns(clips._replace(reward=reward), type(self).__name__)
        label = rational_choice(returns)
        if self.beta > 0:
            label = boltzmann_choice(returns, self.beta, uniform(keys, DRAW_CHOICE))
        nothing = label != label
        return make_answer(label, nothing, nothing)
