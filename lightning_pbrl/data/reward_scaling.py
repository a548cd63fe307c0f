"""Scaling of a relabelled reward to the range that a policy learner's temperature and values are tuned to.

Sources: IQL (arXiv 2110.06169) and its use by Preference Transformer (arXiv 2303.00957, released code) for ``return_range``,
``antmaze`` and the survival bonus; CLARIFY and LiRE for ``min_max``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_pbrl.data.relabel import min_max
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError

Scaling = Literal["min_max", "return_range", "antmaze"]


def rescale(reward: Tensor, source: Transitions, how: Scaling, horizon: int = 1_000) -> Tensor:
    r"""Rescale a reward to the scale that policy learners expect, (N,) -> (N,).

    ``min_max``: to [0, 1] over the rows that they draw. ``return_range``: :math:`r \cdot H / (R_\max - R_\min)`, with the
    largest and smallest return of an episode *under this reward*. ``antmaze``: :math:`(r_t - R_\min / T) \cdot H / (R_\max -
    R_\min) - 1` with T the steps of the episode that t belongs to. A reward that is constant over the data has no scale and
    becomes zeros.

    Args:
        reward: reward of every row, (N,).
        source: the data; only episodes with drawable rows are counted, not segments that were only labelled.
        how: one of the three scalings.
        horizon: number of steps H of a full episode (1,000 in locomotion and AntMaze).

    Raises:
        UserError: if all episodes have the same return, which leaves no range to divide by.
    """
    if how == "min_max" or reward.min() == reward.max():
        return min_max(reward, source.drawable_part(reward))
    steps = source.episodes.lengths.to(reward.device)
    episode = torch.arange(len(steps), device=reward.device).repeat_interleave(steps)
    returns = torch.zeros(len(steps), dtype=torch.float64, device=reward.device).index_add_(0, episode, reward.double())
    counted = returns[source.drawable_part(episode).unique()]
    low, high = counted.min(), counted.max()
    if low == high:
        raise UserError(
            f"All episodes have the same return under this reward, so relabel.normalize={how} has no range to divide by: "
            "use relabel.normalize=true."
        )
    scale = (horizon / (high - low)).to(reward)
    if how == "return_range":
        return reward * scale
    return (reward - (low / steps).to(reward)[episode]) * scale - 1.0
