"""Rewards on several axes: an ensemble per axis, and their weighted sum, whose weights can be set after the fit.

Source: M. Torne et al., "Freeform Preference Learning for Robotic Manipulation", 2026 (arXiv 2606.32027).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.kinds import axis_of, check_axes
from lightning_pbrl.data.relabel import predict_reward
from lightning_pbrl.engine import Group, Metrics, Passes, Phase, Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.preference import preference_accuracy, preference_cross_entropy
from lightning_pbrl.nn import MLP
from lightning_pbrl.rewards.base import RewardModel

TINY = 1e-6
"""Smallest standard deviation of an axis's reward that it is divided by."""


class AxisRewards(RewardModel):
    r"""Rewards on named axes: an ensemble for each, fitted to the pairs that were compared on it (Torne et al. 2026).

    .. math:: r(s, a) = \sum_k w_k\, r_k(s, a) / \text{std}(r_k)

    Answers tell an axis's reward up to its scale. So each is divided by its standard deviation over the data, measured at the end
    of every fit: a weight says what one standard deviation of an axis counts.

    Args:
        axes: names of the axes.
        weights: w_k by axis; axes that are not named have weight 0. None gives each 1.
        ensemble_size: members E of each axis.
        hidden: hidden layers of a member (leaky ReLU between them).
        output: bound of an axis's reward per step: tanh (-1, 1), sigmoid (0, 1) or none.
        lr: learning rate per update, Adam.
        epochs: most passes over the answers per round.
        batch_size: answers per update and member; each axis has its fraction of every minibatch.
        stop_accuracy: end the fit above this accuracy, mean over axes with strict answers; 1 or more never stops early.

    Raises:
        UserError: for names that cannot be axes, and weights of axes that there are not.

    Differences: the paper conditions one reward of trajectories on the name of the axis in words; here each axis has networks of
    its own and a reward per step.
    """

    scales: Tensor

    def __init__(
        self,
        axes: Sequence[str] = ("task", "calm"),
        weights: Mapping[str, float] | None = None,
        ensemble_size: int = 3,
        hidden: Sequence[int] = (256, 256, 256),
        output: Literal["tanh", "sigmoid", "none"] = "tanh",
        lr: float = 3e-4,
        epochs: int = 50,
        batch_size: int = 128,
        stop_accuracy: float = 0.97,
    ) -> None:
        super().__init__()
        self.axes = check_axes(axes, type(self).__name__)
        self.kinds = frozenset(f"pair:{axis}" for axis in self.axes)  # type: ignore[misc]
        self.weigh(dict.fromkeys(self.axes, 1.0) if weights is None else weights)

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Set the weights of the axes from now on; axes that are not named have weight 0."""
        if odd := [axis for axis, weight in weights.items() if axis not in self.axes or not math.isfinite(weight)]:
            raise UserError(
                f"{type(self).__name__} got the weight {odd[0]}={weights[odd[0]]}: give finite numbers by axis, which are "
                f"{', '.join(self.axes)}."
            )
        self.weights = {axis: float(weights.get(axis, 0.0)) for axis in self.axes}
        self._scorers.clear()

    def build(self) -> None:
        h, size = self.hparams, self.spec["obs_dim"] + self.spec["action_dim"]
        output = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "none": None}[h.output]
        for axis in self.axes:
            setattr(self, f"axis_{axis}", MLP(size, 1, h.hidden, h.ensemble_size, nn.LeakyReLU, output))
        self.register_buffer("scales", torch.ones(len(self.axes)))
        self.answers, self.one_pass = {axis: Labels.empty() for axis in self.axes}, 1

    def groups(self) -> dict[str, Group]:
        return {f"axis_{axis}": Group(self.hparams.lr) for axis in self.axes}

    def programs(self) -> dict[str, Program]:
        h = self.hparams

        def passes(axis: str) -> Passes:
            count = lambda: len(self.answers[axis])  # noqa: E731
            return Passes(count, h.batch_size, ends=lambda: self.one_pass, members=h.ensemble_size)

        draws = {axis: passes(axis) for axis in self.axes}
        return {"reward": Program([self.losses], draws, self.gather, moves=tuple(self.groups()), ragged=True)}

    def plan(self, round_number: int) -> list[Phase]:
        answers = {axis: labels.preferences() for axis, labels in self.by_axis().items()}
        counts = [len(labels) for labels in answers.values()]
        one_pass = min(math.ceil(sum(counts) / self.hparams.batch_size), max(counts))  # no minibatch is empty
        begin, done = partial(self.begin, answers, one_pass), self.fits_well
        fit = Phase("reward", "reward", self.hparams.epochs * one_pass, block=max(one_pass, 1), start=begin, done=done)
        return [fit, Phase("scales", start=self.measure)]

    def by_axis(self) -> dict[str, Labels]:
        """Return the answers on each axis."""
        return {axis: self.others.get(f"pair:{axis}", Labels.empty()) for axis in self.axes}

    def begin(self, answers: Mapping[str, Labels], one_pass: int) -> None:
        """Train on ``answers`` from the next update on."""
        self.answers = {axis: labels.to(self.source.device) for axis, labels in answers.items()}
        self.one_pass = max(one_pass, 1)
        strict = {axis: labels.value.ne(0.5).sum().clamp(min=1) for axis, labels in self.answers.items()}
        axes = sum(labels.value.ne(0.5).any() for labels in self.answers.values())
        self.worth = {axis: self.one_pass / (count * axes) for axis, count in strict.items()}

    @torch.no_grad()
    def measure(self) -> None:
        """Measure the standard deviation of each axis's reward over the data."""
        for place, axis in enumerate(self.axes):
            reward = predict_reward(self.source, partial(self.axis_reward, axis))
            self.scales[place] = self.source.drawable_part(reward).std().clamp(min=TINY)
        self._scorers.clear()

    def usable(self) -> int:
        return sum(len(labels.preferences()) for labels in self.by_axis().values())

    def version(self) -> int:
        return 0 if self.engine is None else sum(self.engine.state.updates[group] for group in self.engine.moved("reward"))

    def fits_well(self, metrics: Metrics) -> bool:
        """Return True if the fit may stop early; asked after every pass."""
        return metrics["accuracy"] > self.hparams.stop_accuracy < 1.0

    def gather(self, drawn: dict[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Gather each axis's answers: segments (E, b, 2, T, O + A), labels (E, b), a right one's share of the accuracy, ()."""
        found: dict[str, tuple[Tensor, ...]] = {}
        for axis, ids in drawn.items():
            if ids.shape[-1]:
                labels = self.answers[axis]
                segments = self.source.segments(labels.start[ids], labels.length)
                found[axis] = segments, labels.value[ids], self.worth[axis]
        return found

    def losses(self, batch: dict[str, tuple[Tensor, ...]]) -> dict[str, Tensor]:
        """Return the Bradley-Terry cross entropy of each axis, summed over its members."""
        losses, right = {}, []
        for axis, (segments, label, worth) in batch.items():
            returns = self.axis_reward(axis, segments.flatten(1, -2)).view(segments.shape[:-1]).sum(-1)
            losses[f"axis_{axis}"] = preference_cross_entropy(returns, label).sum()
            accuracy = preference_accuracy(returns.detach(), label)
            right.append((accuracy * label.ne(0.5).sum(-1)).mean() * worth)
        return {**losses, "accuracy": torch.stack(right).sum()}

    def axis_reward(self, axis: str, features: Tensor) -> Tensor:
        """Return the reward on one axis per member, (n, F) or (E, n, F) -> (E, n)."""
        found: Tensor = getattr(self, f"axis_{axis}")(features)
        return found.squeeze(-1)

    @torch.no_grad()
    def returns(self, query: Query) -> Tensor:
        """Return the predicted returns, (E, B, C): of a question on one axis those on this axis, by which it was fitted."""
        if not (axis := axis_of(query.kind)):
            return super().returns(query)
        return self.scorer(f"axis_{axis}", lambda: partial(self.axis_reward, axis)).returns(query)

    def reward(self, features: Tensor) -> Tensor:
        """Return the weighted sum of the axes' rewards per member: (n, F) -> (E, n)."""
        parts = zip(self.weights.items(), self.scales, strict=True)
        return torch.stack([weight / scale * self.axis_reward(axis, features) for (axis, weight), scale in parts]).sum(0)
