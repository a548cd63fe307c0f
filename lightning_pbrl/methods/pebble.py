"""PEBBLE: soft actor-critic on a reward learned from preferences, with unsupervised pre-training and relabelling.

Source: K. Lee, L. Smith, P. Abbeel, "PEBBLE: Feedback-Efficient Interactive Reinforcement Learning via Relabeling Experience and
Unsupervised Pre-training", ICML 2021 (arXiv 2106.05091), Algorithm 2; sizes and fit of B-Pref (arXiv 2111.03026).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_pbrl.engine import Part, Phase, Program
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.sac import SAC
from lightning_pbrl.rewards.base import RewardModel, held


class PEBBLE(SAC):
    r"""Soft actor-critic on a reward learned from preferences, with pre-training and relabelling (Lee et al. 2021).

    1. Round 0: random steps, then steps of a policy rewarded by the state entropy. Where answers come with logged data, 2 first.
    2. Each later round that has asked: fit the reward model to all answers, warm from the round before. Write its reward into
       *every* stored row. Round 1 also starts the critic anew, with ``reset_updates`` updates.
    3. Act and update until the round ends; new rows carry the present model's reward.

    Questions start in round 1 (``ask.first_round``), which asks uniformly, because round 0 collects what they are about.

    Args:
        spec: sizes, linked from the data module.
        explore_steps: steps of the pre-training (released scripts 9,000).
        reward_model: ``{class_path: ..., init_args: ...}``, also of a model that looks back over an episode; or arguments of
            the usual one, an ensemble, such as ``{epochs: 50}``.
        **sac: arguments of :class:`~lightning_pbrl.methods.sac.SAC`.

    Raises:
        UserError: for an unknown reward model, or argument of it.
    """

    needs = frozenset({"env", "labels"})
    reward_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 200, "margin": 0.0}
    reward_model: RewardModel

    def __init__(
        self, spec: Spec, explore_steps: int = 9_000, reward_model: RewardModel | dict[str, Any] | None = None, **sac: Any
    ) -> None:
        super().__init__(spec, explore_steps=explore_steps, **sac)
        self.learn_reward(reward_model)

    def build(self) -> None:
        super().build()
        self.reward_model.build()

    def groups(self) -> dict[str, Part]:
        return {**held(self.reward_model.groups()), **super().groups()}

    def programs(self) -> dict[str, Program]:
        return {**self.reward_model.programs(), **super().programs()}

    def plan(self, round_number: int) -> list[Phase]:
        """Return a round of Algorithm 2; the questions are asked before it."""
        fit: list[Phase] = []
        if self.asked.this_round or self.reward_model.usable() != (self.learned_from or 0):
            fit = [*self.reward_model.plan(round_number), Phase("relabel", start=self.relabel_replay)]
        return [*fit, *super().plan(round_number)]

    def relabel_replay(self) -> None:
        """Write the present model's reward into every stored row."""
        self.source.relabel(self.reward_model)
