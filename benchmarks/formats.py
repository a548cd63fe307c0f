"""``python -m benchmarks.formats --writers PYTHON``: files of real writers, read by their own reader and ours.

PYTHON is the interpreter of an environment that has the writers: ogbench 1.2.2, d3rlpy 2.8.0, imitation 1.0.1. It writes one of
each kind and reads it with the writer's own reader; this process reads it for the first time, into a mapped copy where
it makes one, and compares every row and answer. CPU seconds are those of all processes, without imports; memory is what the peak
of resident memory rises by, that of the process that reads HDF5 whole, over the bytes of the arrays that the writer's reader
returns. A file of one episode tells which part of a peak is fixed: the interpreter that reads HDF5, and code that is loaded when
it first runs. Writes ``results/formats.json`` and the README's table, with the rows of :mod:`benchmarks.formats_lerobot`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.growth import measured
from benchmarks.measure import machine
from benchmarks.readme import RESULTS, rewrite
from lightning_pbrl.data import archive
from lightning_pbrl.data.d3rlpy import read_d3rlpy
from lightning_pbrl.data.imitation_preferences import read_imitation_preferences
from lightning_pbrl.data.ogbench import read_ogbench
from lightning_pbrl.data.transitions import Transitions

MARKER = "formats: written by python -m benchmarks.formats"
SIZES = {"ogbench": 1_001_000, "d3rlpy": 1_000_000, "imitation": 500_000, "imitation-preferences": 200_000}
SIZES |= {"ogbench-pictures": 10_000, "ogbench-scene": 10_100}
FEW = {"ogbench": 1_001, "d3rlpy": 1_000, "imitation": 200, "imitation-preferences": 100}
FEW |= {"ogbench-pictures": 501, "ogbench-scene": 101}
"""Rows of the file that tells which memory is fixed: one episode, or one pair."""
TITLES = {
    "ogbench": "OGBench, ant maze, single task",
    "ogbench-scene": "OGBench, recorded scene, single task",
    "ogbench-pictures": "OGBench, pictures of 64 x 64",
    "d3rlpy": "d3rlpy replay buffer",
    "imitation": "imitation trajectories",
    "imitation-preferences": "imitation preference sets",
}
PACKAGES = ("ogbench", "d3rlpy", "imitation", "numpy", "h5py", "pyarrow")
WRITERS = Path(__file__).with_name("formats_writers.py")
ROUNDING = 2e-5
"""What an action may differ by: policies' actions stay below 1."""

Arrays = dict[str, NDArray[Any]]


def _imitation(path: Path, cache: Path) -> Transitions:
    from lightning_pbrl.data.imitation import read_imitation

    return read_imitation(path, "terminated", cache)


READERS: dict[str, Callable[[Path, Path], Transitions]] = {
    "ogbench": lambda path, cache: read_ogbench(path, "antmaze-large-navigate-singletask-v0", cache),
    "ogbench-scene": lambda path, cache: read_ogbench(path, "scene-play-singletask-v0", cache),
    "ogbench-pictures": lambda path, cache: read_ogbench(path, None, cache),
    "d3rlpy": lambda path, cache: read_d3rlpy(path, cache),
    "imitation": _imitation,
    "imitation-preferences": lambda path, cache: read_imitation_preferences(path)[0],
}


def expected(kind: str, theirs: Arrays) -> dict[str, Any]:
    """Return what our table must hold, from what the writer's reader returned."""
    if kind.startswith("ogbench"):
        return _steps(kind, theirs)
    lengths = theirs["lengths"]
    last, first = lengths.cumsum() - 1, lengths.cumsum() - lengths
    over = np.zeros(int(lengths.sum()), bool)
    over[last] = theirs["terminated"] & (kind != "imitation-preferences")  # there a complete episode counts as cut
    final = np.zeros(len(over), bool)
    final[last] = True
    obs = theirs["observations"]
    if kind == "d3rlpy":
        next_obs = np.concatenate([obs[1:], obs[-1:]])
        next_obs[last] = obs[last]  # unknown
        known = ~(final & ~over)
    else:
        here = np.concatenate([np.arange(n) + start + i for i, (start, n) in enumerate(zip(first, lengths, strict=True))])
        obs, next_obs, known = obs[here], obs[here + 1], np.ones(len(over), bool)
    table = {"obs": obs, "action": theirs["actions"], "next_obs": next_obs, "reward": theirs["rewards"].reshape(-1)}
    return {**table, "terminated": over, "truncated": final & ~over, "drawable": known}


