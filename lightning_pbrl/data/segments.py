"""Episodes and segments as index arithmetic: nothing is copied until it is needed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.errors import UserError


class Episodes(NamedTuple):
    """Positions of the episodes in a table of rows.

    Attributes:
        offsets: row offsets, (M + 1,), int64, on the CPU; episode m is the rows offsets[m] .. offsets[m + 1] - 1.
    """

    offsets: Tensor

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    @property
    def first(self) -> Tensor:
        """First row of each episode, (M,)."""
        return self.offsets[:-1]

    @property
    def lengths(self) -> Tensor:
        """Number of steps per episode, (M,)."""
        return self.offsets.diff()

    def sums(self, values: Tensor) -> Tensor:
        """Sum one value per row over each episode: (N,) -> (M,), on the CPU.

        The sum is float64 for floats, and int64 for booleans and integers.
        """
        values = values.cpu()
        values = values.double() if values.is_floating_point() else values.long()
        before = torch.cat([values.new_zeros(1), values.cumsum(0)])
        return before[self.offsets[1:]] - before[self.offsets[:-1]]

    def of(self, rows: Tensor) -> Tensor:
        """Return the episode of each row, same shape as ``rows``."""
        return torch.searchsorted(self.offsets, rows.cpu().contiguous(), right=True) - 1


class Pieces(NamedTuple):
    """Stretches of consecutive rows of one episode each (a ring buffer may hold an episode in two of them).

    Attributes:
        first: first row of each stretch, (M,), int64, on the CPU.
        lengths: number of steps of each stretch, (M,), int64.
    """

    first: Tensor
    lengths: Tensor


class SegmentPool:
    """Pool of all segments of one length that lie within one episode; every valid start is equally likely.

    Args:
        episodes: the episodes, or stretches of episodes, that contain the segments.
        length: number of steps per segment.
        keep: ids of the episodes that may be used, (m,); None for all.
        context: number of steps of the same episode that must exist on each side of a segment.

    Raises:
        UserError: if no episode is as long as a segment.

    Bias: episodes that are shorter than a segment are never shown. The steps at an episode's two ends lie in fewer segments
    than those in its middle.
    """

    def __init__(self, episodes: Episodes | Pieces, length: int, keep: Tensor | None = None, context: int = 0) -> None:
        self.length = length
        first, lengths = (part if keep is None else part[keep] for part in (episodes.first, episodes.lengths))
        starts = (lengths - length - 2 * context + 1).clamp(min=0)  # the last valid start included
        if int(starts.sum()) == 0:
            longest = int(lengths.max()) if len(lengths) else 0
            sides = f" and {context} more on each side" if context else ""
            raise UserError(
                f"No episode is long enough for a segment of {length} steps{sides}: the longest has {longest}; "
                "choose a smaller segment_length."
            )
        self._first = first + context
        self._before = torch.cat([torch.zeros(1, dtype=torch.int64), starts.cumsum(0)])

    def __len__(self) -> int:
        return int(self._before[-1])

    def start(self, number: Tensor) -> Tensor:
        """Return the row id of the first step of segments 0 .. len(self) - 1, same shape as ``number``."""
        episode = torch.searchsorted(self._before, number.contiguous(), right=True) - 1
        return self._first[episode] + number - self._before[episode]

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """Draw the starts of ``count`` segments uniformly with replacement, (count,), int64."""
        return self.start(torch.randint(len(self), (count,), generator=rng))

    def pairs(self, count: int, rng: torch.Generator) -> Query:
        """Draw ``count`` pairs of two different segments uniformly.

        Raises:
            UserError: if the pool holds a single segment.
        """
        if len(self) < 2:
            raise UserError("A pair needs two different segments, and the data hold one; use shorter segments or more data.")
        first = torch.randint(len(self), (count,), generator=rng)
        shift = torch.randint(1, len(self), (count,), generator=rng)  # never the same segment twice
        numbers = torch.stack([first, (first + shift) % len(self)], dim=1)
        return Query("pair", self.start(numbers), self.length)


def segment_rows(start: Tensor, length: int) -> Tensor:
    """Return the row ids of complete segments: (...,) starts -> (..., length)."""
    return start.unsqueeze(-1) + torch.arange(length, device=start.device)
