"""A reward model as somebody outside this project would write it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.engine import Group, Part, Passes, Phase, Program
from lightning_pbrl.rewards.base import RewardModel


class LinearReward(RewardModel):
    """Linear reward of observation and action, fitted to preferences by logistic regression."""

    def __init__(self, lr: float = 1e-2, passes: int = 20, batch_size: int = 16) -> None:
        super().__init__()

    def build(self) -> None:
        self.linear = nn.Linear(self.spec["obs_dim"] + self.spec["action_dim"], 1)
        self.pairs = Labels.empty()

    def groups(self) -> dict[str, Part]:
        return {"linear": Group(self.hparams.lr)}

    def programs(self) -> dict[str, Program]:
        draws = {"pair": Passes(lambda: len(self.pairs), self.hparams.batch_size)}
        return {"reward": Program([self.losses], draws, self.gather, moves=("linear",), ragged=True)}

    def plan(self, round_number: int) -> list[Phase]:
        one_pass = math.ceil(len(self.labels.preferences()) / self.hparams.batch_size)
        return [Phase("reward", "reward", self.hparams.passes * one_pass, start=self.begin)]

    def begin(self) -> None:
        self.pairs = self.labels.preferences().to(self.device)

    def gather(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        pair = drawn["pair"]
        return {"segments": self.source.segments(self.pairs.start[pair], self.pairs.length), "label": self.pairs.value[pair]}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        first, second = self.linear(batch["segments"]).squeeze(-1).sum(-1).unbind(-1)
        return {"linear": F.binary_cross_entropy_with_logits(second - first, batch["label"])}

    def reward(self, features: Tensor) -> Tensor:
        return self.linear(features).squeeze(-1).unsqueeze(0)


class OwnDraws(LinearReward):
    """The same with a fault: its draws are torch's own, so that they depend on the block."""

    def gather(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        return super().gather({"pair": drawn["pair"][torch.randperm(len(drawn["pair"]))[: max(len(drawn["pair"]) // 2, 1)]]})
