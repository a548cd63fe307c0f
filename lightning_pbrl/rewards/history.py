"""Base of non-Markov rewards: the fit of their networks to preferences, and the relabelling of data.

Source: Preference Transformer (Kim et al., ICLR 2023, arXiv 2303.00957) and its released code, which trains and uses all its
non-Markov rewards in one way. The networks are in ``nn/preference_transformer.py`` and ``nn/lstm_reward.py``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.relabel import predict_window_reward
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import Group, Metrics, Part, Passes, Phase, Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.preference import preference_accuracy, preference_cross_entropy
from lightning_pbrl.rewards.base import RewardModel
from lightning_pbrl.rng import derive
from lightning_pbrl.shared_scoring import tiled

PASSES_PER_BLOCK = 5
"""Passes between two evaluations on the kept answers (released code)."""
MIN_GAIN = 1e-3
"""Nats by which a loss must be below the best one so far to count as better (released code)."""
CPU_STEPS, CUDA_STEPS = 3_200, 262_144
"""Steps per forward pass when whole segments are scored."""


class HistoryReward(RewardModel):
    r"""Base of reward models whose members explain preferences by rewards of steps *in their history*.

    .. math::
        P(\sigma_1 \succ \sigma_0) = \text{logistic}\big(S(\sigma_1) - S(\sigma_0)\big), \qquad
        L = \text{cross-entropy}(P, \text{label}), \qquad S(\sigma) = \tfrac1T \textstyle\sum_t z_t

    Member networks give z_t. A fit is ``epochs`` passes over all answers so far. In every fit the learning rate rises
    linearly from ``lr_floor`` to ``lr`` and falls back along half a cosine.

    Args:
        ensemble_size: members; one as published, two or more for strategies that ask where members disagree.
        train_type: score S of a segment: mean or sum of z over its steps, or the last one.
        lr: largest learning rate of AdamW.
        lr_floor: learning rate at the beginning and at the end of a round.
        warmup_fraction: fraction of a round's updates in which the learning rate rises.
        weight_decay: AdamW's weight decay.
        epochs: passes over the answers per round.
        batch_size: pairs per update and member.
        best: weights that a round ends with: those with the smallest loss on answers that are kept out of training
            (held_out), on as many that are not (train; the released code, which cannot see overfitting), or the last.
        held_out_every: every n-th answer chooses the best weights (10: a tenth of them).
        window: steps a reward may look back when data are relabelled; null for the length of the segments trained on.
        relabel_by: reward of a step from the window that ends there: r of its last step (last), the mean of r over
            the window (mean), what the last step adds to the r of the step before it (difference), or the mean of z
            (score): determined by preferences where r alone is not, see docs/methods/preference_transformer.md.
        tile: pairs evaluated at once on CPU, to bound memory; null for whole batches.

    Raises:
        UserError: if a number is out of its range.
    """

    trained_length: Tensor
    # Of the present round, kept out of module registration.
    best_loss: float
    best_weights: Tensor | None

    def __init__(
        self,
        ensemble_size: int = 1,
        train_type: Literal["mean", "sum", "last"] = "mean",
        lr: float = 1e-3,
        lr_floor: float = 1e-4,
        warmup_fraction: float = 0.1,
        weight_decay: float = 1e-4,
        epochs: int = 10_000,
        batch_size: int = 256,
        best: Literal["held_out", "train", "last"] = "held_out",
        held_out_every: int = 10,
        window: int | None = None,
        relabel_by: Literal["last", "mean", "difference", "score"] = "last",
        tile: int | None = 16,
    ) -> None:
        super().__init__()

    @abstractmethod
    def member(self) -> nn.Module:
        """Return a new member network: ``forward`` gives r and z of each step, ``last`` r of the last step."""

    def build(self) -> None:
        self.members = nn.ModuleList(self.member() for _ in range(self.hparams.ensemble_size))
        self.register_buffer("trained_length", torch.zeros((), dtype=torch.int64))
        self.pairs = self.judges = Labels.empty()
        self.fit_began, self.one_pass = 0, 1
        self.__dict__.update(best_loss=math.inf, best_weights=None)

    def groups(self) -> dict[str, Part]:
        decay = {"weight_decay": self.hparams.weight_decay}
        return {"members": Group(self.hparams.lr, torch.optim.AdamW, decay, self.warmup_cosine)}

    def programs(self) -> dict[str, Program]:
        h = self.hparams
        passes = Passes(lambda: len(self.pairs), h.batch_size, members=h.ensemble_size)
        tile = h.tile if self.device.type == "cpu" else None
        return {"reward": Program([self.losses], {"pair": passes}, self.gather_pairs, moves=("members",), ragged=True, tile=tile)}

    def training_pairs(self) -> Labels:
        """Return all answers with an order, except the held-out ones."""
        held_out = self.hparams.best == "held_out"
        return (self.labels.take(~self.judging()) if held_out else self.labels).preferences()

    def usable(self) -> int:
        return len(self.training_pairs())

    def judging(self) -> Tensor:
        """Return a mask of answers that choose the best weights, (N,), bool; by position, so it holds in later rounds."""
        every = self.hparams.held_out_every
        return torch.arange(len(self.labels)) % every == every - 1

    def plan(self, round_number: int) -> list[Phase]:
        pairs = self.training_pairs()
        one_pass, begin = math.ceil(len(pairs) / self.hparams.batch_size), partial(self.begin_fit, pairs, round_number)
        updates, block = self.hparams.epochs * one_pass, PASSES_PER_BLOCK * one_pass
        fit = Phase("reward", "reward", updates, block=block, start=begin, done=self.remember_best)
        return [fit, Phase("best weights", start=self.take_best)]

    def begin_fit(self, pairs: Labels, round_number: int = 0) -> None:
        """Train on ``pairs`` from the next update on, with dropout that a resumed round repeats."""
        self.pairs, self.fit_began = pairs.to(self.device), self.version()
        self.one_pass = max(math.ceil(len(pairs) / self.hparams.batch_size), 1)
        self.judges = self.labels.take(self.judging() & (self.hparams.best != "last")).preferences().to(self.device)
        self.__dict__.update(best_loss=math.inf, best_weights=None)
        if len(pairs):
            self.trained_length.fill_(pairs.length)
        torch.manual_seed(derive(self.seed, "dropout", round_number, self.rank))

    def warmup_cosine(self, done: int) -> float:
        """Return the factor on ``lr`` after ``done`` updates in all: linear from the floor, then half a cosine back to it."""
        h = self.hparams
        floor, total = h.lr_floor / h.lr, h.epochs * self.one_pass
        warmup, now = int(h.warmup_fraction * total), max(done - self.fit_began, 0)
        if now < warmup:
            return floor + (1 - floor) * now / warmup
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min((now - warmup) / max(total - warmup, 1), 1.0)))

    def gather_pairs(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather pairs by number (E, b) -> segments (E, b, 2, T, O + A) and labels (E, b)."""
        ids = drawn["pair"]
        return {"segments": self.source.segments(self.pairs.start[ids], self.pairs.length), "label": self.pairs.value[ids]}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        segments, label = batch["segments"], batch["label"]
        scores = self.scores(segments.flatten(1, 2)).view(segments.shape[:3])
        return {
            "members": preference_cross_entropy(scores, label).sum(),
            "accuracy": preference_accuracy(scores.detach(), label).mean(),
        }

    def scores(self, segments: Tensor) -> Tensor:
        """Return each member's score of its own segments: (E, n, T, O + A) -> (E, n)."""
        z = torch.stack([member(own)[1] for member, own in zip(self.members, segments, strict=True)])
        if self.hparams.train_type == "last":
            return z[..., -1]
        return z.mean(-1) if self.hparams.train_type == "mean" else z.sum(-1)

    # Best weights of a round -------------------------------------------------------------------------------------------

    def remember_best(self, metrics: Metrics | None = None) -> bool:
        """Keep the weights if their loss on the held-out answers is the smallest so far; never end the round."""
        if len(self.judges):
            scores = self.returns(Query("pair", self.judges.start, self.judges.length))
            loss = float(preference_cross_entropy(scores, self.judges.value).mean())
            if loss < self.best_loss - MIN_GAIN:
                weights = self.engine.state.storage["members"].clone()
                self.__dict__.update(best_loss=loss, best_weights=weights)
        return False

    def take_best(self) -> None:
        """End the round with the best weights."""
        self.remember_best()
        if self.best_weights is not None:
            self.engine.state.storage["members"].copy_(self.best_weights)
            self.__dict__["best_weights"] = None

    # Used by strategies and policies -----------------------------------------------------------------------------------

    @torch.no_grad()
    def returns(self, query: Query) -> Tensor:
        """Return the score of every asked segment per member, (E, B, C)."""
        start = query.start.reshape(-1).to(self.source.device)
        tile = max((CPU_STEPS if start.device.type == "cpu" else CUDA_STEPS) // query.length, 1)

        def scores(rows: Tensor) -> Tensor:
            part = self.source.segments(rows, query.length)
            return self.scores(part.expand(len(self.members), *part.shape))

        with evaluating(self.members):
            return tiled(scores, start.split(tile), dim=1).unflatten(1, query.start.shape)

    def reward(self, features: Tensor) -> Tensor:
        """Return the reward per member of steps *without a past*: (n, O + A) -> (E, n). Steps of an episode: :meth:`relabel`."""
        return self._last(features.unsqueeze(1), None)

    def relabel(self, source: Transitions, rows: Tensor | None = None) -> Tensor:
        """Return the members' mean reward of every row (N,), or of ``rows`` (n,), each from the window that ends there."""
        length = self.hparams.window or int(self.trained_length)
        if length == 0:
            raise UserError(f"{type(self).__name__} has not been trained, so it does not know how far to look back: set window.")
        ways = {"last": self._last, "mean": self._mean, "difference": self._difference, "score": self._score}
        way = ways[self.hparams.relabel_by]
        return predict_window_reward(source, lambda features, time: self.combine(way(features, time)), length, rows)

    def _last(self, features: Tensor, time: Tensor | None) -> Tensor:
        """Return the last step's r of windows: (n, L, O + A), (n, L) -> (E, n)."""
        with evaluating(self.members):
            return torch.stack([member.last(features, time) for member in self.members])  # type: ignore[operator]

    def _mean(self, features: Tensor, time: Tensor | None, which: int = 0) -> Tensor:
        """Return the mean over windows of r (0) or z (1)."""
        with evaluating(self.members):
            value = torch.stack([member(features, time)[which] for member in self.members])
        return value.mean(-1) if time is None else (value * (time > 0)).sum(-1) / (time > 0).sum(-1)

    def _score(self, features: Tensor, time: Tensor | None) -> Tensor:
        return self._mean(features, time, which=1)

    def _difference(self, features: Tensor, time: Tensor | None) -> Tensor:
        """Return the last step's r minus that of the step before it in the same window, or minus 0 if there is none."""
        with evaluating(self.members):
            reward = torch.stack([member(features, time)[0][:, -2:] for member in self.members])
        if time is not None:
            reward = reward * (time[:, -2:] > 0)
        return reward[..., -1] - reward[..., :-1].sum(-1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Turn dropout off within the context."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
