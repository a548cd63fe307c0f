"""``python -m benchmarks.pixels``: rewards of images: memory of 101,000 of them, and how many are relabelled a second.

A reward ensemble of three members reads 64 x 64 images of 25-step segments, on one thread. The plain loop takes segment after
segment, as code that scores clips does, and asks member after member, each of which encodes the segment's images for itself; the
second loop encodes a segment once for all members. All have the same weights, and equal rewards are checked.
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

from benchmarks.measure import Claim, interleave, judge, machine, per_unit, summary
from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.rewards.ensemble import RewardEnsemble

SIDE, LENGTH, STEPS, ACTIONS = 64, 25, 100, 4
RESULTS = Path(__file__).parent / "results" / "pixels.json"


def mapped(folder: Path, episodes: int) -> Transitions:
    """Episodes of 100 steps whose images lie in a file and are mapped."""
    path, rng, shape = folder / "frames", np.random.default_rng(0), (episodes * (STEPS + 1), SIDE, SIDE, 3)
    with path.open("wb") as file:
        for _ in range(episodes):
            file.write(rng.integers(0, 256, (STEPS + 1, *shape[1:]), np.uint8).tobytes())
    frames = torch.from_numpy(np.memmap(path, np.uint8, "c", shape=shape))
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
                code = model.encoder.torso(frames[at : at + LENGTH].flatten(1))
            x = torch.cat([code, action[first : first + LENGTH]], 1)
            for layer, (weight, bias) in enumerate(zip(model.members.weights, model.members.biases, strict=True)):
                x = torch.nn.functional.linear(x, weight[member], bias[member])
                x = torch.nn.functional.leaky_relu(x) if layer < len(model.members.weights) - 1 else x.tanh()
            members.append(x.squeeze(1))
        found.append(torch.stack(members).mean(0))
    return torch.cat(found)


def speed(model: RewardEnsemble, rounds: int, rows: int) -> dict[str, Any]:
    """CPU seconds per image of relabelling and of the two loops, and the claims."""
    some = torch.arange(rows)
    torch.testing.assert_close(plain(model, rows, True), model.relabel(model.source, some), rtol=1e-4, atol=1e-5)
    work = {
        "relabel": lambda: model.relabel(model.source, some),
        "member by member": lambda: plain(model, rows, True),
        "segment by segment": lambda: plain(model, rows, False),
    }
    seen = interleave({name: per_unit(each, rows) for name, each in work.items()}, rounds)
    claims = [
        Claim("relabelling from images, against a loop over segments and members", 3.0, "member by member", "relabel"),
        Claim("... against a loop over segments that encodes for all members", None, "segment by segment", "relabel"),
    ]
    return {
        "images_per_cpu_second": {name: 1 / row["median"] for name, row in summary(seen).items()},
        "claims": [judge(claim, seen) for claim in claims],
    }


def memory(model: RewardEnsemble) -> dict[str, float]:
    """Memory of the process that is not mapped from a file, MiB: before, after updates of a fit, and when all are relabelled."""
    process, source = psutil.Process(), model.source

    def own() -> float:
        info = process.memory_info()
        return (info.rss - info.shared) / 2**20

    before = own()
    (phase,) = model.plan(0)
    assert phase.start is not None
    phase.start()
    model.engine.run("reward", 2)
    fitted = own()
    model.relabel(source)
    assert source.frames is not None
    return {
        "images": float(len(source.frames)),
        "images_MiB": source.frames.nbytes / 2**20,
        "as_floats_MiB": 4 * source.frames.numel() / 2**20,
        "own_before_MiB": before,
        "own_after_updates_MiB": fitted,
        "own_after_relabelling_MiB": own(),
    }


def replay_memory(images: int) -> dict[str, float]:
    """Memory of a replay that is filled with images, MiB, beside their own size."""
    process = psutil.Process()
    before = process.memory_info().rss
    replay = Replay(images, 1, 4, ACTIONS, STEPS, {}, pictures=SIDE)
    rng, over = np.random.default_rng(0), np.zeros(1, bool)
    obs, picture = np.zeros((1, 4), np.float32), rng.integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    for step in range(images):
        picture[0, 0, 0, 0] = step % 256
        replay.append(obs, obs, obs, np.zeros(1), over, np.array([step % STEPS == STEPS - 1]), pictures=picture)
    grown = (process.memory_info().rss - before) / 2**20
    return {"images": float(images), "images_MiB": images * SIDE * SIDE * 3 / 2**20, "grown_MiB": grown}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixels", description=__doc__)
    parser.add_argument("--episodes", type=int, default=1_000, help="of 100 steps (default: 101,000 images, 1.3 GB of disk)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000, help="rows that are relabelled in a round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(mapped(Path(folder), args.episodes))
        result = {"machine": machine("python -m benchmarks.pixels"), **speed(model, args.rounds, args.rows)}
        result["memory"] = {"logged": memory(model), "replay": replay_memory(args.episodes * STEPS)}
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
