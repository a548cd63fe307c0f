"""PURL (Xu and Denil 2019, "Positive-Unlabeled Reward Learning", arXiv 1911.00459): its reward.

Differences: of states alone, trained once on logged data, where the paper's grows with the policy's own.
"""

from __future__ import annotations

from torch import Tensor

from lightning_pbrl.losses.example_reward import positive_unlabelled_loss
from lightning_pbrl.methods.oril import ORIL


class PURL(ORIL):
    """Non-negative positive-unlabelled classification: as ORIL, and the loss of the data's failures never falls below 0."""

    def classification(self, example: Tensor, other: Tensor) -> Tensor:
        return positive_unlabelled_loss(example, other, self.hparams.eta, clamp=True)
