"""Continuity of a recording: a step's next observation is the observation of the next step of its episode.

Otherwise the recording was interrupted without a mark: a reset without a done, rows left out, files joined. Such rows end an
episode. The step itself is valid, because its next observation is stored.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from lightning_pbrl.errors import UserError

ROUNDING = 1e-5
"""Largest difference of two records of one float32 observation, relative to a column's largest magnitude."""

HALF_ROUNDING = 2e-3
"""The same tolerance if one of the two was stored in float16."""

_ROWS = 65_536  # compared at a time, so that little memory is needed


def rounding(*dtypes: DTypeLike) -> float:
    """Return the relative tolerance for observations that were stored in these types."""
    return HALF_ROUNDING if any(np.dtype(dtype) == np.float16 for dtype in dtypes) else ROUNDING


def jumps(obs: Tensor, next_obs: Tensor, ends: Tensor, tolerance: float | Tensor, where: str) -> Tensor:
    """Find rows whose next observation differs from the observation of the next row within an episode.

    Args:
        obs: observations, (N, O).
        next_obs: next observations, (N, O).
        ends: True if an episode is known to end with this row, (N,), bool. The last row counts as an end.
        tolerance: largest difference: relative to each column's largest magnitude, or absolute, (O,).
        where: file and keys, for the message.

    Returns:
        Row numbers, ascending, int64.

    Raises:
        UserError: if most rows jump: they are not in temporal order, or ``next_obs`` means something else.
    """
    if not isinstance(tolerance, Tensor):
        tolerance = tolerance * obs.abs().amax(dim=0)
    gaps = Gaps()
    for part, after in zip(obs.split(_ROWS), next_obs.split(_ROWS), strict=True):
        gaps.see(part, after, tolerance)
    return inside_episodes(gaps.rows(), ends, where)


class Gaps:
    """Search for rows whose next observation differs from the observation of the next row, window by window."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.after: Tensor | None = None  # the next observation of the last row

    def see(self, obs: Tensor, next_obs: Tensor, tolerance: Tensor) -> None:
        """Compare the next rows, (n, O) each; the largest difference may be ``tolerance``, (O,)."""
        if self.after is not None:
            self.parts.append(((self.after - obs[:1]).abs() > tolerance).any(dim=1))
        apart = torch.from_numpy((next_obs[:-1].numpy() != obs[1:].numpy()).any(axis=1))  # most are equal bit for bit
        differ = apart.nonzero()[:, 0]
        apart[differ] = ((next_obs[differ] - obs[1 + differ]).abs() > tolerance).any(dim=1)
        self.parts.append(apart)
        self.after = next_obs[-1:].clone()

    def rows(self) -> Tensor:
        """Return True for rows that the next row does not follow, (N,), bool; false for the last row."""
        return torch.cat([*self.parts, torch.zeros(1, dtype=torch.bool)])


def inside_episodes(gaps: Tensor, ends: Tensor, where: str) -> Tensor:
    """Return the numbers of those rows of ``gaps``, (N,), bool, that are no ``ends``: see :func:`jumps`.

    Raises:
        UserError: if most rows inside episodes are among them.
    """
    inside = int((~ends[:-1]).sum())
    found = (gaps & ~ends).nonzero()[:, 0]
    if 2 * len(found) > inside > 1:
        raise UserError(
            f"{where} is not the observation of the next row in {len(found)} of the {inside} rows inside episodes, the first is "
            f"row {int(found[0])}: store rows in the order in which they were recorded, with what followed each."
        )
    return found


def unmarked(resets: Tensor, offsets: Tensor, limit: int | None) -> Tensor:
    """Return those of the ``resets`` that no time limit explains: an episode ends there before it has ``limit`` steps.

    Args:
        resets: rows, as :func:`jumps` returns them.
        offsets: offsets of the episodes after the split, (M + 1,).
        limit: number of steps after which an episode ends at the latest; None if ends are marked in the file.
    """
    if limit is None:
        return resets
    ends = offsets[1:] - 1
    return resets[torch.isin(resets, ends[offsets.diff() < limit])]


def tell(where: str, rows: int, first: int) -> str:
    """Return the warning that episodes were split at ``rows`` jumps, the first after row ``first``."""
    return (
        f"{where}: {rows} reset(s) inside episodes are not marked, the first after row {first}: next_observations do not lead to "
        "the next row there; episodes were split, their last steps truncated."
    )