def _steps(kind: str, theirs: Arrays) -> dict[str, Any]:
    final, solved = theirs["terminals"] == 1, np.zeros(len(theirs["terminals"]), bool)
    found: dict[str, Any] = {"action": theirs["actions"], "drawable": np.ones(len(final), bool)}
    if kind == "ogbench-pictures":
        found |= {"pictures": theirs["observations"], "next_pictures": theirs["next_observations"]}
    else:
        solved = theirs["masks"] == 0
        found |= {"obs": theirs["observations"], "next_obs": theirs["next_observations"], "reward": theirs["rewards"]}
        found["success"] = solved
    return {**found, "terminated": solved, "truncated": final & ~solved}


def differences(table: Transitions, wanted: dict[str, Any]) -> dict[str, int]:
    """Return the number of rows that differ, by what they differ in; and ``rows`` if there are more or fewer."""
    found: dict[str, int] = {"rows": abs(len(table) - len(wanted["action"]))}
    if found["rows"]:
        return found
    drawable = np.zeros(len(table), bool)
    drawable[table.drawable_rows(torch.arange(table.drawable_count)).numpy()] = True
    for name, values in wanted.items():
        if name == "drawable":
            ours: NDArray[Any] = drawable
        elif name in ("reward", "success"):
            ours = getattr(table, name).numpy()
        elif name.endswith("pictures"):
            bad = 0
            for rows in torch.arange(len(table)).split(1_000):
                shown = table.pictures(table.frame_ids(rows) + (name == "next_pictures")).numpy()
                bad += int((shown != values[rows.numpy()]).any(axis=(1, 2, 3)).sum())
            found[name] = bad
            continue
        else:
            ours = table.column(name).numpy()
        wrong = np.abs(ours.astype(np.float64) - values.astype(np.float32)) > (ROUNDING if name == "action" else 0)
        found[name] = int(wrong.reshape(len(table), -1).any(axis=1).sum())
    return found


def ours(kind: str, path: Path) -> dict[str, Any]:
    """Open a file for the first time in this process."""
    if kind == "imitation":
        import pyarrow.ipc  # noqa: F401 - imports are no part of the reading
    with tempfile.TemporaryDirectory() as cache:
        return measured(lambda: READERS[kind](path, Path(cache)))


def opened(kind: str, path: Path, seen: Path, python: str, who: str) -> dict[str, Any]:
    """Open a file for the first time in a process of its own, by ``ours`` or ``theirs``; return its seconds and peaks."""
    command = [python, str(WRITERS), "read", kind, str(path), str(seen)]
    if who == "ours":
        command = [sys.executable, "-m", "benchmarks.formats", "--one", kind, "--file", str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=WRITERS.parents[1])
    return json.loads(done.stdout.splitlines()[-1])


