"""Clips from the images that the data hold."""

from __future__ import annotations

import numpy as np
import torch

from lightning_pbrl.clips.base import ClipRenderer, Frames, episode_of, resized
from lightning_pbrl.data.transitions import Transitions


class StoredPictures(ClipRenderer):
    """Renderer of data with an image per step; pixels are repeated to fill a frame.

    Args:
        source: data with ``frames``.
        size: height and width of a frame, pixels.
    """

    how = "stored images, exact"

    def __init__(self, source: Transitions, size: int = 256) -> None:
        self.source, self.size = source, size

    def frames(self, start: int, length: int) -> Frames:
        episode_of(self.source, start, length)
        rows = torch.arange(start, start + length, device=self.source.device)
        images = self.source.pictures(self.source.frame_ids(rows)).cpu().numpy()
        return np.ascontiguousarray(resized(images, self.size))
