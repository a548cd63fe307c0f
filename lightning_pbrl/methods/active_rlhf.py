"""Active RLHF: PPO on one reward network that is fitted to preferences and ratings, asked where they tell most.

Source: the repository `MariaGkoulta/rlhf-repo` (there is no paper). The query class chooses the questions (``MixedQuery``,
``BALDQuery``), the schedule their number (``ask.schedule: spread``). This file is PPO with another reward.

Differences from the released code: ratings train the network. The policy starts without a step on the true reward. Clips are cut
from what the policy itself has done, so that every env step is counted. One standardisation of observations serves acting,
learning and evaluation. The reward model as it is at a rollout's end rewards the whole rollout. Every question counts.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lightning_pbrl.data.feedback import Kind, Query
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.ppo import PPO
from lightning_pbrl.methods.preference_reward import PreferenceReward
from lightning_pbrl.methods.reward_model import RewardModel
from lightning_pbrl.methods.unified_reward import UnifiedReward


class UnifiedFeedback(PreferenceReward, ABC):
    """Base of policy learners with a :class:`UnifiedReward`: ActiveRLHF (PPO) and ActiveSAC (PEBBLE)."""

    kinds: ClassVar[frozenset[Kind]] = UnifiedReward.kinds
    reward_class: ClassVar[type[RewardModel]] = UnifiedReward
    reward_defaults: ClassVar[Mapping[str, Any]] = {}

    @property
    def bins(self) -> int:
        """Number of levels of the ratings."""
        return int(self.reward_model.bins)

    def posterior(self, query: Query, draws: int) -> Tensor:
        """Return the returns under draws from the posterior; see :meth:`UnifiedReward.posterior`."""
        return self.reward_model.posterior(query, draws)

    def decode(self, posterior: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the ratings under every draw."""
        return self.reward_model.decode(posterior)

    def rating_probability(self, posterior: Tensor) -> Tensor:
        """Return the probability of every rating under every draw."""
        return self.reward_model.rating_probability(posterior)

    def predicted_ratings(self, query: Query) -> Tensor:
        """Return the expected rating of every asked clip, (B,), rating units."""
        return self.reward_model.predicted_ratings(query)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.reward_model.log_held_out(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.reward_model.__dict__["sampler"] = None  # its sums are those of other weights


class ActiveRLHF(UnifiedFeedback, PPO):
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
        **ppo: ``reward_model`` (arguments of :class:`UnifiedReward`, such as ``{dropout: 0.4}``), and the arguments of
            :class:`~lightning_pbrl.methods.ppo.PPO`.

    Raises:
        UserError: if the reward model has no such argument.
    """

    def __init__(self, spec: Spec, explore_steps: int = 20_480, **ppo: Any) -> None:
        super().__init__(spec, explore_steps=explore_steps, **ppo)
