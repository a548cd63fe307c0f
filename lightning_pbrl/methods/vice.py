"""VICE (Fu et al. 2018, "Variational Inverse Control with Events", arXiv 1805.11686): its reward.

Differences: the paper's classifier tells examples from the *present policy's* states while it acts; on logged data these are the
data's states, and what remains is a plain classifier.
"""

from __future__ import annotations

from torch import Tensor

from lightning_pbrl.losses.example_reward import binary_loss
from lightning_pbrl.methods.example_reward import ExampleReward


class VICE(ExampleReward):
    """Binary classification, examples against data; the reward is its logit, log D - log(1 - D)."""

    def classification(self, example: Tensor, other: Tensor) -> Tensor:
        return binary_loss(example, other)

    def reward(self, features: Tensor) -> Tensor:
        """(n, O + A) -> (1, n), unbounded."""
        return self.logit(features[:, : self.spec["obs_dim"]]).unsqueeze(0)
