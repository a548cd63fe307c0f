"""RCE (Eysenbach et al. 2021, "Replacing Rewards with Examples", arXiv 2103.12656): recursive classification of examples.

Differences: it is offline, with cloning beside as for LAEO. The policy climbs the classifier's logit; its probability would be
flat where success is far. The ratio w is limited and of single steps (the released code also averages over 10). Nothing follows
the end of the task.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.engine import Follows, Part, Program
from lightning_pbrl.losses.example_value import rce_loss, rce_ratio
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.example_policy import Batch, ExamplePolicy
from lightning_pbrl.nn import TwinValue


class RCE(ExamplePolicy):
    r"""Recursive classification of examples: a classifier C of future success by temporal differences (Eysenbach et al. 2021).

    .. math::
        L_C &= E[(1 - \gamma)\, \text{CE}(C(s^*, a^*), 1)] + E[(1 + \gamma w)\, \text{CE}(C(s, a), y)],
            \quad y = \frac{\gamma w}{1 + \gamma w}, \; w = \frac{\hat C(s', a')}{1 - \hat C(s', a')} \\
        L_\pi &= E[c\,(-\log \pi(a \mid s)) - (1 - c) \min_i \text{logit}\, C_i(s, \tilde a)], \quad \tilde a \sim \pi(s)

    with a*, a' of the policy and CE the cross-entropy.

    Args:
        spec: sizes, linked from the data module.
        polyak: rate at which the target classifiers follow.
        max_ratio: limit of w.
        **example_policy: arguments of :class:`ExamplePolicy`: ``hidden``, ``batch_size``, ``bc_coef``, ``discount`` ...
    """

    noises = 3  # the policy's actions in s, s' and s*
    reads = frozenset({"next_obs", "example"})

    def __init__(self, spec: Spec, polyak: float = 0.005, max_ratio: float = 20.0, **example_policy: Any) -> None:
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
        h = self.hparams
        with torch.no_grad():
            next_action, _ = self.actor.sample(batch["next_obs"], batch["noise"][1])
            example_action, _ = self.actor.sample(batch["example"], batch["noise"][2])
            next_logits = self.critic_target(self.critic_target.encode(batch["next_obs"]), next_action)
            ratio = rce_ratio(next_logits, batch["terminated"], h.max_ratio)
        state = self.critic.encode(batch["obs"])
        logits = self.critic(state, batch["action"])
        success_logits = self.critic(self.critic.encode(batch["example"]), example_action)

        def value(action: Tensor) -> Tensor:
            return self.critic(state.detach(), action, frozen=True).amin(0)

        losses = {"critic": rce_loss(logits, success_logits, ratio, h.discount), "ratio": ratio.mean(), "logits": logits.mean()}
        return {**losses, **self.policy_losses(batch, value)}
