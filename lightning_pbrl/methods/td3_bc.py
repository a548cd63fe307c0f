"""TD3+BC (Fujimoto and Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning", arXiv 2106.06860).

TD3 (Fujimoto et al. 2018, arXiv 1802.09477) with a behaviour-cloning term in the policy's loss. It reads the column
``learned_reward`` and nothing else about reward.

Differences: policy and targets move in the updates 0, 2, 4 ...; the authors' code moves them in 1, 3, 5 ...
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Follows, Group, Normal, Part, Program
from lightning_pbrl.losses.offline import td_target
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.offline_policy import OfflinePolicy
from lightning_pbrl.nn import MLP


class TD3BC(OfflinePolicy):
    r"""TD3 with behaviour cloning, on the learned reward (Fujimoto and Gu 2021).

    .. math::
        L_Q &= \sum_i E[(r + \gamma \min_j \hat Q_j(s', \tilde a) - Q_i(s, a))^2], \quad
            \tilde a = \mathrm{clip}(\hat\pi(s') + \mathrm{clip}(\epsilon, -c, c), -1, 1), \;\epsilon \sim N(0, \sigma^2) \\
        L_\pi &= -\lambda E[Q_1(s, \pi(s))] + E[(\pi(s) - a)^2], \quad \lambda = \alpha / E|Q_1(s, \pi(s))|

    Args:
        spec: sizes, linked from the data module.
        hidden: hidden layers of critics and policy.
        lr: learning rate of both, per update.
        batch_size: transitions per update.
        discount: γ.
        polyak: rate at which the targets follow.
        alpha: weight α of the value against cloning; 0 clones the behaviour.
        policy_noise: σ, standard deviation of the target policy's noise, in units of action.
        noise_clip: c, largest size of that noise.
        policy_freq: updates between two moves of policy and targets.
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
        alpha: float = 2.5,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_freq: int = 2,
        **offline_policy: Any,
    ) -> None:
        super().__init__(spec, **offline_policy)

    def build(self) -> None:
        h, obs_dim, action_dim = self.hparams, self.spec["obs_dim"], self.spec["action_dim"]
        self.q = MLP(obs_dim + action_dim, 1, h.hidden, members=2)
        self.actor = MLP(obs_dim, action_dim, h.hidden, output=nn.Tanh)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.actor_target = copy.deepcopy(self.actor).requires_grad_(False)

    def groups(self) -> dict[str, Part]:
        h = self.hparams
        targets = {"q_target": Follows("q", h.polyak), "actor_target": Follows("actor", h.polyak)}
        return {"q": Group(h.lr), "actor": Group(h.lr), **targets}

    def programs(self) -> dict[str, Program]:
        h = self.hparams
        draws = self.minibatch(h.batch_size, noise=Normal(h.batch_size, self.spec["action_dim"]))
        return {"policy": Program([self.critic_loss, self.actor_loss], every=(1, h.policy_freq), **draws)}

    def columns(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return columns by name, observations standardised, and the noise."""
        columns = super().columns(batch)
        return {**columns, "obs": self.normalizer(columns["obs"]), "next_obs": self.normalizer(columns["next_obs"])}

    def critic_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        h = self.hparams
        with torch.no_grad():
            noise = (h.policy_noise * batch["noise"]).clamp(-h.noise_clip, h.noise_clip)
            next_action = (self.actor_target(batch["next_obs"]) + noise).clamp(-1.0, 1.0)
            next_q = self.q_target(torch.cat([batch["next_obs"], next_action], dim=-1)).amin(0).squeeze(-1)
            target = td_target(batch["learned_reward"], h.discount, batch["terminated"], next_q)
        q = self.q(torch.cat([batch["obs"], batch["action"]], dim=-1)).squeeze(-1)  # (2, b)
        return {"q": (q - target).square().mean(-1).sum(), "q_mean": q.mean()}

    def actor_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        action = self.actor(batch["obs"])
        value = self.q(torch.cat([batch["obs"], action], dim=-1))[0]
        weight = self.hparams.alpha / value.detach().abs().mean().clamp(min=1e-8)  # Eq. 5
        cloning = (action - batch["action"]).square().mean()
        return {"actor": cloning - weight * value.mean(), "cloning": cloning}  # Eq. 3, as a loss

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return self.actor(self.normalizer(obs))
