"""Behaviour cloning: imitate every action in the data. The control that shows what a reward adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_pbrl.engine import Group, Program
from lightning_pbrl.methods.base import Method, Phase, Spec
from lightning_pbrl.nn import GaussianActor, Normalizer


class BC(Method):
    """Maximum-likelihood behaviour cloning, L = -E[log π(a | s)]; reads no reward and no label.

    Args:
        spec: sizes, linked from the data module.
        updates: gradient updates in total.
        eval_interval: gradient updates per round, that is between evaluations.
        hidden: hidden layers of the policy.
        lr: learning rate per update.
        batch_size: transitions per update.
        normalize_obs: standardise observations with the data's mean and standard deviation (+ 1e-3).
    """

    population = True

    def __init__(
        self,
        spec: Spec,
        updates: int = 100_000,
        eval_interval: int = 5_000,
        hidden: Sequence[int] = (256, 256),
        lr: float = 3e-4,
        batch_size: int = 256,
        normalize_obs: bool = True,
        **engine: Any,
    ) -> None:
        super().__init__(spec, **engine)

    def build(self) -> None:
        self.actor = GaussianActor(self.spec["obs_dim"], self.spec["action_dim"], self.hparams.hidden)
        self.normalizer = Normalizer(self.spec["obs_dim"])

    def on_data(self) -> None:
        if self.hparams.normalize_obs:
            self.normalizer.fit(self.source.column("obs"))

    def programs(self) -> dict[str, Program]:
        groups = {"actor": Group(self.hparams.lr)}
        return {"policy": Program(groups, [self.losses], **self.replay(self.hparams.batch_size))}

    def plan(self, round_number: int) -> list[Phase]:
        h = self.hparams
        return [Phase("policy", "policy", min(h.eval_interval, h.updates - self.engines["policy"].updates))]

    def is_finished(self) -> bool:
        return self.engines["policy"].updates >= self.hparams.updates

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"actor": -self.actor.log_prob(self.normalizer(batch["obs"]), batch["action"]).mean()}

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return self.actor.act(self.normalizer(obs), sample)
