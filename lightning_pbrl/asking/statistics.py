"""Statistics of the data that a simulated teacher gets when a round begins."""

from __future__ import annotations

import torch

from lightning_pbrl.data.segments import SegmentPool, segment_rows
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.teachers.base import RoundStats

SAMPLED = 1_000
"""Segments, drawn uniformly from those that may be shown, whose rewards tell a simulated teacher what returns are usual."""


def round_stats(rounds: int, source: Transitions, pool: SegmentPool, rng: torch.Generator) -> RoundStats:
    """Return what a teacher is told when it has been asked in ``rounds`` rounds before, about segments of ``pool``."""
    start = pool.draw(SAMPLED, rng).to(source.device)
    return RoundStats(rounds, source.mean_reward(), source.reward[segment_rows(start, pool.length)].cpu())
