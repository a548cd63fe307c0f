"""``python -m benchmarks.pixels``: rewards of pictures: memory of 100,000 images, images relabelled per second beside plain loops.

A reward ensemble of three members reads 64 x 64 images of 25-step segments. The plain loop takes segment after segment, as code
that scores clips does, and asks member after member, each of which encodes the segment's images for itself; the second loop
encodes a segment once for all members. Both are given the same weights, and equal rewards are checked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors.numpy import save_file

from benchmarks.measure import interleave, judge, machine, per_unit
from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.rewards.ensemble import RewardEnsemble

SIDE, LENGTH, STEPS, ACTIONS = 64, 25, 100, 4
RESULTS = Path(__file__).parent / "results" / "pixels.json"


def mapped(folder: Path, episodes: int) -> Transitions:
    """Episodes of 100 steps whose images lie in a file and are mapped."""
    path, rng = folder / "frames.safetensors", np.random.default_rng(0)
    if not path.exists():
        shape = (episodes * (STEPS + 1), SIDE, SIDE, 3)
        images = np.memmap(folder / "raw", np.uint8, "w+", shape=shape)
        for at in range(0, len(images), 1_000):
            images[at : at + 1_000] = rng.integers(0, 256, images[at : at + 1_000].shape, np.uint8)
        save_file({"frames": images}, path)
        (folder / "raw").unlink()
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        frames = file.get_tensor("frames")
    rows, rng = episodes * STEPS, torch.Generator().manual_seed(0)
    action, nothing = torch.rand(rows, ACTIONS, generator=rng) * 2 - 1, torch.zeros(rows, 2)
    return Transitions.from_columns(nothing, action, nothing, torch.arange(episodes + 1) * STEPS, frames=frames)


def model_of(source: Transitions) -> RewardEnsemble:
    """The ensemble, its data and 300 answers."""
    torch.manual_seed(0)
    model = RewardEnsemble(batch_size=16, tile=4)
    model.spec = {"obs_dim": SIDE * SIDE * 3, "action_dim": ACTIONS, "horizon": STEPS, "pixels": SIDE}
    model.build()
    model.source = source
    query = source.pool(LENGTH).pairs(300, torch.Generator().manual_seed(0))
    value = torch.rand(300, generator=torch.Generator().manual_seed(0)).round()
    model.labels = Labels(query.start, LENGTH, value, torch.ones(300, dtype=torch.int64))
    model.attach(UpdateEngine(model, model.groups(), model.programs(), [0], compile=False))
    return model


@torch.no_grad()
def plain(model: RewardEnsemble, rows: int, each: bool) -> torch.Tensor:
    """Relabel segment by segment; with ``each``, every member encodes the images for itself."""
    source, found = model.source, []
    frames, action = source.frames, source.column("action")
    for first in range(0, rows, LENGTH):
        at = first + first // STEPS
        members, code = [], None
        for member in range(model.hparams.ensemble_size):
            if each or code is None:
                code = model.torso(frames[at : at + LENGTH].flatten(1))
            x = torch.cat([code, action[first : first + LENGTH]], 1)
            for layer, (weight, bias) in enumerate(zip(model.members.weights, model.members.biases, strict=True)):
                x = torch.nn.functional.linear(x, weight[member], bias[member])
                x = torch.nn.functional.leaky_relu(x) if layer < len(model.members.weights) - 1 else x.tanh()
            members.append(x.squeeze(1))
        found.append(torch.stack(members).mean(0))
    return torch.cat(found)


def speed(source: Transitions, rounds: int, rows: int) -> list[dict[str, Any]]:
    """Images per second of relabelling, of both loops, of predicted returns of 500 random pairs, and of a fit."""
    model, some = model_of(source), torch.arange(rows)
    torch.testing.assert_close(plain(model, rows, True), model.relabel(source, some), rtol=1e-4, atol=1e-5)
    seen = interleave(
        {
            "relabel": per_unit(lambda: model.relabel(source, some), rows),
            "each": per_unit(lambda: plain(model, rows, True), rows),
            "once": per_unit(lambda: plain(model, rows, False), rows),
        },
        rounds,
    )
    return seen, model


def memory(source: Transitions, model: RewardEnsemble) -> dict[str, float]:
    """Memory of the process that is not mapped from a file, MiB: before, while it fits and when it has relabelled all."""
    process = psutil.Process()

    def own() -> float:
        info = process.memory_info()
        return (info.rss - info.shared) / 2**20

    before = own()
    (phase,) = model.plan(0)
    phase.start()
    model.engine.run("reward", 2)
    fitted = own()
    model.relabel(source)
    return {
        "images_MiB": source.frames.nbytes / 2**20,
        "before_MiB": before,
        "fitted_MiB": fitted,
        "relabelled_MiB": own(),
        "floats_would_be_MiB": source.frames.numel() * 4 / 2**20,
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1_000, help="of 100 steps (default: 101,000 images, 1.2 GB on disk)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000, help="rows that are relabelled per round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = mapped(Path(folder), args.episodes)
        seen, model = speed(source, args.rounds, args.rows)
        print(seen)
        print(memory(source, model))


if __name__ == "__main__":
    main()
