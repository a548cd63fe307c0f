"""PrefPPO: proximal policy optimisation on a reward learned from preferences, the on-policy baseline of B-Pref.

Source: K. Lee, L. Smith, A. Dragan, P. Abbeel, "B-Pref: Benchmarking Preference-Based Reinforcement Learning", NeurIPS 2021
(arXiv 2111.03026), and its released code; the idea is that of Christiano et al. 2017 (arXiv 1706.03741).

Differences: the released policy explores by state-dependent noise (gSDE), ours by the Gaussian of :class:`PPO`. Its reward model
sees observations as standardised at collection, by statistics that have moved since; ours sees them raw. Ours rewards a whole
rollout by one model, as it is when the rollout ends; there the model may change within. Our sessions lie at the edges of rounds,
there at the first end of an episode after so many steps. A time limit bootstraps; there it counts as a terminal state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_pbrl.engine import Part, Phase, Program
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.ppo import PPO
from lightning_pbrl.rewards.base import RewardModel, held


class PrefPPO(PPO):
    """Proximal policy optimisation on a reward learned from preferences (Christiano et al. 2017, Lee et al. 2021).

    1. Round 0: rollouts of a policy rewarded by the state entropy.
    2. Each later round that has asked: fit the reward ensemble to all answers, warm from the round before. Round 1 also starts
       the last layer of the value anew.
    3. Rollouts, each rewarded by the mean of the present ensemble when it is complete. Nothing old is relabelled, because nothing
       old is learned from.

    Questions start in round 1 (``ask.first_round``), which asks uniformly. They are about what the replay still holds
    (``data.init_args.capacity``).

    Args:
        spec: sizes, linked from the data module.
        explore_steps: steps of the pre-training (released script 32,000).
        reward_model: as for :class:`~lightning_pbrl.methods.pebble.PEBBLE`.
        **ppo: arguments of :class:`~lightning_pbrl.methods.ppo.PPO`.

    Raises:
        UserError: for an unknown reward model, or argument of it.
    """

    needs = frozenset({"env", "labels"})
    reward_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 100, "margin": 0.0}

    reward_model: RewardModel

    def __init__(
        self, spec: Spec, explore_steps: int = 32_000, reward_model: RewardModel | dict[str, Any] | None = None, **ppo: Any
    ) -> None:
        super().__init__(spec, explore_steps=explore_steps, **ppo)
        self.learn_reward(reward_model)

    def build(self) -> None:
        super().build()
        self.reward_model.build()

    def groups(self) -> dict[str, Part]:
        return {**held(self.reward_model.groups()), **super().groups()}

    def programs(self) -> dict[str, Program]:
        return {**self.reward_model.programs(), **super().programs()}

    def plan(self, round_number: int) -> list[Phase]:
        new = self.asked.this_round or self.reward_model.usable() != (self.learned_from or 0)
        return [*(self.reward_model.plan(round_number) if new else []), *super().plan(round_number)]
