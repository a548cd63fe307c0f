"""Active RLHF: PPO on one reward network that is fitted to preferences and ratings, asked where they tell most.

Source: the repository `MariaGkoulta/rlhf-repo` (there is no paper). The query class chooses the questions (``MixedQuery``,
``BALDQuery``), the schedule their number (``ask.schedule: spread``). This file is PPO with another reward.

Differences from the released code: ratings train the network. The policy starts without a step on the true reward. Clips are cut
from what the policy itself has done, so that every env step is counted. One standardisation of observations serves acting,
learning and evaluation. The reward model as it is at a rollout's end rewards the whole rollout. Every question counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_pbrl.data.feedback import Kind
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.pref_ppo import PrefPPO
from lightning_pbrl.rewards.unified import UnifiedReward


class ActiveRLHF(PrefPPO):
    """Active RLHF: PPO on a reward network for preferences and ratings (repository MariaGkoulta/rlhf-repo).

    1. Round 0: rollouts of a policy rewarded by the state entropy (``explore_steps``).
    2. Each later round that has asked: fit the network to all answers, warm from the round before. Round 1 also starts the last
       layer of the value anew.
    3. Rollouts, each rewarded by the present network, without dropout, when it is complete.

    Questions start in round 1 (``ask.first_round``), which asks uniformly. They are about what the replay still holds
    (``data.init_args.capacity``; null for all the run's steps).

    Args:
        spec: sizes, linked from the data module.
        explore_steps: steps of the pre-training, a multiple of ``n_steps`` x environments.
        **ppo: ``reward_model`` (arguments of :class:`UnifiedReward`, such as ``{dropout: 0.4}``, or another model), and the
            arguments of :class:`~lightning_pbrl.methods.ppo.PPO`.

    Raises:
        UserError: for an unknown reward model, or argument of it.
    """

    kinds: ClassVar[frozenset[Kind]] = UnifiedReward.kinds
    reward_class = UnifiedReward
    reward_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, spec: Spec, explore_steps: int = 20_480, **ppo: Any) -> None:
        super().__init__(spec, explore_steps=explore_steps, **ppo)
