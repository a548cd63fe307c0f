"""Whether a recording goes on from row to row: what followed a step is what the next step of its episode saw.

Where it is not, the recording was interrupted and nobody marked it: a reset without a done, rows left out, files joined. Such
rows end an episode. The step itself is sound, because what followed it is stored.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from lightning_pbrl.errors import UserError

ROUNDING = 1e-5
"""Relative to a column's largest magnitude: how far two records of one float32 observation may differ."""

HALF_ROUNDING = 2e-3
"""The same where one of the two was stored in float16."""

_ROWS = 65_536  # compared at a time, so that little memory is needed


def rounding(*dtypes: DTypeLike) -> float:
    """The relative tolerance for observations that were stored in these types."""
    return HALF_ROUNDING if any(np.dtype(dtype) == np.float16 for dtype in dtypes) else ROUNDING


def jumps(obs: Tensor, next_obs: Tensor, ends: Tensor, tolerance: float | Tensor, where: str) -> Tensor:
    """Rows whose next observation is not the observation of the row after, although no episode ends between them.

    Args:
        obs: (N, O).
        next_obs: (N, O).
        ends: whether an episode is known to end with this row, (N,), bool. The last row counts as an end.
        tolerance: of the difference: relative to each column's largest magnitude, or absolute, (O,).
        where: file and keys, for the message.

    Returns:
        Row numbers, ascending, int64.

    Raises:
        UserError: when most rows jump: they are in no order of time, or ``next_obs`` means something else.
    """
    if not isinstance(tolerance, Tensor):
        tolerance = tolerance * obs.abs().amax(dim=0)
    apart = torch.zeros(len(obs), dtype=torch.bool)
    for first in range(0, len(obs) - 1, _ROWS):
        after = obs[first + 1 : first + 1 + _ROWS]
        apart[first : first + len(after)] = ((next_obs[first : first + len(after)] - after).abs() > tolerance).any(dim=1)
    inside = int((~ends[:-1]).sum())
    found = (apart & ~ends).nonzero()[:, 0]
    if 2 * len(found) > inside > 1:
        raise UserError(
            f"{where} is not the observation of the next row in {len(found)} of the {inside} rows inside episodes, the first is "
            f"row {int(found[0])}: store rows in the order in which they were recorded, with what followed each."
        )
    return found


def unmarked(resets: Tensor, offsets: Tensor, limit: int | None) -> Tensor:
    """Those of the ``resets`` that no time limit explains: an episode ends there before it has ``limit`` steps.

    Args:
        resets: rows, as :func:`jumps` gives them.
        offsets: of the episodes as they were split, (M + 1,).
        limit: steps of an episode that nothing else ends; None when ends are marked in the file.
    """
    if limit is None:
        return resets
    ends = offsets[1:] - 1
    return resets[torch.isin(resets, ends[offsets.diff() < limit])]


def tell(where: str, rows: int, first: int) -> str:
    """What a user is warned of when episodes were split at ``rows`` jumps, the first after row ``first``."""
    return (
        f"{where}: {rows} reset(s) inside episodes are not marked, the first after row {first}: next_observations do not lead to "
        "the next row there; episodes were split, their last steps truncated."
    )
