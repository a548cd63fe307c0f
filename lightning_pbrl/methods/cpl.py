"""CPL: a policy learned directly from preferences by a contrastive loss, without a reward and without reinforcement learning.

Source: Hejna et al., "Contrastive Preference Learning: Learning from Human Feedback without RL" (ICLR 2024, arXiv 2310.13639)
and its released code.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.engine import Frozen, Group, Part
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.cpl import cloning_loss, contrastive_loss, preferred, ranked_contrastive_loss
from lightning_pbrl.losses.preference import preference_accuracy
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.preference_policy import Batch
from lightning_pbrl.methods.sft import SFT
from lightning_pbrl.ranges import POSITIVE


class CPL(SFT, ranges={"alpha": POSITIVE}):
    r"""Contrastive preference learning: a policy from preferences without a reward or RL (Hejna et al. 2024).

    .. math::
        L &= E[y\,\zeta(b A_1 - A_2) + (1 - y)\,\zeta(b A_2 - A_1)] + c\,L_\text{BC}, \quad \zeta(x) = \log(1 + e^x) \\
        A_i &= \alpha \sum_t \log \pi(a^i_t \mid s^i_t) \quad (\text{CPL-KL: } \log \pi - \log \pi_\text{ref})

    All segments are cloned first. CPL has b below 1 and c = 0, CPL(BC) b = 1 and c = 1. CPL-KL compares with the cloned policy.

    Args:
        spec: sizes, linked from the data module.
        alpha: α, temperature of the advantage.
        bias: b, in (0, 1]; below 1 the loser's likelihood counts less.
        bc_coeff: c, weight of behaviour cloning beside the contrastive loss.
        bc_data: segments that the cloning term reads: all, or the preferred ones alone (pos; both of a tie).
        reference_kl: measure log π against the policy at the end of cloning (CPL-KL).
        compare: comparison: the labelled pairs. rank: each of their segments against a random other one. score: all pairs of a
            batch of ``batch_size`` segments. The last two read no answer but each segment's score, the sum of its learned reward.
        warmup: updates after cloning in which the learning rate grows linearly.
        lr_multiplier: learning rate after the warm-up, as a multiple of ``lr``; cloning has ``lr`` itself.
        **sft: arguments of :class:`SFT`: ``bc_updates``, ``actor``, ``hidden``, ``lr``, ``batch_size``, ``window`` ...

    Raises:
        UserError: if settings contradict each other.
    """

    def __init__(
        self,
        spec: Spec,
        alpha: float = 0.1,
        bias: float = 0.5,
        bc_coeff: float = 0.0,
        bc_data: Literal["all", "pos"] = "all",
        reference_kl: bool = False,
        compare: Literal["comparison", "rank", "score"] = "comparison",
        warmup: int = 10_000,
        lr_multiplier: float = 1.0,
        **sft: Any,
    ) -> None:
        super().__init__(spec, **sft)
        if bc_data == "pos" and not bc_coeff:
            raise UserError("bc_data=pos says what the cloning term reads and there is none: set bc_coeff, or leave bc_data out.")
        if compare == "score" and bc_coeff and bc_data == "pos":
            raise UserError("compare=score has no preferred segment to clone: set bc_data to all, or compare to rank.")
        if compare == "score" and self.hparams.batch_size < 2:
            raise UserError("compare=score compares the segments of a batch with each other: set batch_size to 2 or more.")
        if compare != "comparison":
            self.__dict__["needs"] = self.needs | {"learned_reward"}  # the scores; checked at start

    def build(self) -> None:
        super().build()
        if self.hparams.reference_kl:
            self.reference = self.make_actor(dropout=0.0).requires_grad_(False)
            self.reference.load_state_dict(self.actor.state_dict())

    def groups(self) -> dict[str, Part]:
        reference = {"reference": Frozen()} if self.hparams.reference_kl else {}
        return {"actor": Group(self.hparams.lr, schedule=self.warm_up), **reference}

    def warm_up(self, done: int) -> float:
        """Return the factor on the learning rate after ``done`` updates in all."""
        since = done - self.first_updates
        return 1.0 if since < 0 else self.hparams.lr_multiplier * min((since + 1) / max(self.hparams.warmup, 1), 1.0)

    def begin_policy(self) -> None:
        """Start a new optimiser, and take the present policy as reference."""
        super().begin_policy()
        if self.hparams.reference_kl:
            self.running.state.copy("reference", "actor")

    # Segments with scores, in place of pairs with answers --------------------------------------------------------------

    def use_labels(self, labels: Labels) -> None:
        super().use_labels(labels)
        if self.hparams.compare == "comparison":
            return
        segments = self.pairs.start.unique()
        reward = self.source.column("learned_reward")[segment_rows(segments.to(self.source.device), self.pairs.length)]
        self.scored = torch.stack([segments.double(), reward.sum(-1).double().cpu()], dim=-1)  # (S, 2)

    @property
    def clips(self) -> int:
        """Number of segments that an entry of a minibatch compares: two, or one if all of the minibatch are compared."""
        return 1 if self.hparams.compare == "score" else 2

    def entries(self) -> int:
        return super().entries() if self.hparams.compare == "comparison" else len(self.scored)

    def one_pass(self, rng: torch.Generator) -> Tensor:
        """Return the pairs; or each segment against the next of a random order (rank); or segment and score, (2, S) (score)."""
        if self.hparams.compare == "comparison":
            return super().one_pass(rng)
        first = self.scored[torch.randperm(len(self.scored), generator=rng)].mT
        if self.hparams.compare == "score":
            return first
        second = first.roll(1, dims=1)
        return torch.stack([first[0], second[0], preferred(first[1], second[1])])

    def preference_losses(self, batch: Batch, log_prob: Tensor) -> dict[str, Tensor]:
        h, label = self.hparams, batch["label"]
        advantage = self.advantage(batch, log_prob)
        if h.compare == "score":
            contrast = ranked_contrastive_loss(advantage[:, 0], label, h.bias)
            accuracy = {}
        else:
            contrast = contrastive_loss(advantage, label, h.bias)
            accuracy = {"accuracy": preference_accuracy(advantage.detach(), label)}
        if not h.bc_coeff:
            return {"actor": contrast, **accuracy}
        cloning = cloning_loss(log_prob, label if h.bc_data == "pos" else None)
        return {"actor": contrast + h.bc_coeff * cloning, "contrast": contrast, "cloning": cloning, **accuracy}

    def advantage(self, batch: Batch, log_prob: Tensor) -> Tensor:
        """Return α Σ_t log π, or with a reference α Σ_t (log π - log π_ref): (B, C)."""
        if self.hparams.reference_kl:
            obs, action = batch["obs"], batch["action"]
            with torch.no_grad():
                reference = self.reference.log_prob(obs.flatten(0, -2), action.flatten(0, -2)).view(obs.shape[:-1])
            log_prob = log_prob - reference
        return self.hparams.alpha * log_prob.sum(-1)

    def score(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the segment's advantage under the policy: (n, k, O), (n, k, A) -> (1, n)."""
        steps = obs.flatten(0, 1), action.flatten(0, 1)
        log_prob = self.actor.log_prob(*steps, dropout=False).view(obs.shape[:2])
        return self.advantage({"obs": obs, "action": action}, log_prob).unsqueeze(0)
