"""Film strips: some frames of a few episodes, side by side in one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lightning_pbrl.clips.base import ClipRenderer, Frames
from lightning_pbrl.clips.plots import ObservationPlots
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.transitions import Transitions

FRAMES = 8
"""Frames of a strip, evenly spread over the episode."""
PLOTTED = 50
"""Steps that a strip of plots shows: curves of a whole long episode would be too dense."""


def episodes_of(source: Transitions, count: int = 3) -> list[int]:
    """Return the episodes to show: evenly spread from the lowest to the highest true return, or over the data."""
    returns = source.episodes.sums(source.reward)
    order = torch.arange(len(returns)) if bool(returns.isnan().any()) else returns.argsort(stable=True)
    places = torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()
    return order[places].tolist()


def strip(renderer: ClipRenderer, source: Transitions, episode: int) -> Frames:
    """Return frames of an episode side by side, (size, FRAMES * size, 3); a short episode has fewer."""
    first, length = int(source.episodes.offsets[episode]), int(source.episodes.lengths[episode])
    plots = isinstance(renderer, ObservationPlots)
    length = min(length, PLOTTED) if plots else length
    steps = np.unique(np.linspace(0, length - 1, min(FRAMES, length)).round().astype(int)).tolist()
    frames = renderer.frames(first, length)[steps] if plots else [renderer.frames(first + step, 1)[0] for step in steps]
    return np.concatenate(list(frames), axis=1)


def write_strips(path: Path, renderer: ClipRenderer, source: Transitions, count: int = 3) -> list[int]:
    """Write the strips of some episodes one below the other as a PNG file; return the episodes, from the top.

    Raises:
        UserError: if nothing can be drawn, or the file cannot be written.
    """
    from PIL import Image

    chosen = episodes_of(source, count)
    drawn = [strip(renderer, source, episode) for episode in chosen]
    width = max(each.shape[1] for each in drawn)
    padded = [np.pad(each, ((0, 4), (0, width - each.shape[1]), (0, 0)), constant_values=255) for each in drawn]
    with replacing(path) as temporary:
        Image.fromarray(np.concatenate(padded)).save(temporary, format="PNG")
    return chosen
