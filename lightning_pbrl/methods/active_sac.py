"""Active SAC: PEBBLE's learner on one reward network for preferences and ratings, for expensive env steps."""

from __future__ import annotations

from lightning_pbrl.methods.active_rlhf import UnifiedFeedback
from lightning_pbrl.methods.pebble import PEBBLE


class ActiveSAC(UnifiedFeedback, PEBBLE):
    """Active SAC: PEBBLE on a reward network for preferences and ratings, relabelling every stored row after a fit.

    Args:
        spec: sizes, linked from the data module.
        **pebble: ``reward_model`` (arguments of ``UnifiedReward``), and the arguments of PEBBLE.
    """
