"""``python -m benchmarks.formats_lerobot --python PYTHON``: a data set that LeRobot has written, read here and by LeRobot.

``PYTHON`` is the interpreter of an environment that has LeRobot (``requirements/lerobot.txt``), which cannot share ours. It
records data sets with ``LeRobotDataset.create``, ``add_frame``, ``save_episode``, ``finalize``: rows without pictures, four times
as many (what is fixed and what grows), and films of 64 x 64. Every number that was recorded is compared with what is read here,
every picture with what LeRobot reads.

First openings are measured in processes of their own, in turns: CPU seconds after the imports, and what the peak of resident
memory rises by (``VmHWM``, Linux). What two short episodes take is fixed. *rows*: the folder becomes the mapped copy; LeRobot
opens it with an empty cache and hands all columns over as arrays. *frames*: all pictures, in order; LeRobot by its
``decode_video_frames`` (PyAV), an episode per call, the cheapest way that it has. Writes ``results/formats-lerobot.json`` and its
rows of the table that :mod:`benchmarks.formats` writes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.formats import memory, publish
from benchmarks.growth import measured
from benchmarks.lerobot_peer import CAMERA, TASKS
from benchmarks.measure import machine
from benchmarks.readme import RESULTS
from lightning_pbrl.data.lerobot import STATES, read_lerobot
from lightning_pbrl.data.lerobot_folder import package
from lightning_pbrl.data.transitions import Transitions

PEER = Path(__file__).with_name("lerobot_peer.py")
SIZES = {"rows": (300, 400, 0), "rows-long": (1_200, 400, 0), "frames": (20, 150, 64)}  # episodes, mean steps, side of pictures
TITLES = {"rows": "LeRobot, rows", "rows-long": "LeRobot, more rows", "frames": "LeRobot, films of 64 x 64"}


def peer(python: str, *arguments: str) -> str:
    """Run the other environment's script; return the last line of what it says."""
    done = subprocess.run([python, str(PEER), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{PEER.name} has failed: {done.stderr.strip()}")
    return (done.stdout.splitlines() or [""])[-1]


def ours(folder: Path, what: str, cache: Path | None) -> Transitions:
    """Read a data set as :func:`compare` and :func:`one` do."""
    return read_lerobot(folder, camera=CAMERA if what == "frames" else None, size=None, cache_dir=cache, action_bounds="stats")


def one(folder: Path, what: str) -> dict[str, Any]:
    """Measure a first opening in this process."""
    package("pyarrow.parquet"), package("av")
    with tempfile.TemporaryDirectory() as cache:
        if what == "frames":
            ours(folder, "rows", Path(cache))  # the rows are measured by themselves
        return measured(lambda: ours(folder, what, Path(cache)))


def alone(python: str, folder: Path, what: str, who: str) -> dict[str, Any]:
    """Open a folder for the first time in a process of its own, by ``ours`` or ``lerobot``; return its seconds and peak."""
    if who == "lerobot":
        return json.loads(peer(python, "read", str(folder), *(["--camera"] if what == "frames" else [])))
    command = [sys.executable, "-m", "benchmarks.formats_lerobot", "--one", str(folder), what]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path, truth: Path, read: Path, what: str) -> dict[str, Any]:
    """Compare what is read here with what was recorded, and with what LeRobot reads.

    Raises:
        SystemExit: at the first difference.
    """
    table, recorded, other = ours(folder, what, None), np.load(truth), np.load(read)
    lengths = recorded["lengths"]
    last = np.zeros(lengths.sum(), dtype=bool)
    last[lengths.cumsum() - 1] = True
    obs = np.concatenate([recorded[key] for key in STATES], axis=1)
    low, high = recorded["action"].min(axis=0).astype(np.float64), recorded["action"].max(axis=0).astype(np.float64)
    action = np.clip((recorded["action"] - low) * (2 / (high - low)) - 1, -1 + 1e-5, 1 - 1e-5).astype(np.float32)
    terminated = recorded["next.done"] & recorded["next.success"]
    follows = np.where(last[:, None], obs, np.roll(obs, -1, axis=0))
    wanted = {
        "obs": (table.column("obs"), obs),
        "next_obs": (table.column("next_obs"), follows),
        "action": (table.column("action"), action),
        "reward": (table.reward, recorded["next.reward"]),
        "success": (table.success, recorded["next.success"]),
        "terminated": (table.column("terminated") > 0, terminated),
        "truncated": (table.column("truncated") > 0, last & ~terminated),
        "episodes": (table.episodes.lengths, lengths),
        "drawable": (table.drawable, np.flatnonzero(~last | terminated)),
        "tasks": (torch.tensor(table.about["episode_tasks"])[:, 0], np.arange(len(lengths)) % len(TASKS)),
    }
    if what != "frames":
        wanted |= {
            f"LeRobot's {key}": (torch.from_numpy(recorded[key]), other[key].reshape(recorded[key].shape))
            for key in (*STATES, "action", "next.reward", "next.success", "next.done")
        }
    found: dict[str, Any] = {}
    for name, (mine, theirs) in wanted.items():
        if mine.dtype != torch.from_numpy(np.asarray(theirs)).dtype or not np.array_equal(mine.numpy(), theirs):
            sys.exit(f"{what}: {name} differ")
        found[name] = f"{mine.numel():,} equal"
    raw = table.packed.nbytes + table.reward.nbytes + table.episodes.offsets.nbytes
    if what == "frames":
        ids = table.frame_ids(torch.arange(len(table)))
        shown = table.pictures(ids).numpy()
        if not np.array_equal(shown, other[CAMERA]):
            sys.exit("frames differ from those that LeRobot reads")
        gap, raw = shown.astype(np.int16) - recorded[CAMERA], table.frames.nbytes
        found |= {
            "frames": f"{len(shown):,} equal to LeRobot's",
            "last frame repeated": bool(torch.equal(table.pictures(ids[last] + 1), table.pictures(ids[last]))),
            "levels from the recorded picture": {
                "mean": float(np.abs(gap).mean()),
                "mean, signed": float(gap.mean()),
                "largest": int(np.abs(gap).max()),
                "range read": [int(shown.min()), int(shown.max())],
                "range recorded": [int(recorded[CAMERA].min()), int(recorded[CAMERA].max())],
            },
        }
    low, high = (float(getattr(table.column("action"), name)()) for name in ("min", "max"))
    ends = {"terminated": terminated, "truncated": last & ~terminated, "successes": recorded["next.success"]}
    counts = {"rows": len(table), "episodes": len(lengths), **{name: int(rows.sum()) for name, rows in ends.items()}}
    return {"counts": counts, "raw_bytes": raw, "action_range": [low, high], **found}


def table(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a result as rows of :func:`benchmarks.formats.in_readme`; a row that differed would have ended the comparison."""
    found = []
    for what in (what for what in SIZES if what in result):
        row, runs = result[what], result[what]["runs"]
        raw, who = row["checked"]["raw_bytes"], {"ours": "ours", "theirs": "lerobot"}
        peaks = {name: max(run["peak"] for run in runs[key]) for name, key in who.items()}
        found.append(
            {
                "title": TITLES[what],
                "writer": f"lerobot {result['peer']['lerobot']}",
                **row["checked"]["counts"],
                "differences": {},
                "seconds": {name: median(run["seconds"] for run in runs[key]) for name, key in who.items()},
                "ratio": row["seconds_ratio"],
                "raw_bytes": raw,
                **memory(peaks, {name: row["fixed"][key] for name, key in who.items()}, raw),
                "rounds": len(runs["ours"]),
            }
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formats_lerobot", description=__doc__)
    parser.add_argument("what", nargs="*", help=f"which of {', '.join(SIZES)} (default: all); what else the file has stays")
    parser.add_argument("--python", help="interpreter of an environment that has LeRobot")
    parser.add_argument("--data", type=Path, help="folder that keeps the data sets, or has them (default: a temporary one)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of formats-lerobot.json (default: %(default)s)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # one run, in this process
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.one is not None:
        print(json.dumps(one(Path(options.one[0]), options.one[1])))
        return 0
    if options.python is None:
        parser.error("--python is needed: the interpreter of an environment made from requirements/lerobot.txt")
    options.out = RESULTS / "quick" if options.quick and options.out == RESULTS else options.out
    result: dict[str, Any] = {
        "machine": {**machine(), "command": "python -m benchmarks.formats_lerobot"},  # paths are nobody's business
        "peer": json.loads(peer(options.python, "versions")),
    }
    result["ours"] = {name: package(name).__version__ for name in ("pyarrow", "av")}
    with tempfile.TemporaryDirectory() as scratch:
        for what, sizes in ((what, SIZES[what]) for what in options.what or SIZES):
            episodes, steps, side = (6, 20, sizes[2]) if options.quick else sizes
            folder = (options.data or Path(scratch)) / what
            truth, read = folder.with_suffix(".npz"), Path(scratch) / f"{what}-read.npz"
            if not folder.exists():
                size = ["--episodes", str(episodes), "--steps", str(steps), "--side", str(side)]
                peer(options.python, "write", str(folder), "--truth", str(truth), *size)
            camera = ["--camera"] if what == "frames" else []
            peer(options.python, "read", str(folder), "--out", str(read), *camera)
            row: dict[str, Any] = {"checked": compare(folder, truth, read, what)}
            few = folder.with_name(f"{what}-few")
            if not few.exists():
                size = ["--episodes", "2", "--steps", "20", "--side", str(side)]
                peer(options.python, "write", str(few), "--truth", str(few.with_suffix(".npz")), *size)
            seen: dict[str, list[dict[str, Any]]] = {"ours": [], "lerobot": []}
            row["fixed"] = {who: alone(options.python, few, what, who)["peak"] for who in seen}
            for number in range(1 if options.quick else options.rounds):
                for who in sorted(seen, reverse=bool(number % 2)):
                    seen[who].append(alone(options.python, folder, what, who))
            ratios = [a["seconds"] / b["seconds"] for a, b in zip(seen["ours"], seen["lerobot"], strict=True)]
            raw = row["checked"]["raw_bytes"]
            row |= {"seconds_ratio": [min(ratios), median(ratios), max(ratios)], "runs": seen}
            row["peak_of_raw"] = {who: median(run["peak"] for run in runs) / raw for who, runs in seen.items()}
            result[what] = row
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "formats-lerobot.json"
    result = {**(json.loads(file.read_text()) if file.exists() else {}), **result}
    file.write_text(json.dumps(result, indent=2) + "\n")
    if options.out == RESULTS:
        publish()
    print(
        json.dumps(
            {what: {key: row for key, row in result[what].items() if key != "runs"} for what in options.what or SIZES}, indent=2
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
