"""Base of policy learners whose reward is learned from answers: PEBBLE (with SAC) and PrefPPO (with PPO).

``class PEBBLE(PreferenceReward, SAC)``: this class fits the reward before the learner's own phases and gives collected rows their
reward; everything else is the learner's.
"""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Mapping
from contextvars import Context
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.engine import Part, Program
from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.methods.base import Method, Phase, Spec
from lightning_pbrl.methods.online_diagnostics import diagnose, log_prob_of_questions
from lightning_pbrl.methods.online_policy import OnlinePolicy
from lightning_pbrl.methods.reward_ensemble import RewardEnsemble
from lightning_pbrl.methods.reward_model import RewardModel


class PreferenceReward(OnlinePolicy, ABC):
    """Base of policy learners that fit a reward model to all answers after each session; collected rows carry its reward.

    Questions start in round 1 (``ask.first_round``), because round 0 collects the segments they are about.

    Args:
        spec: sizes, linked from the data module.
        reward_model: arguments of the reward model (``reward_class``), such as ``{epochs: 50}``; others are as in
            ``reward_defaults``, or as in the class itself.
        **policy: arguments of the policy learner.

    Raises:
        UserError: if the reward model has no such argument, or looks back over an episode.
    """

    needs = frozenset({"env", "labels"})
    reward_class: ClassVar[type[RewardModel]] = RewardEnsemble
    reward_defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults in which the method differs from the class."""

    def __init__(self, spec: Spec, reward_model: dict[str, Any] | None = None, **policy: Any) -> None:
        super().__init__(spec, **policy)
        if self.hparams.reward != "true":
            name = type(self).__name__
            raise UserError(f"{name} learns its reward: leave model.init_args.reward alone (a setting of SAC and PPO alone).")
        if self.reward_class.relabel is not Method.relabel:
            raise UserError(
                f"{type(self).__name__} asks for rewards of single steps and {self.reward_class.__name__} needs those before: "
                "use RewardEnsemble here, or relabel logged data with it and train a policy on them."
            )
        settings = {**self.reward_defaults, **(reward_model or {})}
        self.reward_model: Any = _reward_model(self.reward_class, spec, self.seed, settings)
        self.context = self.reward_model.context

    def build(self) -> None:
        super().build()
        self.reward_model.build()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.reward_model.source = self.source

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.reward_model.__dict__["engine"] = self.engine

    def groups(self) -> dict[str, Part]:
        reward = {
            name: replace(part, modules=tuple(f"reward_model.{module}" for module in part.modules or (name,)))
            for name, part in self.reward_model.groups().items()
        }
        return {**reward, **super().groups()}

    def programs(self) -> dict[str, Program]:
        return {"reward": self.reward_model.programs()["reward"], **super().programs()}

    def plan(self, round_number: int) -> list[Phase]:
        plan = super().plan(round_number)
        late = self.usable() != (self.learned_from or 0)  # answers to questions of rounds before
        if round_number == 0 or not (self.asked.this_round or round_number == 1 or late):
            return plan
        return [*self.reward_model.plan(round_number), *self.after_fit(), *plan]

    def usable(self) -> int:
        self.reward_model.labels, self.reward_model.ratings = self.labels, self.ratings
        return int(self.reward_model.usable())

    def after_fit(self) -> list[Phase]:
        """Return the phases between a fit and the policy's; a learner that keeps old rows relabels them."""
        return []

    def collected_reward(self, rows: Tensor) -> Tensor:
        return self.combine(self.reward(self.source.features()[rows]))

    # Used by strategies and relabelling --------------------------------------------------------------------------------

    def reward(self, features: Tensor) -> Tensor:
        return self.reward_model.reward(features)

    def combine(self, reward: Tensor) -> Tensor:
        return self.reward_model.combine(reward)

    def returns(self, query: Query) -> Tensor:
        """Return the predicted return of every asked segment per member, (E, B, C)."""
        return self.reward_model.returns(query)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if pairs := self.asked.this_round - self.asked.ratings:
            row = log_prob_of_questions(self, pairs)
            self.log_dict({**row, "step": float(self.trainer.global_step)}, on_epoch=True, on_step=False, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log_dict({**diagnose(self), "step": float(self.trainer.global_step)}, batch_size=1)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.reward_model.__dict__.update(engine=None, scorer=None)  # both hold what other weights were


def _reward_model(cls: type[RewardModel], spec: Spec, seed: int, settings: Mapping[str, Any]) -> RewardModel:
    """Build the reward model of a method, so that its hyper-parameters are its own.

    Lightning looks for them in all calling constructors, hence a function. Its command line leaves those of the method in a
    context variable, hence an empty context.
    """
    known: set[str] = set()
    for base in cls.__mro__:
        if issubclass(base, RewardModel) and "__init__" in vars(base):
            known |= {name for name, p in inspect.signature(base).parameters.items() if p.kind is not p.VAR_KEYWORD}
    known -= {"spec", "normalize_obs"}  # a replay is empty when statistics would be taken
    for name in settings:
        if name not in known:
            raise UserError(f"model.init_args.reward_model has no {name!r}: {nearest(name, known)}")
    return Context().run(lambda: cls(spec, seed=seed, **settings))
