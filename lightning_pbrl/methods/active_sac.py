"""Active RLHF off-policy: PEBBLE's learner on one reward network for preferences and ratings, for where env steps are dear."""

from __future__ import annotations

from lightning_pbrl.methods.active_rlhf import UnifiedFeedback
from lightning_pbrl.methods.pebble import PEBBLE


class ActiveSAC(UnifiedFeedback, PEBBLE):
    """PEBBLE whose reward is a ``UnifiedReward``; every stored row is relabelled after a fit.

    Args:
        spec: sizes, linked from the data module.
        **pebble: ``reward_model`` (arguments of ``UnifiedReward``), and the arguments of PEBBLE.
    """
