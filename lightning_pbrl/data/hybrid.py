"""Hybrid experience replay: part of a minibatch from the whole replay, part from the newest rows.

Source: QPA (arXiv 2305.17400), Algorithm 1, and its released code. The critic is then accurate where the reward model is, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_pbrl.data.replay import Replay


def hybrid_rows(replay: Replay, u: Tensor, recent_share: float, window: int) -> Tensor:
    """Return row ids of a minibatch: a uniform part, then int(B * ``recent_share``) of the ``window`` newest rows.

    In a replay with a share of logged rows, B counts the other rows of the minibatch.

    Newest means youngest, wherever the ring buffer holds them. Uniform rows may be recent as well, so the true share of recent
    rows is above ``recent_share``.

    Args:
        replay: the replay buffer.
        u: uniform numbers in [0, 1), (B,), float64.
        recent_share: omega, in [0, 1].
        window: number of rows that count as recent; all rows while fewer are stored.

    Returns:
        Row ids, (B,), int64.

    Differences: the released code draws int(B (1 - omega)) uniform rows, so for some sizes its batch is one row short.
    """
    uniform = len(u) - int((len(u) - replay.logged.part(len(u))) * recent_share)
    return torch.cat([replay.uniform_rows(u)[:uniform], replay.recent_rows(u[uniform:], window)])  # logged rows come first
