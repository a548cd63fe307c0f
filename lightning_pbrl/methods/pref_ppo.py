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

from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.ppo import PPO
from lightning_pbrl.methods.preference_reward import PreferenceReward


class PrefPPO(PreferenceReward, PPO):
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
        **ppo: ``reward_model`` (arguments of the reward ensemble, such as ``{epochs: 50}``), and the arguments of
            :class:`~lightning_pbrl.methods.ppo.PPO`.

    Raises:
        UserError: if the reward model has no such argument.
    """

    reward_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 100, "margin": 0.0}

    def __init__(self, spec: Spec, explore_steps: int = 32_000, **ppo: Any) -> None:
        super().__init__(spec, explore_steps=explore_steps, **ppo)
