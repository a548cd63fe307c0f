"""Behaviour cloning: imitate every action in the data. The control that shows what a reward adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_pbrl.engine import Group, Program
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.offline_policy import OfflinePolicy
from lightning_pbrl.nn import GaussianActor


class BC(OfflinePolicy):
    """Maximum-likelihood behaviour cloning, L = -E[log π(a | s)]; reads no reward and no label.

    Args:
        spec: sizes, linked from the data module.
        hidden: hidden layers of the policy.
        lr: learning rate per update.
        batch_size: transitions per update.
        **offline_policy: the arguments of :class:`OfflinePolicy`: ``updates``, ``eval_interval``, ``normalize_obs`` ...
    """

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        lr: float = 3e-4,
        batch_size: int = 256,
        **offline_policy: Any,
    ) -> None:
        super().__init__(spec, **offline_policy)

    def build(self) -> None:
        self.actor = GaussianActor(self.spec["obs_dim"], self.spec["action_dim"], self.hparams.hidden)

    def programs(self) -> dict[str, Program]:
        groups = {"actor": Group(self.hparams.lr)}
        return {"policy": Program(groups, [self.losses], **self.replay(self.hparams.batch_size))}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"actor": -self.actor.log_prob(self.normalizer(batch["obs"]), batch["action"]).mean()}

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return self.actor.act(self.normalizer(obs), sample)
