"""SFT: clone all segments, then the preferred ones. The control that shows what a preference loss adds.

Source: Hejna et al., "Contrastive Preference Learning" (ICLR 2024, arXiv 2310.13639), whose policy starts from the same cloning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from lightning_pbrl.engine import Group, Part, Program
from lightning_pbrl.losses.cpl import cloning_loss
from lightning_pbrl.losses.preference import preference_accuracy
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.preference_policy import Batch, PreferencePolicy
from lightning_pbrl.nn import DeterministicActor, GaussianActor


class SFT(PreferencePolicy):
    r"""Supervised fine-tuning: behaviour cloning of all segments, then of the preferred ones (Hejna et al. 2024).

    .. math::
        L = -E[\log \pi(a \mid s)], \qquad \log \pi := -\lVert \pi(s) - a \rVert^2 \text{ for a deterministic policy}

    The second part has a new optimiser; both segments of a tie count. With ``bc_updates`` equal to ``updates`` this is BC on all
    segments, with 0 BC on preferred ones.

    Args:
        spec: sizes, linked from the data module.
        bc_updates: updates of the first part; the rest of ``updates`` is the second.
        actor: deterministic (as CPL), or gaussian with a standard deviation that does not depend on the state.
        hidden: hidden layers of the policy.
        dropout: dropout of its hidden units in training.
        ortho_init: orthogonal weights and zero biases; false for PyTorch's default.
        lr: learning rate per update.
        **preference_policy: arguments of :class:`PreferencePolicy`: ``batch_size``, ``window``, ``updates`` ...
    """

    def __init__(
        self,
        spec: Spec,
        bc_updates: int = 200_000,
        actor: Literal["deterministic", "gaussian"] = "deterministic",
        hidden: Sequence[int] = (512, 512),
        dropout: float = 0.25,
        ortho_init: bool = True,
        lr: float = 1e-4,
        batch_size: int = 96,
        updates: int = 500_000,
        **preference_policy: Any,
    ) -> None:
        super().__init__(spec, batch_size=batch_size, updates=updates, **preference_policy)

    def build(self) -> None:
        self.actor = self.make_actor(self.hparams.dropout)

    def make_actor(self, dropout: float) -> DeterministicActor | GaussianActor:
        """Return a policy network of the configured kind and size."""
        h, obs_dim, action_dim = self.hparams, self.spec["obs_dim"], self.spec["action_dim"]
        if h.actor == "gaussian":
            return GaussianActor(obs_dim, action_dim, h.hidden, dropout=dropout, ortho_init=h.ortho_init)
        return DeterministicActor(obs_dim, action_dim, h.hidden, dropout, h.ortho_init)

    @property
    def first_updates(self) -> int:
        """Number of updates that clone all segments."""
        return int(self.hparams.bc_updates)

    def begin_policy(self) -> None:
        """Start a new optimiser."""
        self.running.state.restart("actor")

    def groups(self) -> dict[str, Part]:
        return {"actor": Group(self.hparams.lr)}

    def programs(self) -> dict[str, Program]:
        minibatches = self.minibatches()
        return {"first": Program([self.cloning], **minibatches), "policy": Program([self.losses], **minibatches)}

    def cloning(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the first part, of all segments."""
        return {"actor": cloning_loss(self.log_prob(batch))}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return self.preference_losses(batch, self.log_prob(batch))

    def preference_losses(self, batch: Batch, log_prob: Tensor) -> dict[str, Tensor]:
        """Return the losses of the second part, given log π of all steps, (B, C, m)."""
        accuracy = preference_accuracy(log_prob.detach().sum(-1), batch["label"])
        return {"actor": cloning_loss(log_prob, batch["label"]), "accuracy": accuracy}

    def log_prob(self, batch: Batch) -> Tensor:
        """Return log π of the action of every step, (B, C, m)."""
        obs, action = batch["obs"], batch["action"]
        return self.actor.log_prob(obs.flatten(0, -2), action.flatten(0, -2)).view(obs.shape[:-1])

    def score(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the log-likelihood of the segment's actions: (n, k, O), (n, k, A) -> (1, n)."""
        log_prob = self.actor.log_prob(obs.flatten(0, 1), action.flatten(0, 1), dropout=False)
        return log_prob.view(1, *obs.shape[:2]).sum(-1)
