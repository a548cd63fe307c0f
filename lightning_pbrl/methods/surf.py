"""SURF: PEBBLE whose reward model also learns from unlabelled pairs.

Source: J. Park, Y. Seo, J. Shin, H. Lee, P. Abbeel, K. Lee, "SURF: Semi-supervised Reward Learning with Data Augmentation for
Feedback-efficient Preference-based Reinforcement Learning", ICLR 2022 (arXiv 2203.10050), Algorithm 1, and its released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_pbrl.methods.learn_reward import SemiSupervisedEnsemble as SemiSupervisedEnsemble  # it was defined here once
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.rewards import semi_supervised


class SURF(PEBBLE):
    """Semi-supervised reward learning with data augmentation: PEBBLE that also learns from unlabelled pairs (Park et al. 2022).

    Its reward is a :class:`~lightning_pbrl.rewards.semi_supervised.SemiSupervisedEnsemble`; nothing else is changed. It asks
    where the members disagree.
    """

    reward_class = semi_supervised.SemiSupervisedEnsemble
    reward_defaults: ClassVar[Mapping[str, Any]] = {"margin": 0.0, "unlabelled_recent": 100}
