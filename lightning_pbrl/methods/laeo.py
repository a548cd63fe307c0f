"""LAEO (Hatch et al. 2023, "Contrastive Example-Based Control", L4DC, arXiv 2307.13101): a policy from examples of success.

Data are offline trajectories without rewards and some states that show success. A critic learns which states are in the future of
a step. The policy takes actions with the examples in their future, and clones beside. No reward, no bootstrapping.

Differences from the released code: inner products row by row, where it builds the whole matrix for its diagonal. The density of
the policy's own actions is exact at the border, too. A frozen critic feeds the actor states alone. Where values are exponentiated
(sample_exp, mean_exp) logits above 20 count as 20, so that exp is finite; the value is flat there, without a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Frozen, Group, Part, Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.contrastive_control import (
    Aggregate,
    ContrastiveLoss,
    contrastive_metrics,
    cpc_loss,
    example_value,
    mixed_actor_loss,
    nce_loss,
)
from lightning_pbrl.losses.sac import temperature_loss
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.cem import CEM
from lightning_pbrl.methods.example_policy import Batch, ExamplePolicy
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.nn import ContrastiveCritic
from lightning_pbrl.nn.squashed_actor import squash
from lightning_pbrl.ranges import ANY


class LAEO(ExamplePolicy, ranges={"target_entropy": ANY}):
    r"""Contrastive example-based control: a critic of discounted futures, a policy towards success (Hatch et al. 2023).

    .. math::
        L_f &= \text{mean}_{e,i,j}\; \text{BCE}(f_e(s_i, a_i, g_j), 1[i = j]), \quad
            f_e = \phi_e(s, a)^\top \psi_e(g), \; g_i \text{ in the discounted future of } (s_i, a_i) \\
        L_\pi &= E[c\,(-\log \pi(a \mid s)) + (1 - c)(\alpha \log \pi(\tilde a \mid s) - \min_e f_e(s, \tilde a, s^*))],
            \quad \tilde a \sim \pi(s)

    Critic and policy move together, and both losses read the state before.

    Args:
        spec: sizes, linked from the data module.
        repr_dim: size of the critic's embeddings.
        loss: loss of the critic: nce (binary) or cpc (softmax over the batch).
        aggregate: reduction of several examples to one value: sample_logit (one per step, the released code), sample_exp,
            mean_exp (the theory), max, logsumexp.
        twin: two critics, the smaller of which counts.
        repr_norm: embeddings of length 1 and a learned temperature.
        alpha: weight of the policy's entropy; learned: so that the entropy is ``target_entropy``.
        target_entropy: target of a learned ``alpha``, in nats.
        goal_conditioned: the policy sees a goal, and learns with futures as goals (offline contrastive RL); it acts with the
            examples.
        critic_from: checkpoint of a LAEO whose critic is taken and stays as it is: only the policy learns, from new examples.
        planner: acting by the policy, or by the cross-entropy method on the critic.
        cem_candidates: candidates per iteration of the planner (paper: 10,000).
        cem_elites: elites among these.
        cem_iterations: iterations of the planner.
        **example_policy: arguments of :class:`ExamplePolicy`: ``hidden``, ``batch_size``, ``bc_coef``, ``discount`` ...
    """

    _acting_replica = 0

    def __init__(
        self,
        spec: Spec,
        repr_dim: int = 256,
        loss: ContrastiveLoss = "nce",
        aggregate: Aggregate = "sample_logit",
        twin: bool = True,
        repr_norm: bool = False,
        alpha: float | Literal["learned"] = 0.0,
        target_entropy: float = 0.0,
        goal_conditioned: bool = False,
        critic_from: str | None = None,
        planner: Literal["policy", "cem"] = "policy",
        cem_candidates: int = 1_000,
        cem_elites: int = 200,
        cem_iterations: int = 10,
        **example_policy: Any,
    ) -> None:
        super().__init__(spec, **example_policy)
        if goal_conditioned and aggregate not in ("sample_logit", "sample_exp"):
            raise UserError(
                f"aggregate={aggregate} is over all examples, and a goal-conditioned policy learns with one goal per step: use "
                "sample_logit or sample_exp."
            )
        least, batch_size = 1 if critic_from else 2, self.hparams.batch_size  # a frozen critic needs no wrong futures
        if batch_size < least:
            raise UserError(
                f"LAEO got batch_size={batch_size}: give at least {least} steps; the others' futures are the wrong ones."
            )
        self.planner = CEM(cem_iterations, cem_candidates, cem_elites, seed=self.seed) if planner == "cem" else None

    @property
    def goal_conditioned(self) -> bool:
        """True if the policy sees a goal beside the state."""
        return bool(self.hparams.goal_conditioned)

    @property
    def few(self) -> bool:
        """True if there are fewer examples than an update draws: then each is embedded once per update."""
        return len(self.examples) < self.hparams.batch_size

    @property
    def frozen(self) -> bool:
        """True if the critic comes from another run and stays as it is."""
        return self.hparams.critic_from is not None

    def build(self) -> None:
        super().build()
        h = self.hparams
        self.critic = ContrastiveCritic(
            self.spec["obs_dim"], self.spec["action_dim"], h.hidden, h.repr_dim, 1 + h.twin, h.repr_norm, self.torso()
        )
        if h.alpha == "learned":
            self.log_alpha = nn.Parameter(torch.zeros(()))

    def on_data(self) -> None:
        super().on_data()
        if self.frozen:
            self.take_critic(load_method(self.hparams.critic_from))

    def take_critic(self, other: Any) -> None:
        """Take the critic of another LAEO and the statistics of its observations; raise UserError if it does not fit."""
        if not isinstance(other, LAEO) or sizes(other) != sizes(self):
            found = "a critic built otherwise" if isinstance(other, LAEO) else f"the method {type(other).__name__}"
            raise UserError(
                f"critic_from={self.hparams.critic_from} holds {found}: give the checkpoint of a LAEO of the same observations, "
                "hidden, repr_dim, twin, repr_norm and normalize_obs."
            )
        self.critic.load_state_dict(other.critic.state_dict())
        self.normalizer.load_state_dict(other.normalizer.state_dict())

    def groups(self) -> dict[str, Part]:
        alpha = {"log_alpha": Group(self.hparams.lr)} if self.hparams.alpha == "learned" else {}
        return {"critic": Frozen() if self.frozen else self.group(), "actor": self.group(), **alpha}

    def programs(self) -> dict[str, Program]:
        self.reads = frozenset({"goal", "number"} if self.few else {"goal", "example"})
        return {"policy": Program([self.losses], **self.minibatches(self.source))}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of the critic, the policy and, if it is learned, the weight of the entropy."""
        h, state = self.hparams, self.critic.encode(batch["obs"])
        losses: dict[str, Tensor] = {}
        if not self.frozen:
            phi, psi = self.critic.phi(state, batch["action"]), self.embedded(batch["goal"])
            logits = self.critic.every_pair(phi, psi)  # (E, B, B)
            losses["critic"] = nce_loss(logits) if h.loss == "nce" else cpc_loss(logits)
            losses |= contrastive_metrics(logits.detach())

        mean, log_std = self.actor(self.policy_input(batch))
        cloning = -self.actor.density(mean, log_std, batch["action"])
        action, log_prob = squash(mean, log_std, batch["noise"][0])
        value = self.value(state.detach(), batch)(action)
        alpha = self.log_alpha.exp() if h.alpha == "learned" else h.alpha
        entropy = alpha.detach() * log_prob if h.alpha == "learned" else alpha * log_prob if alpha else 0.0
        losses |= {"actor": mixed_actor_loss(value, cloning, h.bc_coef, entropy), "bc": cloning.mean(), "value": value.mean()}
        if h.alpha == "learned":
            losses["log_alpha"] = temperature_loss(self.log_alpha, log_prob, h.target_entropy)
            losses |= {"alpha": alpha, "entropy": -log_prob.mean()}
        return losses

    def value(self, state: Tensor, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Return the value function of actions in the batch's states; gradients flow to the actions alone."""
        aggregate = self.hparams.aggregate
        drawn = aggregate in ("sample_logit", "sample_exp")
        with torch.no_grad():
            if self.goal_conditioned:
                psi = self.embedded(batch["goal"])
            elif drawn and "example" in batch:
                psi = self.embedded(batch["example"])
            else:
                psi = self.embedded(self.normalized(self.examples))
                if drawn:
                    psi = psi.index_select(1, batch["number"])

        def of(action: Tensor) -> Tensor:
            phi = self.critic.phi(state, action, frozen=True)
            logits = self.critic.row_by_row(phi, psi).unsqueeze(-1) if drawn else self.critic.every_pair(phi, psi)
            return example_value(logits, aggregate)

        return of

    def embedded(self, goals: Tensor) -> Tensor:
        """Return the critic's embeddings of goals as the networks read them: (N, O) -> (E, N, d)."""
        return self.critic.psi(self.critic.encode(goals))

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        if self.planner is None:
            return super().act(obs, sample)
        return self.planner.best(self.scorer(obs), len(obs), self.spec["action_dim"], obs.device, self._acting_replica)

    @torch.no_grad()
    def scorer(self, obs: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the planner's score of actions, the critic's value over all examples: (B, O), (B, n, A) -> (B, n)."""
        state = self.critic.encode(self.normalized(obs))
        psi = self.embedded(self.normalized(self.sought))

        def score(action: Tensor) -> Tensor:
            rows = state.unsqueeze(1).expand(-1, action.shape[1], -1).flatten(0, 1)
            logits = self.critic.every_pair(self.critic.phi(rows, action.flatten(0, 1)), psi)  # (E, B n, K)
            return example_value(logits, self.hparams.aggregate).view(action.shape[:2])

        return score

    def use_replica(self, replica: int) -> None:
        self._acting_replica = replica  # the planner uses the numbers of its own seed
        super().use_replica(replica)


def sizes(method: LAEO) -> dict[str, Any]:
    """Return what has to agree for a critic to be taken over."""
    return {"normalize_obs": method.normalize_obs, **{key: value.shape for key, value in method.critic.state_dict().items()}}
