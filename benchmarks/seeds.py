"""``python -m benchmarks.seeds``: 8 seeds of one experiment on 2 cores beside two bare loops that do the same updates.

Ours is ``lightning-pbrl run EXPERIMENT --seeds 0-7 --jobs 2`` from start to end: processes, data, Trainer, logs, checkpoints. The
opponents are two processes side by side, each of which makes the updates of four seeds by the bare update engine, one seed after
another, on the same rows in memory. Both have a thread per process and find what the compiler made on the disk. What counts is
wall time, so nothing else may run beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.measure import machine
from benchmarks.readme import RESULTS, rewrite

MARKER = "seeds: written by python -m benchmarks.seeds"
ROOT = Path(__file__).parents[1]
SEEDS, CORES, GOAL = 8, 2, 0.95
OBS_DIM, ACTION_DIM, LENGTH = 11, 3, 200
DATA = """
trainer: {accelerator: cpu, devices: 1}
data:
  class_path: D4RLDataModule
  init_args:
    path: rows.hdf5
    cache_dir: cache
    eval_episodes: 0
    simulator: {class_path: GymMuJoCo, init_args: {env_id: Hopper-v5}}
"""
STUDY = """
name: seeds
stages:
  iql:
    config: [data.yaml, model/iql.yaml]
    with:
      model: {init_args: {updates: %(updates)d, eval_interval: %(updates)d, compile: true}}
      relabel: {reward: "true"}
"""


def write_inputs(folder: Path, rows: int, updates: int) -> None:
    """Write a file in D4RL's layout, its config and the experiment."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(0)
    ends = np.arange(1, rows + 1) % LENGTH == 0
    obs, action = rng.normal(size=(rows, OBS_DIM)), rng.uniform(-1, 1, (rows, ACTION_DIM))
    with h5py.File(folder / "rows.hdf5", "w") as file:
        file["observations"], file["actions"] = obs.astype("f4"), action.astype("f4")
        file["rewards"] = (action[:, 0] + obs[:, 0] / 10).astype("f4")
        file["terminals"], file["timeouts"] = np.zeros(rows, bool), ends
    (folder / "data.yaml").write_text(DATA)
    (folder / "study.yaml").write_text(STUDY % {"updates": updates})


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def ours(folder: Path, out: str) -> float:
    """Run the study; return its wall time, s."""
    command = [sys.executable, "-m", "lightning_pbrl", "run", "study.yaml", "--out", out, "--jobs", str(CORES)]
    command += ["--seeds", f"0-{SEEDS - 1}"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return time.perf_counter() - began


def bare(rows: int, updates: int) -> float:
    """Run both opponents; return the wall time until the second has ended, s."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.seeds",
        "--loop",
        str(SEEDS // CORES),
        "--rows",
        str(rows),
        "--updates",
        str(updates),
    ]
    began = time.perf_counter()
    loops = [subprocess.Popen(["taskset", "-c", str(core), *command], cwd=ROOT, env=environment()) for core in range(CORES)]
    codes = [loop.wait() for loop in loops]
    if any(codes):
        raise RuntimeError("an opponent has failed")
    return time.perf_counter() - began


def loop(seeds: int, rows: int, updates: int) -> None:
    """Make the updates of some seeds, one after another."""
    import torch

    from benchmarks.engine import Size, engine, transitions

    torch.set_num_threads(1)
    source = transitions(rows, OBS_DIM, ACTION_DIM, LENGTH)
    for _ in range(seeds):
        learner = engine(source, Size(obs_dim=OBS_DIM, action_dim=ACTION_DIM), compile=True)
        for _ in range(updates // 100):
            learner.run("policy", 100)


def in_readme(result: dict) -> str:
    """The README's block."""
    about = result["machine"]
    return (
        f"`{about['command']}`: {about['cpu']}, torch {about['torch']}; {SEEDS} seeds of {result['updates']:,} updates on "
        f"{CORES} cores: "
        f"`run` {result['run']:.0f} s, two bare loops {result['bare']:.0f} s (medians of {len(result['pairs'])} turns); "
        f"throughput {result['ratio']:.3f} of theirs, {result['min']:.3f} .. {result['max']:.3f} (goal {GOAL})."
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("--updates", type=int, default=5_000, help="updates of a seed, a multiple of 100 (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=100_000, help="transitions (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each (default: %(default)s)")
    parser.add_argument("--loop", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.loop:
        loop(options.loop, options.rows, options.updates)
        return 0
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, options.rows, 200)
        ours(folder, "warm")  # opens the data for the first time, and compiles
        bare(options.rows, 200)
        write_inputs(folder, options.rows, options.updates)
        for turn in range(options.rounds):
            first = [bare(options.rows, options.updates)] if turn % 2 else []
            run = ours(folder, f"out{turn}")
            pairs.append((run, *(first or [bare(options.rows, options.updates)])))
            print(f"run {pairs[-1][0]:.1f} s, two bare loops {pairs[-1][1]:.1f} s", flush=True)
    ratios = [theirs / run for run, theirs in pairs]
    run, theirs = (median(each) for each in zip(*pairs, strict=True))
    spread = {"ratio": median(ratios), "min": min(ratios), "max": max(ratios), "run": run, "bare": theirs}
    result = {"machine": machine("python -m benchmarks.seeds"), "updates": options.updates, "rows": options.rows, "pairs": pairs}
    (RESULTS / "seeds.json").write_text(json.dumps({**result, **spread}, indent=2) + "\n")
    rewrite(MARKER, in_readme({**result, **spread}))
    print(in_readme({**result, **spread}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
