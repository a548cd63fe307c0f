"""PURL (Xu and Denil 2019, "Positive-Unlabeled Reward Learning", arXiv 1911.00459): its reward.

Differences: it reads states alone and is trained once on logged data; the paper's data grow with the policy's own.
"""

from __future__ import annotations

from torch import Tensor

from lightning_pbrl.losses.example_reward import positive_unlabelled_loss
from lightning_pbrl.rewards.oril import ORIL


class PURL(ORIL):
    """Non-negative positive-unlabelled reward: ORIL whose loss of the data's failures is at least 0 (Xu and Denil 2019)."""

    def classification(self, example: Tensor, other: Tensor) -> Tensor:
        return positive_unlabelled_loss(example, other, self.hparams.eta, clamp=True)
