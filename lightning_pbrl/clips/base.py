"""The interface of all renderers of segments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError

Frames = NDArray[np.uint8]
"""Frames of a clip, (T, size, size, 3), uint8, RGB."""


class ClipRenderer(ABC):
    """Renderer of the segments of one data set; frame t shows the state before the segment's action t.

    Attributes:
        size: height and width of a frame, pixels.
        how: source of the frames and its limits, one clause for a page or a log.
    """

    size: int
    how: str

    @abstractmethod
    def frames(self, start: int, length: int) -> Frames:
        """Draw the steps ``start`` .. ``start + length`` - 1 of the data, (length, size, size, 3), uint8.

        Raises:
            UserError: if they are not steps of one episode, or cannot be drawn.
        """

    def close(self) -> None:  # noqa: B027 - most renderers hold nothing
        """Free simulator and renderer; the next call of :meth:`frames` makes them again."""

    def __enter__(self) -> ClipRenderer:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def episode_of(source: Transitions, start: int, length: int) -> tuple[int, int]:
    """Return the episode of a segment, and its first row.

    Raises:
        UserError: if the segment does not lie in one episode.
    """
    if not (start >= 0 and length >= 1 and start + length <= len(source)):
        raise UserError(f"There is no segment of {length} steps from row {start} on: the data have {len(source)} rows.")
    offsets = source.episodes.offsets
    episode = int(np.searchsorted(offsets.numpy(), start, side="right")) - 1
    if start + length > int(offsets[episode + 1]):
        raise UserError(
            f"The segment of {length} steps from row {start} on crosses the end of episode {episode} at row "
            f"{int(offsets[episode + 1])}: ask about segments of one episode."
        )
    return episode, int(offsets[episode])


def resized(frames: Frames, size: int) -> Frames:
    """Scale square frames to ``size`` pixels by repeating or leaving out pixels, without smoothing."""
    side = frames.shape[1]
    if side == size:
        return frames
    index = (np.arange(size) * side) // size
    return frames[:, index][:, :, index]
