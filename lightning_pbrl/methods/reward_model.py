"""Base of reward models that learn from answers: passes over those given so far."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.engine import Passes
from lightning_pbrl.methods.base import Method


class RewardModel(Method, ABC):
    """Base of methods that fit ``ensemble_size`` members to preferences in minibatches of ``batch_size`` pairs.

    Each round fits all answers given so far, warm from the round before. Skipped questions are not trained on; equal
    ones are, with label 0.5.
    """

    needs = frozenset({"labels"})
    validates_on = "pairs"
    waits = True
    longer: ClassVar[Mapping[str, str]] = {"ask.budget": "ask.per_round"}

    def build(self) -> None:
        self.pairs = Labels.empty()
        self.fit_began, self.one_pass = 0, 1

    def training_pairs(self) -> Labels:
        """Return the pairs of this round: all answers with an order."""
        return self.labels.preferences()

    def usable(self) -> int:
        return len(self.training_pairs())

    @abstractmethod
    def returns(self, query: Query) -> Tensor:
        """Return the predicted return of every asked segment per member, (E, B, C): preferences are logistic in it."""

    def begin_fit(self, pairs: Labels) -> None:
        """Train on ``pairs`` from the next update on."""
        self.pairs = pairs.to(self.device)
        self.fit_began, self.one_pass = self.model_version(), max(self.minibatches(pairs), 1)

    def minibatches(self, pairs: Labels) -> int:
        """Return the number of updates of one pass over ``pairs``."""
        return math.ceil(len(pairs) / self.hparams.batch_size)

    def passes(self) -> Passes:
        """Return numbers of pairs, (E, b) per update; every pass shuffles them anew for each member."""
        return Passes(lambda: len(self.pairs), self.hparams.batch_size, members=self.hparams.ensemble_size)

    def model_version(self) -> int:
        """Return a number that changes whenever the members have moved."""
        return 0 if self.engine is None else self.engine.state.updates[self.engine.moved("reward")[0]]

    def is_finished(self) -> bool:
        return self.asked.remaining == 0 or self.asked.over
