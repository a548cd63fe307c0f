"""MR-IQL: a reward model and implicit Q-learning on it, trained at the same time on the same batches (P-IQL in CPL's papers).

Source: the baseline of "Inverse Preference Learning" (arXiv 2305.15363) and its released code. Unlike
:class:`~lightning_pbrl.methods.reward_ensemble.RewardEnsemble` followed by IQL, it relabels nothing and scales no reward.
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
from lightning_pbrl.losses.preference import preference_accuracy, preference_cross_entropy
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.ipl import LOG_STD_RANGE
from lightning_pbrl.methods.preference_policy import Batch, PreferencePolicy
from lightning_pbrl.nn import MLP, GaussianActor
from lightning_pbrl.ranges import POSITIVE


class MRIQL(PreferencePolicy, ranges={"beta": POSITIVE}):
    r"""Markovian reward and implicit Q-learning, trained at the same time (Hejna and Sadigh 2023, baseline).

    .. math::
        L_r &= E\big[\text{cross entropy}\big(y, \varsigma(\textstyle\sum_t r(\sigma_2) - \sum_t r(\sigma_1))\big)\big] \\
        L_V &= E[|\tau - 1(u < 0)|\, u^2], \quad u = \min_e \hat Q_e(s, a) - V(s) \\
        L_\pi &= -E[\min(e^{u / \beta}, 100) \log \pi(a \mid s)] \\
        L_Q &= E[(r(s, a) + \gamma V(s') - Q_e(s, a))^2]

    Reward, V and actor read the state before the update, the critic the reward and V after it. The transitions are the replayed
    ones, or without replay those of the windows (m points give m - 1). The reward reads all m points.

    Args:
        spec: sizes, linked from the data module.
        reward_updates: updates in which the reward learns; it is constant afterwards.
        expectile: τ of the value loss, in (0, 1).
        beta: temperature of the policy's weights, which it divides.
        clip_score: largest weight.
        discount: γ.
        polyak: rate at which the target critic follows.
        ensemble_size: critics E.
        hidden: hidden layers of all networks.
        dropout: dropout of the policy while it learns.
        ortho_init: orthogonal weights and zero biases; false for PyTorch's default.
        lr: learning rate of all, per update; the actor's decays along a cosine to 0.
        **preference_policy: arguments of :class:`PreferencePolicy`: ``batch_size``, ``window``, ``replay_batch_size`` ...
    """

    fewest_steps = 2

    def __init__(
        self,
        spec: Spec,
        reward_updates: int = 20_000,
        expectile: float = 0.7,
        beta: float = 1.0 / 3.0,
        clip_score: float = 100.0,
        discount: float = 0.99,
        polyak: float = 0.005,
        ensemble_size: int = 2,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        ortho_init: bool = True,
        lr: float = 3e-4,
        **preference_policy: Any,
    ) -> None:
        super().__init__(spec, **preference_policy)

    def build(self) -> None:
        h, obs_dim, action_dim = self.hparams, self.spec["obs_dim"], self.spec["action_dim"]
        self.reward_net = MLP(obs_dim + action_dim, 1, h.hidden, members=1, ortho_init=h.ortho_init, hold_output_bias=True)
        self.q = MLP(obs_dim + action_dim, 1, h.hidden, h.ensemble_size, ortho_init=h.ortho_init)
        self.v = MLP(obs_dim, 1, h.hidden, ortho_init=h.ortho_init)
        self.actor = GaussianActor(obs_dim, action_dim, h.hidden, LOG_STD_RANGE, h.dropout, h.ortho_init)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)

    @property
    def first_updates(self) -> int:
        """Number of updates in which the reward learns, too."""
        return int(self.hparams.reward_updates)

    def groups(self) -> dict[str, Part]:
        h = self.hparams
        actor = Group(h.lr, schedule=cosine(self.updates))
        return {**{name: Group(h.lr) for name in ("reward_net", "v", "q")}, "actor": actor, "q_target": Follows("q", h.polyak)}

    def programs(self) -> dict[str, Program]:
        minibatches = self.minibatches()
        first = Program([self.reward_value_actor_loss, self.critic_loss], **minibatches)
        policy = Program([self.value_actor_loss, self.critic_loss], moves=("v", "q", "actor"), **minibatches)
        return {"first": first, "policy": policy}

    def view(self, batch: Batch) -> Batch:
        """Add the transitions: s (T, O), a (T, A), state_action (T, O + A), next_s (T, O), terminated (T,)."""
        out = super().view(batch)
        if "replay_obs" in out:
            names = ("obs", "action", "next_obs", "terminated")
            s, a, next_s, terminated = (out[f"replay_{name}"] for name in names)
        else:
            obs = out["obs"]
            s, a = (points[..., :-1, :].flatten(0, -2) for points in (obs, out["action"]))
            next_s, terminated = obs[..., 1:, :].flatten(0, -2), torch.zeros_like(s[:, 0])
        transitions = {"s": s, "a": a, "next_s": next_s, "terminated": terminated}
        return {**out, **transitions, "state_action": torch.cat([s, a], dim=-1)}

    def reward_value_actor_loss(self, batch: Batch) -> dict[str, Tensor]:
        points = torch.cat([batch["obs"], batch["action"]], dim=-1)
        returns = self.reward_net(points.flatten(0, -2)).view(-1, *points.shape[:-1]).sum(-1)  # (1, B, 2), over all m points
        return {
            "reward_net": preference_cross_entropy(returns, batch["label"]).mean(),
            "accuracy": preference_accuracy(returns.detach(), batch["label"]).mean(),
            **self.value_actor_loss(batch),
        }

    def value_actor_loss(self, batch: Batch) -> dict[str, Tensor]:
        h = self.hparams
        with torch.no_grad():
            minimum = self.q_target(batch["state_action"]).amin(0).squeeze(-1)
        advantage = minimum - self.v(batch["s"]).squeeze(-1)
        weight = advantage_weight(advantage, 1.0 / h.beta, h.clip_score)
        return {
            "v": expectile_loss(advantage, h.expectile),
            "actor": -(weight * self.actor.log_prob(batch["s"], batch["a"])).mean(),
            "advantage": advantage.mean(),
        }

    def critic_loss(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            reward = self.reward_net(batch["state_action"]).squeeze(-1).mean(0)
            next_value = self.v(batch["next_s"]).squeeze(-1)
            target = td_target(reward, self.hparams.discount, batch["terminated"], next_value)
        loss = (self.q(batch["state_action"]).squeeze(-1) - target).square().mean()
        return {"q": loss, "learned_reward": reward.mean()}

    def reward(self, features: Tensor) -> Tensor:
        obs, action = features.split([self.spec["obs_dim"], self.spec["action_dim"]], dim=-1)
        return self.reward_net(torch.cat([self.normalized(obs), action], dim=-1)).squeeze(-1)

    def score(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the sum of the learned reward over the segment's k steps: (n, k, O), (n, k, A) -> (1, n)."""
        points = torch.cat([obs, action], dim=-1)
        return self.reward_net(points.flatten(0, 1)).view(1, *points.shape[:2]).sum(-1)
