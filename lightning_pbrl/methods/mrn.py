"""MRN: PEBBLE whose reward model also learns from the agreement of the resulting critic with the answers.

Source: R. Liu, F. Bai, Y. Du, Y. Yang, "Meta-Reward-Net: Implicitly Differentiable Reward Learning for Preference-based
Reinforcement Learning", NeurIPS 2022, Algorithm 1, and its released code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from lightning_pbrl.engine import Program
from lightning_pbrl.losses.bilevel import adam_step
from lightning_pbrl.losses.preference import preference_cross_entropy
from lightning_pbrl.losses.sac import soft_td_target, twin_critic_loss
from lightning_pbrl.methods.base import Phase, Spec
from lightning_pbrl.methods.pebble import PEBBLE


class MRN(PEBBLE):
    r"""Meta-Reward-Net: PEBBLE with a bi-level update of the reward by the critic's preferences (Liu et al. 2022).

    .. math::
        \theta'(\psi) &= \theta - \text{Adam}(\nabla_\theta L_Q(\theta; \hat r_\psi)) \\
        L_\psi &= w \sum_{i=1}^{2} E\big[\text{CE}\big(P(Q_{\theta'_i}(s^1_1, a^1_1) > Q_{\theta'_i}(s^0_1, a^0_1)), y\big)\big]

    A copy of the critic makes one step on the present reward. It should then prefer the preferred one of two segments at their
    first step. The gradient goes through that step into the reward model. The replay is relabelled afterwards. Bi-level updates
    end with the budget.

    Args:
        spec: sizes, linked from the data module.
        meta_every: env steps between two bi-level updates (walker 1,000, door-open 10,000).
        meta_pairs: newest answers in the outer loss; as many as a session asks in the released code.
        meta_weight: w.
        **pebble: arguments of :class:`~lightning_pbrl.methods.pebble.PEBBLE`.

    Differences: the bi-level update comes between two SAC updates and relabelling follows it at once; in the released code the
    SAC update of that env step lies between the two.
    """

    rewards_single_steps = True
    pictures = False
    shared_steps = (*PEBBLE.shared_steps, "meta_every")

    def __init__(
        self, spec: Spec, meta_every: int = 5_000, meta_pairs: int = 50, meta_weight: float = 0.1, **pebble: Any
    ) -> None:
        super().__init__(spec, **pebble)
        self.kinds = self.kinds & {"pair", "rating"}  # type: ignore[misc]  # the outer loss reads pairs

    def programs(self) -> dict[str, Program]:
        programs = super().programs()
        draws = programs["policy"].draws
        return {**programs, "meta": Program([self.meta_loss], draws, self.gather_meta, moves=tuple(self.reward_model.groups()))}

    def plan(self, round_number: int) -> list[Phase]:
        *before, learn = super().plan(round_number)
        if round_number == 0 or not self.asked.remaining:
            return [*before, learn]
        h, plan = self.hparams, list(before)
        at = self.round_starts()[round_number] - h.seed_steps - h.explore_steps
        end = at + learn.updates // h.update_ratio
        while at < end:
            steps = min(h.meta_every - at % h.meta_every, end - at)
            plan.append(learn._replace(updates=steps * h.update_ratio))
            at += steps
            if at % h.meta_every == 0 and len(self.labels.preferences()):
                plan += [Phase("meta", "meta", 1), Phase("relabel", start=self.relabel_replay)]
        return plan

    def gather_meta(self, drawn: dict[str, Tensor]) -> dict[str, Any]:
        """Gather a minibatch of SAC, first steps of the newest answered pairs, (B, 2, O + A), and the critic's Adam moments."""
        pairs, state = self.labels.preferences(), self.running.state
        newest = slice(-self.hparams.meta_pairs, None)
        (moments,) = state.optimizers[0]["critic"].state.values() or ({},)
        return {
            **self.view(self.replayed(drawn)),
            "first": self.source.segments(pairs.start[newest], 1).squeeze(-2),
            "label": pairs.value[newest].to(self.device),
            "adam": {name: value.squeeze(0) if value.dim() else value for name, value in moments.items()},
        }

    def meta_loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        h = self.hparams
        state_action = torch.cat([batch["obs"], batch["action"]], -1)
        with torch.no_grad():
            next_action, log_prob = self.actor.sample(batch["next_obs"], batch["next_noise"])
            next_q = self.critic_target(torch.cat([batch["next_obs"], next_action], -1)).squeeze(-1)
        reward = self.reward_model.combine(self.reward_model.reward(state_action))
        target = soft_td_target(reward, h.discount, batch["terminated"], next_q, log_prob, self.log_alpha.exp().detach())
        weights = dict(self.critic.named_parameters())
        inner = twin_critic_loss(self.critic(state_action).squeeze(-1), target)
        gradients = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
        moved = adam_step(flat, torch.cat([g.flatten() for g in gradients]), batch["adam"], h.critic_lr or h.lr)
        parts = moved.split([weight.numel() for weight in weights.values()])
        copy = {name: part.view_as(weight) for (name, weight), part in zip(weights.items(), parts, strict=True)}
        first = batch["first"]
        q = functional_call(self.critic, copy, (first.flatten(0, 1),)).view(-1, *first.shape[:2])  # (2, B, 2)
        return dict.fromkeys(self.reward_model.groups(), h.meta_weight * preference_cross_entropy(q, batch["label"]).sum())
