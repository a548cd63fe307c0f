"""What all models of a reward share that learn from answers: passes over those given so far."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.evaluation import PairEvaluation


class RewardModel(PairEvaluation, Method, ABC):
    """A method that fits ``ensemble_size`` members to preferences, round by round, in minibatches of ``batch_size`` pairs.

    Each round fits all answers given so far, warm from the round before. Skipped questions are not trained on; equal
    ones are, with label 0.5.
    """

    needs = frozenset({"labels"})
    waits = True
    longer: ClassVar[Mapping[str, str]] = {"ask.budget": "ask.per_round"}

    def build(self) -> None:
        self.build_metrics()
        self.pairs = Labels.empty()
        self.fit_began, self.one_pass = 0, 1

    def training_pairs(self) -> Labels:
        """What this round trains on: all answers that say something about order."""
        return self.labels.preferences()

    def usable(self) -> int:
        return len(self.training_pairs())

    def begin_fit(self, pairs: Labels) -> int:
        """Train on ``pairs`` from the next update on; returns the updates of one pass over them."""
        self.pairs = pairs.to(self.device)
        one_pass = math.ceil(len(pairs) / self.hparams.batch_size)
        self.fit_began, self.one_pass = self.engines["reward"].updates, max(one_pass, 1)
        return one_pass

    def is_finished(self) -> bool:
        return self.asked.remaining == 0 or self.asked.over

    def sample_passes(self, updates: int, rng: torch.Generator) -> list[Tensor]:
        """Indices of minibatches, one (E, b) per update; every pass shuffles the labels anew for each member."""
        batches: list[Tensor] = []
        while len(batches) < updates:
            order = [torch.randperm(len(self.pairs), generator=rng) for _ in range(self.hparams.ensemble_size)]
            batches += torch.stack(order).to(self.device).split(self.hparams.batch_size, dim=1)
        return batches[:updates]
