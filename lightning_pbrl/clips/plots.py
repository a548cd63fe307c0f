"""Plots of observations over time, for data of which nothing can be drawn."""

from __future__ import annotations

import numpy as np
import torch

from lightning_pbrl.clips.base import ClipRenderer, Frames, episode_of
from lightning_pbrl.data.transitions import Transitions

ENTRIES = 16
"""Largest number of entries in a plot: the ones that vary most, relative to their range in the data."""
ROWS = 100_000
"""Rows from which ranges are taken, evenly spread."""
PAPER, AHEAD, PAST, CURSOR = (255, 255, 255), (190, 190, 190), (0, 90, 160), (200, 60, 0)
"""Colours: background, curve to come, curve so far, present step."""


class ObservationPlots(ClipRenderer):
    """Renderer of the observation's entries as curves, one below the other, with the present step marked.

    A curve's height is the entry's range in the data, 1st to 99th percentile. Entries that never change are left out.

    Args:
        source: the data.
        size: height and width of a frame, pixels.
    """

    how = "plot of the observations over time"

    def __init__(self, source: Transitions, size: int = 256) -> None:
        self.source, self.size = source, size
        self._entries: list[int] = []
        self._low, self._range = np.zeros(0), np.ones(0)

    def frames(self, start: int, length: int) -> Frames:
        from PIL import Image, ImageDraw

        episode_of(self.source, start, length)
        if not self._entries:
            self._measure()
        size, count = self.size, len(self._entries)
        left, band = 24, size / count
        obs = self.source.column("obs")[start : start + length][:, self._entries].double().cpu().numpy()
        height = ((obs - self._low) / self._range).clip(0.0, 1.0)
        x = left + (size - left - 4) * np.arange(length) / max(length - 1, 1)
        y = (np.arange(count) + 0.9)[None] * band - height * 0.8 * band
        curves = [list(zip(x.tolist(), y[:, i].tolist(), strict=True)) for i in range(count)]
        frames = np.empty((length, size, size, 3), np.uint8)
        for step in range(length):
            image = Image.new("RGB", (size, size), PAPER)
            draw = ImageDraw.Draw(image)
            draw.line([(x[step], 0), (x[step], size)], CURSOR)
            for number, curve in enumerate(curves):
                draw.text((2, (number + 0.5) * band - 6), str(self._entries[number]), (90, 90, 90))
                draw.line(curve, AHEAD)
                draw.line(curve[: step + 1], PAST, 2)
            frames[step] = np.asarray(image)
        return frames

    def _measure(self) -> None:
        """Find the entries to show, and their ranges."""
        rows = torch.linspace(0, len(self.source) - 1, min(len(self.source), ROWS)).long()
        obs = self.source.column("obs")[rows.to(self.source.device)].double().cpu().numpy()
        low, high = np.quantile(obs, [0.01, 0.99], axis=0)
        spread = np.where(high > low, obs.std(axis=0) / np.where(high > low, high - low, 1.0), 0.0)
        chosen = np.argsort(-spread, kind="stable")[:ENTRIES]
        self._entries = sorted(int(i) for i in chosen if spread[i] > 0) or [0]
        self._low, self._range = low[self._entries], np.maximum(high - low, 1e-12)[self._entries]