def compared(kind: str, size: int, python: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Write a file, read it ``rounds`` times in turns, compare its rows once; return a row of the result."""
    end = ".npz" if kind.startswith("ogbench") else ""
    path, few, seen = folder / f"{kind}{end}", folder / f"{kind}-few{end}", folder / f"{kind}-seen.npz"
    for file, rows in ((path, size), (few, FEW[kind])):
        if not file.exists():
            subprocess.run([python, str(WRITERS), "write", kind, str(file), str(rows)], check=True, stdout=subprocess.DEVNULL)
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    once = {who: opened(kind, few, seen, python, who) for who in runs}
    fixed = {who: run["peak"] + run.get("beside_peak", 0) for who, run in once.items()}
    for number in range(rounds):
        for who in sorted(runs, reverse=bool(number % 2)):
            runs[who].append(opened(kind, path, seen, python, who))
    with np.load(seen) as theirs:
        wanted, preferences = expected(kind, dict(theirs)), theirs.get("preferences")
    table = READERS[kind](path, folder / "cache")
    copies = list((folder / "cache").glob("*.safetensors"))
    wrong = differences(archive.load(copies[0]) if copies else table, wanted)
    if preferences is not None:
        wrong["answer"] = int((read_imitation_preferences(path)[1].value.numpy() != 1 - preferences).sum())
    for each in copies:
        each.unlink()
    raw = runs["theirs"][0]["bytes"]
    seconds = [run["seconds"] + run["beside_seconds"] for run in runs["ours"]]
    ratios = [a / b["seconds"] for a, b in zip(seconds, runs["theirs"], strict=True)]
    peaks = {
        "ours": max(run["peak"] + run["beside_peak"] for run in runs["ours"]),
        "theirs": max(r["peak"] for r in runs["theirs"]),
    }
    counts = {"rows": len(table), "episodes": len(table.episodes), "terminated": int(wanted["terminated"].sum())}
    counts |= {"truncated": int(wanted["truncated"].sum()), "successes": int(wanted.get("success", np.zeros(1)).sum())}
    return {
        "kind": kind,
        **counts,
        "differences": wrong,
        "seconds": {"ours": median(seconds), "theirs": median(run["seconds"] for run in runs["theirs"])},
        "ratio": [min(ratios), median(ratios), max(ratios)],
        "raw_bytes": raw,
        **memory(peaks, fixed, raw),
        "rounds": rounds,
    }


def memory(peaks: dict[str, int], fixed: dict[str, int], raw: int) -> dict[str, Any]:
    """Return peaks, their fixed part, and what is above ``raw`` bytes, as a share of these, without that part and with it."""
    return {
        "peak": peaks,
        "fixed": fixed,
        "above_raw": {who: max(peak - fixed[who] - raw, 0) / raw for who, peak in peaks.items()},
        "above_raw_with_fixed": {who: max(peak - raw, 0) / raw for who, peak in peaks.items()},
    }


def in_readme(machines: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Return the README's block: the table, and the machines that it was measured on."""
    told = dict.fromkeys(f"`{each['command']}`: {each['cpu']}, {each['threads']} thread" for each in machines)
    head = ("file", "writer", "rows", "episodes", "terminated, truncated, success", "rows that differ", "CPU s", "of its reader")
    head += ("ratio (range)", "raw, MiB", "peak, MiB", "of it fixed", "above raw (with what is fixed)", "of its reader")
    lines = [f"{'; '.join(told)}.", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        counts = [f"{row[key]:,}" for key in ("rows", "episodes")]
        ends = ", ".join(f"{row[key]:,}" for key in ("terminated", "truncated", "successes"))
        seconds = [f"{row['seconds'][who]:.2f}" for who in ("ours", "theirs")]
        ratio = "{1:.2f} ({0:.2f} .. {2:.2f}), {3} rounds".format(*row["ratio"], row["rounds"])
        sizes = [f"{size / 2**20:,.0f}" for size in (row["raw_bytes"], row["peak"]["ours"], row["fixed"]["ours"])]
        above = [f"{row['above_raw'][who]:.2f} ({row['above_raw_with_fixed'][who]:.2f})" for who in ("ours", "theirs")]
        different = f"{sum(row['differences'].values()):,}"
        cells = [row["title"], row["writer"], *counts, ends, different, *seconds, ratio, *sizes, *above]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def publish() -> None:
    """Write the README's table from the results of this command and of :mod:`benchmarks.formats_lerobot`."""
    from benchmarks.formats_lerobot import table

    found = [
        json.loads(file.read_text()) for file in (RESULTS / "formats.json", RESULTS / "formats-lerobot.json") if file.exists()
    ]
    rows: list[dict[str, Any]] = []
    for result in found:
        if "peer" in result:
            rows += table(result)
            continue
        for row in sorted(result["rows"], key=lambda row: list(SIZES).index(row["kind"])):
            package = row["kind"].split("-")[0]
            rows.append({**row, "title": TITLES[row["kind"]], "writer": f"{package} {result['writers'][package]}"})
    rewrite(MARKER, in_readme([result["machine"] for result in found], rows))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formats", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="KIND", help=f"which of {', '.join(SIZES)} (default: all); others stay")
    parser.add_argument("--writers", default=sys.executable, metavar="PYTHON", help="interpreter that has the writers")
    parser.add_argument("--data", type=Path, help="folder that keeps the files, or has them (default: a temporary one)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the rows of each file")
    parser.add_argument("--quick", action="store_true", help="small files: shows that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of formats.json (default: %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # one opening, in this process
    parser.add_argument("--file", type=Path, default=Path(), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.one is not None:
        print(json.dumps(ours(options.one, options.file)))
        return 0
    options.out = RESULTS / "quick" if options.quick and options.out == RESULTS else options.out
    for folder in filter(None, (options.out, options.data)):
        folder.mkdir(parents=True, exist_ok=True)
    ask = f"import importlib.metadata as m; print(*(m.version(n) for n in {PACKAGES!r}))"
    told = subprocess.run([options.writers, "-c", ask], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    about = machine("python -m benchmarks.formats")
    about["command"] = "python -m benchmarks.formats"  # the interpreter's path is nobody's business
    file, wanted = options.out / "formats.json", options.what or list(SIZES)
    result: dict[str, Any] = {"machine": about, "writers": dict(zip(PACKAGES, told, strict=True))}
    for kind in wanted:
        with tempfile.TemporaryDirectory() as scratch:
            size = max(round(SIZES[kind] * (0.001 if options.quick else options.share)), 1_010)
            row = compared(kind, size, options.writers, options.rounds, options.data or Path(scratch))
        print(json.dumps(row), flush=True)
        before = json.loads(file.read_text())["rows"] if file.exists() else []
        result["rows"] = [*(each for each in before if each["kind"] != kind), row]
        file.write_text(json.dumps(result, indent=2) + "\n")
    if options.out == RESULTS:
        publish()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
