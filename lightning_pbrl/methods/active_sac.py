"""Active SAC: PEBBLE's learner on one reward network for preferences and ratings, for expensive env steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_pbrl.data.feedback import Kind
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.rewards.unified import UnifiedReward


class ActiveSAC(PEBBLE):
    """Active SAC: PEBBLE on a reward network for preferences and ratings, relabelling every stored row after a fit.

    Args:
        spec: sizes, linked from the data module.
        **pebble: ``reward_model`` (arguments of ``UnifiedReward``, or another model), and the arguments of PEBBLE.
    """

    kinds: ClassVar[frozenset[Kind]] = UnifiedReward.kinds
    reward_class = UnifiedReward
    reward_defaults: ClassVar[Mapping[str, Any]] = {}
