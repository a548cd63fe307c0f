"""Behaviour cloning, of all episodes or of the best (percent BC, Chen et al. 2021, arXiv 2106.01345, sec. 5.1).

It is the control that shows what a reward adds; percent BC shows what choosing whole episodes gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_pbrl.data.steps import flat_pictures
from lightning_pbrl.engine import Among, Group, Part, Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.finite import check_finite
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.offline_policy import OfflinePolicy
from lightning_pbrl.nn import GaussianActor, SquashedGaussianActor


class BC(OfflinePolicy):
    """Behaviour cloning of all or of the best episodes (percent BC, Chen et al. 2021).

    Maximum likelihood, L = -E[log π(a | s)]. Cloning all episodes reads no reward and no label.

    Args:
        spec: sizes, linked from the data module.
        hidden: hidden layers of the policy.
        lr: learning rate per update.
        batch_size: transitions per update.
        top: fraction of the episodes that are cloned, in (0, 1]: those with the largest sum of ``learned_reward``, which is the
            true return with ``relabel.reward: true``. 1 clones all and needs no reward.
        policy: gaussian: IQL's (one standard deviation for all states). squashed: that of LAEO and its kin, the one that sees
            images.
        min_std: smallest standard deviation of the squashed policy.
        **offline_policy: arguments of :class:`OfflinePolicy`: ``updates``, ``eval_interval``, ``normalize_obs`` ...
    """

    pictures = True

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        lr: float = 3e-4,
        batch_size: int = 256,
        top: float = 1.0,
        policy: Literal["gaussian", "squashed"] = "gaussian",
        min_std: float = 0.1,
        **offline_policy: Any,
    ) -> None:
        super().__init__(spec, **offline_policy)
        if self.pixels and policy == "gaussian":
            raise UserError("BC sees pictures with policy=squashed only: set model.init_args.policy to it.")

    def build(self) -> None:
        h = self.hparams
        self.actor: GaussianActor | SquashedGaussianActor
        if h.policy == "squashed":
            self.actor = self.squashed_actor(h.hidden, h.min_std)
        else:
            self.actor = GaussianActor(self.spec["obs_dim"], self.spec["action_dim"], h.hidden)

    def groups(self) -> dict[str, Part]:
        return {"actor": Group(self.hparams.lr)}

    def programs(self) -> dict[str, Program]:
        h = self.hparams
        further = {"rows": Among(self.best_rows(), h.batch_size)} if h.top < 1 else {}
        return {"policy": Program([self.losses], **self.minibatch(h.batch_size, **further))}

    def fetched(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        pictures = {"obs": flat_pictures(self.source, drawn["rows"])} if self.pixels else {}
        return {**super().fetched(drawn), **pictures}

    def best_rows(self) -> Tensor:
        """Return the rows of the best episodes, (n,); raise a UserError if the data have no learned reward to rank them by."""
        rows = self.source.drawable_rows(torch.arange(self.source.drawable_count))
        reward, episode = self.source.column("learned_reward")[rows], self.source.episodes.of(rows).to(rows.device)
        if reward.isnan().all():
            raise UserError(
                f"BC with top={self.hparams.top:g} ranks episodes by their reward and the data have none yet: set relabel.reward "
                "to true, or to a reward model's checkpoint."
            )
        check_finite(reward, "The reward by which BC ranks episodes", "repair it, or relabel with another reward")
        found, place = episode.unique(return_inverse=True)
        returns = torch.zeros(len(found), dtype=torch.float64, device=rows.device).index_add_(0, place, reward.double())
        kept = torch.zeros(len(found), dtype=torch.bool, device=rows.device)
        kept[returns.argsort(descending=True, stable=True)[: math.ceil(self.hparams.top * len(found))]] = True
        return rows[kept[place]]

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"actor": -self.actor.log_prob(self.normalized(batch["obs"]), batch["action"]).mean()}

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return self.actor.act(self.normalized(obs), sample)
