"""Implicit Q-learning (Kostrikov et al. 2022, arXiv 2110.06169), the policy learner of OPRL, CLARIFY and LiRE.

It reads the column ``learned_reward`` and nothing else about reward.

Differences: observations are standardised. The three losses read one common state (V(s') and the advantage are taken before
the value update), as in the released code of CLARIFY and LiRE; the paper's own code updates V first.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.engine import Follows, Group, Part, Program
from lightning_pbrl.engine.program import cosine
from lightning_pbrl.losses.offline import advantage_weight, expectile_loss, td_target
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.offline_policy import OfflinePolicy
from lightning_pbrl.nn import MLP, GaussianActor


class IQL(OfflinePolicy):
    """Implicit Q-learning on the learned reward (Kostrikov et al. 2022).

    .. math::
        L_V &= E[\\,|\\tau - 1(u < 0)|\\,u^2], \\quad u = \\min_i \\hat Q_i(s, a) - V(s) \\\\
        L_Q &= E[(r + \\gamma V(s') - Q_i(s, a))^2] \\\\
        L_\\pi &= -E[\\min(e^{\\beta u}, 100) \\log \\pi(a \\mid s)]

    Args:
        spec: sizes, linked from the data module.
        hidden: hidden layers of critic, value and actor.
        lr: learning rate of all three, per update; the actor's decays along a cosine to 0.
        batch_size: transitions per update.
        discount: γ.
        polyak: rate at which the target critic follows.
        expectile: τ of the value loss, in (0, 1).
        temperature: β, inverse temperature of the policy's weights.
        **offline_policy: arguments of :class:`OfflinePolicy`: ``updates``, ``eval_interval``, ``normalize_obs`` ...
    """

    needs = frozenset({"learned_reward"})

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        lr: float = 3e-4,
        batch_size: int = 256,
        discount: float = 0.99,
        polyak: float = 0.005,
        expectile: float = 0.7,
        temperature: float = 3.0,
        **offline_policy: Any,
    ) -> None:
        super().__init__(spec, **offline_policy)

    def build(self) -> None:
        h, obs_dim, action_dim = self.hparams, self.spec["obs_dim"], self.spec["action_dim"]
        self.q = MLP(obs_dim + action_dim, 1, h.hidden, members=2)
        self.v = MLP(obs_dim, 1, h.hidden)
        self.actor = GaussianActor(obs_dim, action_dim, h.hidden)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)

    def groups(self) -> dict[str, Part]:
        h = self.hparams
        actor = Group(h.lr, schedule=cosine(self.updates))
        return {"v": Group(h.lr), "q": Group(h.lr), "actor": actor, "q_target": Follows("q", h.polyak)}

    def programs(self) -> dict[str, Program]:
        return {"policy": Program([self.losses], **self.minibatch(self.hparams.batch_size))}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        h = self.hparams
        obs, next_obs = self.normalizer(batch["obs"]), self.normalizer(batch["next_obs"])
        state_action = torch.cat([obs, batch["action"]], dim=-1)
        with torch.no_grad():
            q_min = self.q_target(state_action).amin(0).squeeze(-1)
            target = td_target(batch["learned_reward"], h.discount, batch["terminated"], self.v(next_obs).squeeze(-1))
        advantage = q_min - self.v(obs).squeeze(-1)
        weight = advantage_weight(advantage, h.temperature)
        return {
            "v": expectile_loss(advantage, h.expectile),  # Eq. 5
            "q": (self.q(state_action).squeeze(-1) - target).square().mean(),  # Eq. 6, mean over the twins
            "actor": -(weight * self.actor.log_prob(obs, batch["action"])).mean(),  # Eq. 7
            "advantage": advantage.mean(),
        }

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return self.actor.act(self.normalizer(obs), sample)
