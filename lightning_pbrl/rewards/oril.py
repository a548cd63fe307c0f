"""ORIL (Zolna et al. 2020, "Offline Learning from Demonstrations and Unlabeled Experience", arXiv 2011.13885): its reward.

Differences: it reads states alone, since examples have no actions. The policy learner is free (TD3BC, IQL); the paper's is CRR.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_pbrl.losses.example_reward import positive_unlabelled_loss
from lightning_pbrl.rewards.examples import ExampleReward


class ORIL(ExampleReward):
    """Positive-unlabelled reward learning: a fraction ``eta`` of the data counts as unmarked successes (Zolna et al. 2020).

    Args:
        eta: that fraction, in (0, 1].
        **example_reward: arguments of :class:`ExampleReward`: ``updates``, ``hidden``, ``batch_size`` ...
    """

    def __init__(self, eta: float = 0.5, **example_reward: Any) -> None:
        super().__init__(**example_reward)

    def classification(self, example: Tensor, other: Tensor) -> Tensor:
        return positive_unlabelled_loss(example, other, self.hparams.eta)
