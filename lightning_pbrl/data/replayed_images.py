"""Minibatches of images from a replay: what was seen before and after a step, moved at random (DrQ)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_pbrl.nn.picture import shifted, whole_pixels


def images_around(replay: Any, rows: Tensor, u: Tensor | None = None, largest: int = 0) -> dict[str, Tensor]:
    """Return the images of ``obs`` and ``next_obs`` at rows of a replay's ring, flat: (B,) -> (B, S S 3) each, uint8.

    Args:
        replay: replay whose policy sees images.
        rows: ids.
        u: uniform numbers of the moves, of either image down and to the right, (2, 2, B); None leaves images where they are.
        largest: largest move, pixels.
    """
    here, after = replay.pictures(rows), replay.after(rows, replay.frames).to(replay.device)
    if u is not None:
        by = whole_pixels(u, largest).transpose(1, 2).to(replay.device)
        here, after = shifted(here, by[0]), shifted(after, by[1])
    return {"obs": here.flatten(1), "next_obs": after.flatten(1)}
