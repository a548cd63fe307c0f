"""Base of policy learners from examples of success: steps with a future and an example each, one actor, its cloning.

LAEO, SQIL, RCE and GCBC differ only in the value of an action: a diff of two of their files shows how their papers differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_pbrl.data.future import Futures
from lightning_pbrl.data.steps import flat_pictures
from lightning_pbrl.data.transitions import Transitions, fetch
from lightning_pbrl.engine import Below, Group, Normal, Program
from lightning_pbrl.engine.draws import Streams, updates_of
from lightning_pbrl.losses.contrastive_control import mixed_actor_loss
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.offline_policy import OfflinePolicy
from lightning_pbrl.methods.with_examples import WithExamples
from lightning_pbrl.nn import SquashedGaussianActor
from lightning_pbrl.nn.squashed_actor import squash

Batch = dict[str, Tensor]
HELD_OUT_BATCHES = 4
"""Minibatches of held-out episodes that evaluate a round, always the same ones."""
GOAL_ROWS = 16_384
"""Rows that a goal-conditioned policy evaluates at once when it acts."""
ADAM = {"eps": 1e-7}
"""Options of Adam for actor and critic (released code)."""


class ExamplePolicy(WithExamples, OfflinePolicy, ABC):
    """Base of policy learners whose only feedback is a set of example states.

    Args:
        spec: sizes, linked from the data module.
        hidden: hidden layers of all networks.
        lr: learning rate of all networks, per update.
        batch_size: steps per update, each with one future and one example.
        discount: γ, of the futures or of the returns.
        bc_coef: weight of cloning in the policy's loss, in [0, 1]; the value has the rest.
        min_std: smallest standard deviation of the policy before its tanh.
        normalize_obs: standardise observations (no paper does).
        **offline_policy: arguments of :class:`OfflinePolicy`: ``updates``, ``eval_interval``, ``replicas`` ...
    """

    noises: ClassVar[int] = 1
    """Number of standard normal vectors per step in ``batch["noise"]``."""
    reads: frozenset[str] = frozenset()
    """Columns fetched beside the step itself: "goal", "example", "number" (of the example), "next_obs"."""
    pictures = True
    actor: SquashedGaussianActor

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (1024, 1024),
        lr: float = 3e-4,
        batch_size: int = 1024,
        discount: float = 0.99,
        bc_coef: float = 0.5,
        min_std: float = 0.1,
        normalize_obs: bool = False,
        **offline_policy: Any,
    ) -> None:
        super().__init__(spec, normalize_obs=normalize_obs, **offline_policy)

    @property
    def goal_conditioned(self) -> bool:
        """True if the policy sees a goal beside the state."""
        return False

    def group(self) -> Group:
        """Return the optimiser group of a network."""
        return Group(self.hparams.lr, options=ADAM)

    def build(self) -> None:
        h = self.hparams
        self.actor = self.squashed_actor(h.hidden, h.min_std, inputs=2 if self.goal_conditioned else 1)

    def minibatches(self, source: Transitions) -> dict[str, Any]:
        """Return ``draws``, ``gather`` and ``view`` of a program."""
        size = self.hparams.batch_size
        draws = {
            "step": Futures(source, self.hparams.discount, size),
            "example": Below(lambda: len(self.examples), size),
            "noise": Normal(self.noises, size, self.spec["action_dim"]),
        }
        return {"draws": draws, "gather": partial(self.gather, source), "view": self.view}

    def gather(self, source: Transitions, drawn: dict[str, Any]) -> Batch:
        """Gather rows (b, W), goals and examples (b, O), noise (noises, b, A) of an update; images in place of states, if set."""
        (row, future), example = drawn["step"], drawn["example"]
        batch = {"rows": fetch(source.packed, row), "noise": drawn["noise"]}
        if "goal" in self.reads:
            batch["goal"] = flat_pictures(source, future, 1) if self.pixels else fetch(source.column("next_obs"), future)
        if "example" in self.reads:
            batch["example"] = fetch(self.examples, example)
        if "number" in self.reads:
            batch["number"] = example
        if self.pixels:
            batch["obs"] = flat_pictures(source, row)
            if "next_obs" in self.reads:
                batch["next_obs"] = flat_pictures(source, row, 1)
        return batch

    def view(self, batch: Batch) -> Batch:
        """Return columns by name; observations, goals and examples as the networks read them; noise (noises, b, A)."""
        columns = self.columns(batch)
        for name in ("obs", "next_obs", "goal", "example"):
            if name in columns:
                columns[name] = self.normalized(columns[name])
        return columns

    def policy_losses(self, batch: Batch, value: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the policy's loss; ``value`` maps its own actions to their values, (B, A) -> (B,)."""
        mean, log_std = self.actor(self.policy_input(batch))
        cloning = -self.actor.density(mean, log_std, batch["action"])
        action, _ = squash(mean, log_std, batch["noise"][0])
        worth = value(action)
        return {
            "actor": mixed_actor_loss(worth, cloning, self.hparams.bc_coef),
            "bc": cloning.mean(),
            "value": worth.mean(),
        }

    def policy_input(self, batch: Batch) -> Tensor:
        """Return what the policy sees: the state, and its goal if it is conditioned on one."""
        return torch.cat([batch["obs"], batch["goal"]], dim=-1) if self.goal_conditioned else batch["obs"]

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        """Return the mean action, or a sample; with goals the mean over all examples, each taken as goal: (B, O) -> (B, A)."""
        seen = self.normalized(obs)
        if not self.goal_conditioned:
            return self.actor.act(seen, sample)
        goals = self.normalized(self.sought).to(seen.dtype)
        if sample:  # one example per row, at random
            number = torch.randint(len(goals), (len(seen),), device=seen.device)
            return self.actor.act(torch.cat([seen, goals[number]], dim=-1), sample=True)
        means = []
        for rows in seen.split(max(GOAL_ROWS // len(goals), 1)):
            pairs = torch.cat([rows.repeat_interleave(len(goals), 0), goals.repeat(len(rows), 1)], dim=-1)
            means.append(self.actor.act(pairs).view(len(rows), len(goals), self.spec["action_dim"]).mean(1))
        return torch.cat(means)

    # Evaluation on held-out episodes -----------------------------------------------------------------------------------

    def on_train_epoch_end(self) -> None:
        """Log losses and metrics on held-out episodes, if the data module keeps any."""
        super().on_train_epoch_end()
        source = getattr(self.trainer.datamodule, "held_out_source", None)  # type: ignore[attr-defined]
        if source is None:
            return
        found = []
        for replica in range(self.replicas):
            self.use_replica(replica)
            found.append(self.judged(source.to(self.device)))
        self.use_replica(0)
        groups = self.running.state.groups
        row = {
            f"held_out/{key}_loss" if key in groups else f"held_out/{key}": float(torch.stack([one[key] for one in found]).mean())
            for key in found[0]
        }
        self.log_dict({**row, "step": float(self.trainer.global_step)}, batch_size=1)

    @torch.no_grad()
    def judged(self, source: Transitions) -> dict[str, Tensor]:
        """Return losses and metrics of other data with the present networks, the mean over some minibatches."""
        program = Program([self.losses], **self.minibatches(source))
        drawn = updates_of(Streams(0).block(program.draws, HELD_OUT_BATCHES, device=source.device), HELD_OUT_BATCHES)
        seen = [self.losses(program.view(program.gather(each))) for each in drawn]
        return {key: torch.stack([one[key] for one in seen]).mean() for key in seen[0]}

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of the one update; all of them read the state before it."""
