"""Base of policy learners that act while they learn: env steps, rounds, and the rewards of the rows they collect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method, Spec
from lightning_pbrl.nn import StateEntropy


class OnlinePolicy(Method, ABC):
    """Base of methods that act for ``env_steps`` in rounds of ``round_steps``, with a program "policy" that moves an ``actor``.

    Args:
        spec: sizes, linked from the data module.
        env_steps: env steps in total.
        explore_steps: env steps among these of the state-entropy pre-training in round 0; 0 leaves it out.
        round_steps: env steps of a round, that is between evaluations (and questions).
        neighbours: k of the pre-training's reward.
        reference_entropy: scale that reward by the released code's running variance, which its mean inflates at first.
        reward: reward of collected rows: true (the oracle), or the controls zero and random (uniform in [0, 1]).
        **engine: arguments of :class:`~lightning_pbrl.methods.base.Method`.
    """

    needs = frozenset({"env"})
    shared_steps: ClassVar[tuple[str, ...]] = ("env_steps", "explore_steps", "round_steps")
    """Arguments that count env steps of all environments together."""
    source: Replay
    actor: Any
    """The policy's network: ``log_prob(obs, action)``."""

    def __init__(
        self,
        spec: Spec,
        env_steps: int = 500_000,
        explore_steps: int = 0,
        round_steps: int = 10_000,
        neighbours: int = 5,
        reference_entropy: bool = False,
        reward: Literal["true", "zero", "random"] = "true",
        **engine: Any,
    ) -> None:
        super().__init__(spec, **engine)
        self.entropy = StateEntropy(neighbours, reference_entropy)

    @abstractmethod
    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        """Return actions of the policy; see :class:`Method`."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        for name in self.shared_steps:
            if self.hparams[name] % self.source.num_envs:
                raise UserError(
                    f"model.init_args.{name} is {self.hparams[name]} and data.init_args.num_envs is {self.source.num_envs}, "
                    "which step together: make it a multiple."
                )

    def is_finished(self) -> bool:
        return self.env_steps >= self.hparams.env_steps

    def seen(self) -> list[Tensor]:
        """Return the observations of every stored row, a view per environment."""
        obs, lane = self.source.column("obs"), self.source.lane
        return [obs[at : at + min(self.source.steps, lane)] for at in range(0, lane * self.source.num_envs, lane)]

    def collected_reward(self, rows: Tensor) -> Tensor:
        """Return ``learned_reward`` of new rows: ids (n,) -> (n,)."""
        kind = self.hparams.reward
        if kind == "true":
            return self.source.reward[rows]
        if kind == "zero":
            return torch.zeros(len(rows), device=self.device)
        return torch.rand(len(rows), generator=self.acting_rng, device=self.device)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the log density of actions at raw observations: (B, O), (B, A) -> (B,)."""
        return self.actor.log_prob(obs, action)
