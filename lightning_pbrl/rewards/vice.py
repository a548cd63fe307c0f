"""VICE (Fu et al. 2018, "Variational Inverse Control with Events", arXiv 1805.11686): its reward.

Differences: the paper's classifier tells examples from the *present policy's* states while it acts. Here these are the logged
data's states, and a plain classifier remains.
"""

from __future__ import annotations

from torch import Tensor

from lightning_pbrl.losses.example_reward import binary_loss
from lightning_pbrl.rewards.examples import ExampleReward


class VICE(ExampleReward):
    """Variational inverse control with events: a classifier of examples against data, whose logit is the reward (Fu et al. 2018).

    The logit is log D - log(1 - D).
    """

    def classification(self, example: Tensor, other: Tensor) -> Tensor:
        return binary_loss(example, other)

    def reward(self, features: Tensor) -> Tensor:
        """Return the unbounded reward: (n, O + A) -> (1, n)."""
        return self.logit(features[:, : self.spec["obs_dim"]]).unsqueeze(0)
