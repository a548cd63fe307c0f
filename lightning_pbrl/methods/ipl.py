"""IPL: a policy from preferences without a reward network, since a Q function already implies a reward.

Source: Hejna and Sadigh, "Inverse Preference Learning: Preference-based RL without a Reward Function" (NeurIPS 2023, arXiv
2305.15363) and its released code. The order of the updates is the paper's: value, critic, actor, target.

Differences: see docs/methods/ipl.md.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_pbrl.engine import Follows, Group, Normal, Part, Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.ipl import clip_next_value, gumbel_loss, implied_preference_loss, implied_reward, mean_by_source
from lightning_pbrl.losses.offline import advantage_weight, expectile_loss
from lightning_pbrl.losses.preference import preference_accuracy
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.preference_policy import Batch, PreferencePolicy
from lightning_pbrl.nn import MLP, DeterministicActor, GaussianActor
from lightning_pbrl.ranges import POSITIVE

LOG_STD_RANGE = (-5.0, 2.0)
"""Bounds of the policy's log standard deviation (released code)."""


class IPL(PreferencePolicy, ranges={"beta": POSITIVE}):
    r"""Inverse preference learning: a policy from preferences on the reward that Q implies (Hejna and Sadigh 2023).

    .. math::
        r_Q(s, a) &= Q(s, a) - \gamma V(s') \\
        L_Q &= E\big[\text{cross entropy}\big(y, \varsigma(\textstyle\sum_t r_Q(\sigma_2) - \sum_t r_Q(\sigma_1))\big)\big]
            + \lambda E[r_Q^2] \\
        L_V &= E[|\tau - 1(u < 0)|\, u^2], \quad u = \min_e \hat Q_e(s, a) - V(s) \\
        L_\pi &= -E[\min(e^{u / \beta}, 100) \log \pi(a \mid s)]

    ``L_pref`` reads labelled pairs alone, all other losses the replayed transitions as well. A window of m points gives m - 1
    transitions. xql replaces ``L_V`` by Gumbel regression. awac has no V: the value of s' is that of an action of the policy
    under the target critic, and the advantage is Q(s, a) - Q(s, an action of the policy).

    Args:
        spec: sizes, linked from the data module.
        variant: definition of V: iql, awac or xql.
        chi2_coeff: λ, weight of the regulariser that keeps the implied reward small and makes it unique.
        expectile: τ of the value loss, in (0, 1); iql alone.
        beta: temperature of the policy's weights, which it divides; also of xql's value loss.
        clip_score: largest weight.
        gumbel_clip: exponent above which xql's loss goes on as its tangent.
        target_clipping: clip V(s') to ±1 / (λ (1 - γ)); iql and xql.
        use_min_target: awac takes the members' minimum of the value of s', not their mean.
        discount: γ.
        polyak: rate at which the target critic follows.
        value_replay_weight: weight of replayed transitions in L_V, in [0, 1]; None for a plain mean over all transitions.
        chi2_replay_weight: the same for λ E[r_Q^2].
        policy_replay_weight: the same for L_π.
        ensemble_size: critics E; each has its own preference loss.
        actor: gaussian, or deterministic: log π is then ``-|π(s) - a|^2``, a weighted squared error.
        hidden: hidden layers of all networks.
        dropout: dropout of the policy while it learns.
        ortho_init: orthogonal weights and zero biases; false for PyTorch's default.
        lr: learning rate of all three, per update.
        **preference_policy: arguments of :class:`PreferencePolicy`: ``batch_size``, ``window``, ``replay_batch_size`` ...
    """

    fewest_steps = 2
    actor: GaussianActor | DeterministicActor

    def __init__(
        self,
        spec: Spec,
        variant: Literal["iql", "awac", "xql"] = "iql",
        chi2_coeff: float = 0.5,
        expectile: float = 0.7,
        beta: float = 1.0 / 3.0,
        clip_score: float = 100.0,
        gumbel_clip: float = 7.0,
        target_clipping: bool = True,
        use_min_target: bool = False,
        discount: float = 0.99,
        polyak: float = 0.005,
        value_replay_weight: float | None = 0.5,
        chi2_replay_weight: float | None = 0.5,
        policy_replay_weight: float | None = 0.5,
        ensemble_size: int = 2,
        actor: Literal["gaussian", "deterministic"] = "gaussian",
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        ortho_init: bool = True,
        lr: float = 3e-4,
        **preference_policy: Any,
    ) -> None:
        super().__init__(spec, **preference_policy)
        if use_min_target and variant != "awac":
            raise UserError(f"use_min_target=true is for variant=awac: {variant} has one value of s', so leave it out.")
        if chi2_coeff == 0 and target_clipping and variant != "awac":
            raise UserError("chi2_coeff is 0, and target_clipping divides by it: give more, or target_clipping=false.")

    def build(self) -> None:
        h, obs_dim, action_dim = self.hparams, self.spec["obs_dim"], self.spec["action_dim"]
        self.q = MLP(obs_dim + action_dim, 1, h.hidden, h.ensemble_size, ortho_init=h.ortho_init)
        if h.variant != "awac":
            self.v = MLP(obs_dim, 1, h.hidden, ortho_init=h.ortho_init)
        if h.actor == "gaussian":
            self.actor = GaussianActor(obs_dim, action_dim, h.hidden, LOG_STD_RANGE, h.dropout, h.ortho_init)
        else:
            self.actor = DeterministicActor(obs_dim, action_dim, h.hidden, h.dropout, h.ortho_init)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)

    def groups(self) -> dict[str, Part]:
        h = self.hparams
        value = {} if h.variant == "awac" else {"v": Group(h.lr)}
        return {**value, "q": Group(h.lr), "actor": Group(h.lr), "q_target": Follows("q", h.polyak)}

    def programs(self) -> dict[str, Program]:
        if self.hparams.variant == "awac":
            return {"policy": Program([self.critic_loss, self.actor_loss], **self.minibatches())}
        return {"policy": Program([self.value_loss, self.critic_and_actor_loss], **self.minibatches())}

    def minibatches(self) -> dict[str, Any]:
        found = super().minibatches()
        if self.hparams.variant == "awac":  # an action of the policy at every s and at every s'
            found["draws"]["noise"] = Normal(2, self.transitions, self.spec["action_dim"])
        return found

    def transitions(self) -> int:
        """Return the number of transitions T of an update."""
        h = self.hparams
        return 2 * h.batch_size * (self.steps - 1) + int(h.replay_batch_size)

    # Inputs of the losses ----------------------------------------------------------------------------------------------

    def view(self, batch: Batch) -> Batch:
        """Add all T transitions, those of segments first: state_action (T, O + A), s (T, O), a (T, A), discount (T,)."""
        out = super().view(batch)
        s, a = (out[key][..., :-1, :].flatten(0, -2) for key in ("obs", "action"))
        discount = torch.full_like(s[:, 0], self.hparams.discount)  # a segment holds no terminal step
        if "replay_obs" in out:
            s, a = torch.cat([s, out["replay_obs"]]), torch.cat([a, out["replay_action"]])
            discount = torch.cat([discount, self.hparams.discount * (1.0 - out["replay_terminated"])])
        return {**out, "s": s, "a": a, "state_action": torch.cat([s, a], dim=-1), "discount": discount}

    def values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return V(s) and V(s') of all transitions, (T,) each; a point within a window is evaluated once."""
        obs = batch["obs"]
        states = [obs.flatten(0, -2)] + [batch[key] for key in ("replay_obs", "replay_next_obs") if key in batch]
        points, *replay = self.v(torch.cat(states)).squeeze(-1).split([len(part) for part in states])
        points = points.view(obs.shape[:-1])
        value, next_value = points[..., :-1].flatten(), points[..., 1:].flatten()
        if replay:
            value, next_value = torch.cat([value, replay[0]]), torch.cat([next_value, replay[1]])
        return value, next_value

    def next_states(self, batch: Batch) -> Tensor:
        """Return the states s' of all transitions, (T, O)."""
        of_windows = batch["obs"][..., 1:, :].flatten(0, -2)
        return torch.cat([of_windows, batch["replay_next_obs"]]) if "replay_next_obs" in batch else of_windows

    def of_segments(self, batch: Batch) -> int:
        """Return how many of the T transitions belong to segments."""
        *lead, points, _ = batch["obs"].shape
        return lead[0] * lead[1] * (points - 1)

    def minimum(self, batch: Batch) -> Tensor:
        """Return the target critics' minimum at (s, a), (T,)."""
        with torch.no_grad():
            return self.q_target(batch["state_action"]).amin(0).squeeze(-1)

    # iql and xql: V, then critic and actor, which do not read each other -----------------------------------------------

    def value_loss(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        h, minimum = self.hparams, self.minimum(batch)
        u = minimum - self.v(batch["s"]).squeeze(-1)

        def loss(u: Tensor) -> Tensor:
            return expectile_loss(u, h.expectile) if h.variant == "iql" else gumbel_loss(u, h.beta, h.gumbel_clip)

        return {"v": mean_by_source(loss, u, self.of_segments(batch), h.value_replay_weight)}, {"minimum": minimum}

    def critic_and_actor_loss(self, batch: Batch) -> dict[str, Tensor]:
        h = self.hparams
        with torch.no_grad():
            value, next_value = self.values(batch)  # V has moved
            advantage = batch["minimum"] - value
        if h.target_clipping:
            next_value = clip_next_value(next_value, h.chi2_coeff, h.discount)
        return {**self.critic_losses(batch, next_value), **self.actor_losses(batch, advantage)}

    # awac: the critic, then the actor, which compares the critic before that step with the one after it ----------------

    def critic_loss(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        with torch.no_grad():
            states = self.next_states(batch)
            next_value = self.q_target(torch.cat([states, self.actor.sample(states, batch["noise"][0])], dim=-1)).squeeze(-1)
            before = self.q(batch["state_action"]).squeeze(-1).mean(0)
        return self.critic_losses(batch, self.reduced(next_value)), {"q_before": before}

    def actor_loss(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            own = self.q(torch.cat([batch["s"], self.actor.sample(batch["s"], batch["noise"][1])], dim=-1)).squeeze(-1).mean(0)
        return self.actor_losses(batch, batch["q_before"] - own)

    def reduced(self, value: Tensor) -> Tensor:
        """Return one value of s' from the members', (E, n) -> (n,)."""
        return value.amin(0) if self.hparams.use_min_target else value.mean(0)

    def critic_losses(self, batch: Batch, next_value: Tensor) -> dict[str, Tensor]:
        """Return L_pref + λ E[r_Q^2] and its terms; V(s') is a constant, (T,)."""
        h, segments = self.hparams, self.of_segments(batch)
        reward = implied_reward(self.q(batch["state_action"]).squeeze(-1), batch["discount"], next_value)  # (E, T)
        steps = reward[:, :segments].view(len(reward), -1, 2, batch["obs"].shape[-2] - 1)
        pref = implied_preference_loss(steps, batch["label"])
        chi2 = h.chi2_coeff * mean_by_source(torch.mean, reward.square(), segments, h.chi2_replay_weight)
        accuracy = preference_accuracy(steps.detach().sum(-1), batch["label"]).mean()
        return {"q": pref + chi2, "pref_loss": pref, "chi2_loss": chi2, "implied_reward": reward.mean(), "accuracy": accuracy}

    def actor_losses(self, batch: Batch, advantage: Tensor) -> dict[str, Tensor]:
        """Return the regression on the data's actions, weighted by exp(advantage / β)."""
        h = self.hparams
        weighted = advantage_weight(advantage, 1.0 / h.beta, h.clip_score) * self.actor.log_prob(batch["s"], batch["a"])
        loss = -mean_by_source(torch.mean, weighted, self.of_segments(batch), h.policy_replay_weight)
        return {"actor": loss, "advantage": advantage.mean()}

    def score(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the implied reward of the segment's k - 1 transitions per member: (n, k, O), (n, k, A) -> (E, n)."""
        points = torch.cat([obs, action], dim=-1)[:, :-1]
        q = self.q(points.flatten(0, 1)).view(-1, *points.shape[:2])
        states = obs[:, 1:].flatten(0, 1)
        if self.hparams.variant == "awac":  # the policy's mean action in place of a random one
            next_value = self.reduced(self.q_target(torch.cat([states, self.actor.act(states)], dim=-1)).squeeze(-1))
        else:
            next_value = self.v(states).squeeze(-1)
            if self.hparams.target_clipping:
                next_value = clip_next_value(next_value, self.hparams.chi2_coeff, self.hparams.discount)
        return implied_reward(q, self.hparams.discount, next_value.view(points.shape[:2])).sum(-1)
