"""``python -m benchmarks.growth [d4rl] [robomimic] [k-center]``: what grows with the data or the questions, beside its work.

*d4rl, robomimic*: the first opening of a foreign file, which is converted into a mapped copy, beside h5py reading the same file
into memory. *k-center*: 1,000 questions beside 100. Every run is a process of its own, in turns. Seconds are CPU time, those of
the process that reads HDF5, and of starting it, included. Memory is what the peak of resident memory rises by over what was
resident before (``VmHWM``, Linux); the process that reads HDF5 counts whole, its interpreter included. Writes
``results/growth.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks.engine import transitions
from benchmarks.measure import machine
from benchmarks.readme import RESULTS, rewrite
from benchmarks.scoring import Size, ensemble
from lightning_pbrl.data import hdf5_process
from lightning_pbrl.data.d4rl import read_d4rl
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.robomimic import read_robomimic
from lightning_pbrl.memory import give_back
from lightning_pbrl.queries.kcenter import KCenterQuery
from lightning_pbrl.rewards.scoring import ReturnScorer
from lightning_pbrl.rng import stream

MARKER = "growth: written by python -m benchmarks.growth"
ROWS, DEMOS, ANSWERS, TRANSITIONS = 1_000_000, 200, 1_000, 100_000
KEYS = {"object": 14, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}


def write_d4rl(path: Path, rows: int) -> None:
    """Write ``rows`` transitions of 39 and 4 numbers as D4RL does, observations and actions compressed."""
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((rows + 1, 39), dtype=np.float32).clip(-1, 1)
    timeouts = np.arange(1, rows + 1) % 1_000 == 0
    matrices = {"observations": obs[:-1], "next_observations": obs[1:], "actions": obs[:-1, :4] * np.float32(0.9)}
    with h5py.File(path, "w") as file:
        for key, values in matrices.items():
            file.create_dataset(key, data=values, compression="gzip", compression_opts=1)
        file["rewards"], file["terminals"] = rng.random(rows, dtype=np.float32), np.zeros(rows, bool)
        file["timeouts"] = timeouts


def write_robomimic(path: Path, demos: int) -> None:
    """Write ``demos`` demonstrations of 150 steps as robomimic does."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for number in range(demos):
            demo = file.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = 150
            demo["actions"], demo["rewards"] = rng.uniform(-0.9, 0.9, (150, 7)), np.arange(150.0) == 149
            for key, width in KEYS.items():
                values = rng.random((151, width))
                demo[f"obs/{key}"], demo[f"next_obs/{key}"] = values[:-1], values[1:]


def by_h5py(path: Path) -> list[Any]:
    """Read all arrays of a file, as their readers do: floats of robomimic become float32."""
    found: list[Any] = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return [each.astype(np.float32) if each.dtype == np.float64 else each for each in found]


OPENINGS: dict[str, Callable[[Path, Path], Any]] = {
    "d4rl": lambda path, cache: read_d4rl(path, cache_dir=cache),
    "robomimic": lambda path, cache: read_robomimic(path, obs_keys=list(KEYS), cache_dir=cache),
}


def status(key: str, process: str | int = "self") -> int:
    """Return a size in a process's status, bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def measured(work: Callable[[], Any]) -> dict[str, Any]:
    """Do ``work``; CPU seconds with those of the process that reads HDF5, and rises of the peak, bytes."""
    give_back(torch.device("cpu"))  # free memory that is resident would hide what the work takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = status("VmRSS"), time.process_time()
    kept = work()
    seconds, peak, readers = time.process_time() - began, status("VmHWM") - before, list(hdf5_process._idle)
    beside = sum(status("VmHWM", each.process.pid) for each in readers)
    hdf5_process._stop_idle()
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    del kept
    return {
        "seconds": seconds,
        "beside_seconds": of_children.ru_utime + of_children.ru_stime,
        "peak": peak,
        "beside_peak": beside,
    }


def ask(questions: int) -> Callable[[], Any]:
    """Return k-center's choice of ``questions`` beside 1,000 answers."""
    source = transitions(TRANSITIONS, 39, 4)
    pool, rng = source.pool(50), stream(0, "question")
    answered = pool.pairs(ANSWERS, rng).start
    values = torch.randint(2, (ANSWERS,), generator=rng).float()
    labels = Labels(answered, 50, values, torch.full((ANSWERS,), int(Status.ANSWERED)))
    scorer = ReturnScorer(ensemble(source, Size()).reward, source, lambda: 0)
    return lambda: KCenterQuery().propose(pool, questions, scorer, labels, rng)


