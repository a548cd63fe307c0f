"""SQIL (Reddy et al. 2019, arXiv 1905.11108) from states of success: Q-learning with a reward in examples only.

Differences: it is offline, with cloning beside as for LAEO. Examples are states without actions, so success lasts for ever in
each, whatever the policy does there: Q(s*, a) -> 1 / (1 - discount) with a of the policy. No entropy in the target.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.engine import Follows, Part, Program
from lightning_pbrl.losses.example_value import sqil_loss, sqil_target
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.example_policy import Batch, ExamplePolicy
from lightning_pbrl.nn import TwinValue


class SQIL(ExamplePolicy):
    r"""Soft Q imitation learning: Q-learning with reward 1 in the examples and 0 in the data (Reddy et al. 2019).

    .. math::
        L_Q &= \sum_i E[(\gamma \min_j \hat Q_j(s', a') - Q_i(s, a))^2] + E[(\tfrac{1}{1 - \gamma} - Q_i(s^*, a^*))^2],
            \quad a' \sim \pi(s'), \; a^* \sim \pi(s^*) \\
        L_\pi &= E[c\,(-\log \pi(a \mid s)) - (1 - c) \min_i Q_i(s, \tilde a) / E|Q|], \quad \tilde a \sim \pi(s)

    The value is divided by its mean size, as TD3+BC does, so that ``bc_coef`` does not depend on the scale of Q.

    Args:
        spec: sizes, linked from the data module.
        polyak: rate at which the target critics follow.
        **example_policy: arguments of :class:`ExamplePolicy`: ``hidden``, ``batch_size``, ``bc_coef``, ``discount`` ...
    """

    noises = 3  # the policy's actions in s, s' and s*
    reads = frozenset({"next_obs", "example"})

    def __init__(self, spec: Spec, polyak: float = 0.005, **example_policy: Any) -> None:
        super().__init__(spec, **example_policy)

    def build(self) -> None:
        super().build()
        self.critic = TwinValue(self.spec["obs_dim"], self.spec["action_dim"], self.hparams.hidden, self.torso())
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)

    def groups(self) -> dict[str, Part]:
        return {"critic": self.group(), "actor": self.group(), "critic_target": Follows("critic", self.hparams.polyak)}

    def programs(self) -> dict[str, Program]:
        return {"policy": Program([self.losses], **self.minibatches(self.source))}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        discount = self.hparams.discount
        with torch.no_grad():
            next_action, _ = self.actor.sample(batch["next_obs"], batch["noise"][1])
            example_action, _ = self.actor.sample(batch["example"], batch["noise"][2])
            next_q = self.critic_target(self.critic_target.encode(batch["next_obs"]), next_action)
            target = sqil_target(discount, batch["terminated"], next_q)
        state = self.critic.encode(batch["obs"])
        q = self.critic(state, batch["action"])
        success_q = self.critic(self.critic.encode(batch["example"]), example_action)

        def value(action: Tensor) -> Tensor:
            worth = self.critic(state.detach(), action, frozen=True).amin(0)
            return worth / worth.detach().abs().mean().clamp(min=1e-8)

        losses = {"critic": sqil_loss(q, target, success_q, discount), "q": q.mean(), "success_q": success_q.mean()}
        return {**losses, **self.policy_losses(batch, value)}
