"""PEBBLE: soft actor-critic on a reward learned from preferences, with unsupervised pre-training and relabelling.

Source: K. Lee, L. Smith, P. Abbeel, "PEBBLE: Feedback-Efficient Interactive Reinforcement Learning via Relabeling Experience and
Unsupervised Pre-training", ICML 2021 (arXiv 2106.05091), Algorithm 2; sizes and fit of B-Pref (arXiv 2111.03026).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_pbrl.methods.base import Phase, Spec
from lightning_pbrl.methods.preference_reward import PreferenceReward
from lightning_pbrl.methods.sac import SAC


class PEBBLE(PreferenceReward, SAC):
    r"""Soft actor-critic on a reward learned from preferences, with pre-training and relabelling (Lee et al. 2021).

    1. Round 0: random steps, then steps of a policy rewarded by the state entropy.
    2. Each later round that has asked: fit the reward ensemble to all answers, warm from the round before. Write its mean reward
       into *every* stored row. Round 1 also starts the critic anew, with ``reset_updates`` updates.
    3. Act and update until the round ends; new rows carry the present ensemble's reward.

    Questions start in round 1 (``ask.first_round``), which asks uniformly.

    Args:
        spec: sizes, linked from the data module.
        explore_steps: steps of the pre-training (released scripts 9,000).
        **sac: ``reward_model`` (arguments of the reward ensemble, such as ``{epochs: 50}``), and the arguments of
            :class:`~lightning_pbrl.methods.sac.SAC`.

    Raises:
        UserError: if the reward model has no such argument.
    """

    reward_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 200, "margin": 0.0}

    def __init__(self, spec: Spec, explore_steps: int = 9_000, **sac: Any) -> None:
        super().__init__(spec, explore_steps=explore_steps, **sac)

    def after_fit(self) -> list[Phase]:
        return [Phase("relabel", start=self.relabel_replay)]

    def relabel_replay(self) -> None:
        """Write the present ensemble's reward into every stored row."""
        self.source.relabel(self.reward, self.combine)