def one(what: str, path: Path) -> dict[str, Any]:
    """Measure one run in this process: ``d4rl``, ``robomimic``, each also with ``-h5py``, or ``ask-N``."""
    kind, _, other = what.partition("-")
    if kind == "ask":
        return measured(ask(int(other)))
    if other:
        return measured(lambda: by_h5py(path))
    with tempfile.TemporaryDirectory() as cache:
        return measured(lambda: OPENINGS[kind](path, Path(cache)))


def alone(what: str, path: Path) -> dict[str, Any]:
    """:func:`one` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.growth", "--one", what, "--file", str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout.splitlines()[-1])


def compare(ours: str, other: str, path: Path, rounds: int) -> dict[str, Any]:
    """Run both in turns; medians of the rounds' ratios of seconds, and peaks."""
    seen: dict[str, list[dict[str, Any]]] = {ours: [], other: []}
    for number in range(rounds):
        for what in sorted(seen, reverse=bool(number % 2)):
            seen[what].append(alone(what, path))
    pairs = list(zip(seen[ours], seen[other], strict=True))
    ratios = [(a["seconds"] + a["beside_seconds"]) / (b["seconds"] + b["beside_seconds"]) for a, b in pairs]
    longest = [max(a["seconds"], a["beside_seconds"]) / (b["seconds"] + b["beside_seconds"]) for a, b in pairs]
    ranges = {name: [min(each), median(each), max(each)] for name, each in (("ratio", ratios), ("longest_ratio", longest))}
    return {"ours": ours, "other": other, "rounds": rounds, **ranges, "runs": seen}


def middle(runs: Sequence[dict[str, Any]], key: str) -> float:
    return median(run[key] for run in runs)


def line(row: dict[str, Any]) -> str:
    """Return a comparison as a row of the README's table."""
    ours, other = (row["runs"][row[key]] for key in ("ours", "other"))
    seconds = [f"{middle(each, 'seconds'):.2f} + {middle(each, 'beside_seconds'):.2f}" for each in (ours, other)]
    peaks = [f"{middle(each, 'peak') / 2**20:,.0f} ({max(run['peak'] for run in each) / 2**20:,.0f})" for each in (ours, other)]
    ratio = "{1:.2f} ({0:.2f} .. {2:.2f})".format(*row["ratio"])
    longest, beside = f"{row['longest_ratio'][1]:.2f}", f"{middle(ours, 'beside_peak') / 2**20:,.0f}"
    return "| " + " | ".join([row["title"], *seconds, ratio, longest, peaks[0], beside, peaks[1]]) + " |"


def in_readme(result: dict[str, Any]) -> str:
    """Return the README's block."""
    about = result["machine"]
    head = ("", "CPU s", "of the other", "ratio (range)", "longer process", "peak, MiB (largest)", "HDF5 process", "of the other")
    return "\n".join(
        [
            f"`{about['command']}`: {about['cpu']}, {about['threads']} thread, torch {about['torch']}, python {about['python']}; "
            f"at least {min(row['rounds'] for row in result['rows'])} rounds.",
            "",
            "| " + " | ".join(head) + " |",
            "|" + "---|" * len(head),
            *map(line, result["rows"]),
        ]
    )


def command_line(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("what", nargs="*", help="d4rl, robomimic, k-center (default: all); other rows of the file stay")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of growth.json (default: %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # one run, in this process
    parser.add_argument("--file", type=Path, default=Path(), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.one is not None:
        print(json.dumps(one(options.one, options.file)))
        return 0
    small, what = options.quick, options.what or ["d4rl", "robomimic", "k-center"]
    options.out = RESULTS / "quick" if small and options.out == RESULTS else options.out
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path, rounds = Path(folder) / "data.hdf5", 1 if small else options.rounds
        for kind, write, size in (("d4rl", write_d4rl, ROWS), ("robomimic", write_robomimic, DEMOS)):
            if kind in what:
                size = size // 500 if small else size
                write(path, size)
                title = f"first opening, {kind}, {size:,} {'rows' if kind == 'd4rl' else 'demonstrations'} / h5py"
                rows.append({"title": title, **compare(kind, f"{kind}-h5py", path, rounds)})
        if "k-center" in what:
            few, many = (4, 8) if small else (100, 1_000)
            title = f"k-center, {many:,} questions / {few}"
            rows.append({"title": title, **compare(f"ask-{many}", f"ask-{few}", path, rounds)})
    file, titles = options.out / "growth.json", {row["title"] for row in rows}
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = sorted([*rows, *(row for row in before if row["title"] not in titles)], key=lambda row: row["title"])
    result = {"machine": machine("python -m benchmarks.growth"), "rows": rows}
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(in_readme(result))
    if options.out == RESULTS and not small:
        rewrite(MARKER, in_readme(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(command_line())
