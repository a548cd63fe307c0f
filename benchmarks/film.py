"""Film two policies of the demo side by side: ``python -m benchmarks.film runs/demo docs/images/demo.gif``.

Left behaviour cloning, right the policy that learned from 200 answers about the same data, both in the first three test episodes.
``make demo`` leaves the checkpoints that this reads. Of its seeds the film shows the one with the median success rate.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageDraw

from lightning_pbrl import load_method
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.render import record_video
from lightning_pbrl.rng import derive

PANELS = {"bc": "behaviour cloning", "learned": "200 answers"}
EPISODES = [derive(0, "test", i) % 2**31 for i in range(3)]
"""Reset seeds of the first three test episodes (``evaluation_seed`` 0)."""
SIZE, STRIDE, FPS = 240, 3, 12
"""Pixels of a panel, simulation steps per frame, frames per second."""


def panel(run: Path, title: str, seed: int) -> list[Image.Image]:
    """Return every ``STRIDE``-th frame of one episode of the policy in ``run``, with its title."""
    policy = load_method(run / "checkpoints" / "last.ckpt")
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        record_video(policy.act, MetaWorld("plate-slide", horizon=150), seed, film, SIZE, FPS)
        frames = [Image.fromarray(frame) for frame in imageio.imread(film)[::STRIDE]]
    for frame in frames:
        ImageDraw.Draw(frame).text((8, 6), title, fill="white", stroke_fill="black", stroke_width=2)
    return frames


def middle_seed(demo: Path) -> str:
    """Return the folder name of the seed whose learned policy has the median success rate."""
    rates = {run.name: json.loads((run / "results.json").read_text()) for run in (demo / "learned").glob("seed*")}
    return sorted(rates, key=lambda name: rates[name]["metrics"]["test/success_rate"])[len(rates) // 2]


def main(demo: Path, out: Path) -> None:
    """Write the film as an animated GIF that repeats."""
    tiles, chosen = [], middle_seed(demo)
    for seed in EPISODES:
        sides = zip(*(panel(demo / stage / chosen, title, seed) for stage, title in PANELS.items()), strict=True)
        tiles += [Image.fromarray(np.concatenate([np.asarray(side) for side in pair], axis=1)) for pair in sides]
    palette = tiles[0].quantize(96)
    frames = [tile.quantize(palette=palette, dither=Image.Dither.NONE) for tile in tiles]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=1000 // FPS, loop=0, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
