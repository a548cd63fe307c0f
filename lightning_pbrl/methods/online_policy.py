"""Base of policy learners that act while they learn: env steps, rounds, and the reward of the rows they collect.

On its own a learner gets the true reward or a control. A learner of preferences (PEBBLE, PrefPPO ...) holds a reward model, which
it fits to all answers before the policy's phases; the rows that it collects carry its reward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.transitions import fetch
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.continuing import check_parts, take_over
from lightning_pbrl.fitting.online_diagnostics import diagnose, log_prob_of_questions
from lightning_pbrl.methods.base import Method, Spec
from lightning_pbrl.nn import StateEntropy
from lightning_pbrl.rewards.base import RewardModel, chosen, described
from lightning_pbrl.rewards.ensemble import RewardEnsemble


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
        start_from: checkpoints of other stages to continue from, by part: ``reward`` (reward model), ``policy`` (actor) and
            ``critic``; None begins with nothing.
        **engine: arguments of :class:`~lightning_pbrl.methods.base.Method`.
    """

    needs = frozenset({"env"})
    ddp = False
    reward_class: ClassVar[type[RewardModel]] = RewardEnsemble
    """Reward model of a learner of preferences, unless told otherwise."""
    reward_defaults: ClassVar[Mapping[str, Any]] = {}
    """Its settings in which the method differs from that class."""
    rewards_single_steps: ClassVar[bool] = False
    """True if it needs the reward of a step without those before it, as a function of state and action."""
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
        start_from: dict[str, str] | None = None,
        **engine: Any,
    ) -> None:
        super().__init__(spec, **engine)
        check_parts(self, start_from)
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

    def on_data(self) -> None:
        take_over(self, {part: Method.load(path) for part, path in (self.hparams.start_from or {}).items()})

    def is_finished(self) -> bool:
        return self.env_steps >= self.hparams.env_steps

    def learn_reward(self, given: RewardModel | Mapping[str, Any] | str | None) -> None:
        """Learn from a reward model that is fitted to answers: the given one, or ``reward_class`` with the given settings."""
        name = type(self).__name__
        if self.hparams.reward != "true":
            raise UserError(f"{name} learns its reward: leave model.init_args.reward alone (a setting of SAC and PPO alone).")
        model = chosen(given, self.spec, self.seed, self.reward_class, self.reward_defaults)
        if getattr(model.hparams, "normalize_obs", False):
            raise UserError(
                "model.init_args.reward_model has no 'normalize_obs' in a method that acts: its replay is empty when statistics "
                "would be taken."
            )
        if "labels" not in model.needs:
            raise UserError(f"{name} learns its reward from answers, and {type(model).__name__} does not: use another model.")
        if self.rewards_single_steps and type(model).relabel is not RewardModel.relabel:
            raise UserError(f"{name} needs rewards of single steps, and {type(model).__name__} looks back: use another model.")
        if self.rewards_single_steps and getattr(model.hparams, "pictures", False) and not self.pixels:
            raise UserError(f"{name} needs rewards of states and actions: leave pictures out of model.init_args.reward_model.")
        self.kinds = model.kinds  # type: ignore[misc]
        self.save_hyperparameters({"reward_model": described(given) if isinstance(given, RewardModel) else given})
        self.reward_model, self.context = model, model.context

    def collected_reward(self, rows: Tensor) -> Tensor:
        """Return ``learned_reward`` of new rows: ids (n,) -> (n,)."""
        if self.reward_model is not None:
            return self.reward_model.relabel(self.source, rows)
        kind = self.hparams.reward
        if kind == "true":
            return fetch(self.source.reward, rows)
        if kind == "zero":
            return torch.zeros(len(rows), device=self.device)
        return torch.rand(len(rows), generator=self.acting_rng, device=self.device)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the log density of actions at raw observations: (B, O), (B, A) -> (B,)."""
        return self.actor.log_prob(obs, action)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if not self.trainer.current_epoch and self.source.logged.count:
            rows = self.source.logged.rows(self.device)
            self.source.write("learned_reward", self.collected_reward(rows), rows)
        if self.asked.pairs and self.reward_model is not None:
            row: dict[str, Any] = {**log_prob_of_questions(self, self.asked.pairs), "step": float(self.trainer.global_step)}
            self.log_dict(row, on_epoch=True, on_step=False, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.reward_model is not None:
            self.log_dict({**diagnose(self), "step": float(self.trainer.global_step)}, batch_size=1)
