"""Base of rewards learned from examples of success: a classifier of states, examples against data.

ORIL, PURL and VICE differ in its loss and in which output is the reward. The reward goes into ``learned_reward``
(``relabel.reward``), where any policy learner reads it.

Differences from LAEO's released code: its baselines train such a classifier and then learn from the *true* reward; here the
policy gets the learned one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.data.transitions import fetch, unpack
from lightning_pbrl.engine import Below, Group, Part, Phase, Program, Rows
from lightning_pbrl.nn import MLP, Normalizer
from lightning_pbrl.rewards.base import RewardModel


class ExampleReward(RewardModel, ABC):
    """Base of rewards of states, from a classifier of examples and data; actions are ignored.

    Args:
        updates: gradient updates in total.
        eval_interval: gradient updates per round, that is between evaluations.
        hidden: hidden layers (ReLU).
        lr: learning rate per update.
        batch_size: examples, and as many states of the data, per update.
        normalize_obs: standardise observations with the data's mean and standard deviation (+ 1e-3).

    Attributes:
        examples: states of success, (K, O), given by the method that holds it.
    """

    needs = frozenset({"examples"})
    examples: Tensor

    def __init__(
        self,
        updates: int = 10_000,
        eval_interval: int = 2_500,
        hidden: Sequence[int] = (1024, 1024),
        lr: float = 3e-4,
        batch_size: int = 1024,
        normalize_obs: bool = False,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        self.normalizer = Normalizer(self.spec["obs_dim"])
        self.net = MLP(self.spec["obs_dim"], 1, self.hparams.hidden)

    def on_data(self) -> None:
        if self.hparams.normalize_obs:
            self.normalizer.fit(self.source.column("obs"))

    def groups(self) -> dict[str, Part]:
        return {"net": Group(self.hparams.lr)}

    def programs(self) -> dict[str, Program]:
        size = self.hparams.batch_size
        draws = {"rows": Rows(self.source, size), "example": Below(lambda: len(self.examples), size)}
        return {"reward": Program([self.losses], draws, self.gather, self.view)}

    def plan(self, round_number: int) -> list[Phase]:
        h = self.hparams
        return [Phase("reward", "reward", min(h.eval_interval, h.updates - self.engine.updates["reward"]))]

    def gather(self, drawn: Mapping[str, Any]) -> dict[str, Tensor]:
        """Gather rows of the data, (b, W), and examples, (b, O)."""
        return {"rows": fetch(self.source.packed, drawn["rows"]), "example": fetch(self.examples, drawn["example"])}

    def view(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return states of the data and examples, two of (b, O)."""
        return {"obs": unpack(batch["rows"], self.source.layout)["obs"], "example": batch["example"]}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        example, other = self.logit(batch["example"]), self.logit(batch["obs"])
        accuracy = 0.5 * ((example > 0).float().mean() + (other <= 0).float().mean())
        return {
            "net": self.classification(example, other),
            "accuracy": accuracy,
            "logit_example": example.mean(),
            "logit": other.mean(),
        }

    @abstractmethod
    def classification(self, example: Tensor, other: Tensor) -> Tensor:
        """Return the loss of the logits of examples and of states of the data, two of (B,) -> ()."""

    def logit(self, obs: Tensor) -> Tensor:
        """Return the logit of a state being an example: (B, O) -> (B,)."""
        return self.net(self.normalizer(obs)).squeeze(-1)

    def reward(self, features: Tensor) -> Tensor:
        """Return the probability that the state is an example: (n, O + A) -> (1, n), in (0, 1)."""
        return torch.sigmoid(self.logit(features[:, : self.spec["obs_dim"]])).unsqueeze(0)
