"""LeRobot's own writer and reader, run in an environment of their own (``requirements/lerobot.txt``); nothing of this library.

``python lerobot_peer.py write FOLDER --truth FILE.npz`` records a data set, and keeps what it was given.
``python lerobot_peer.py read FOLDER --out FILE.npz`` reads it with LeRobot, and prints CPU seconds and memory as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

CAMERA = "observation.images.top"
TASKS = ("push the cube", "lift the cube", "open the drawer")
STATE, PLACE, ACTION = 14, 3, 7


def lerobot() -> Any:
    """Import LeRobot, without the compiled part of torchvision where that was built for CUDA and torch was not."""
    import torch

    if torch.version.cuda is None and "+cpu" not in version("torchvision"):
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from lerobot.datasets import lerobot_dataset, video_utils

    return lerobot_dataset, video_utils


def episode(number: int, steps: int, side: int) -> dict[str, np.ndarray]:
    """Return what is recorded of one episode; every third ends in a success, and one in five is cut off without ``next.done``."""
    rng, time_ = np.random.default_rng(number), np.arange(steps)
    last = time_ == steps - 1
    found = {
        "observation.state": rng.standard_normal((steps, STATE)).cumsum(axis=0).astype(np.float32) * np.float32(0.1),
        "observation.environment_state": rng.uniform(-1, 1, (steps, PLACE)).astype(np.float32),
        "action": rng.uniform(-90, 90, (steps, ACTION)).astype(np.float32),
        "next.reward": rng.random(steps).astype(np.float32),
        "next.success": last & (number % 3 == 0),
        "next.done": last & (number % 5 != 4),
    }
    if side:
        ramp = np.linspace(0, 255, side, dtype=np.float32)
        shown = np.empty((steps, side, side, 3), dtype=np.uint8)
        shown[..., 0], shown[..., 1] = ramp[None, :, None], ramp[None, None, :]
        shown[..., 2] = (np.float32(7 * number) + 3 * time_[:, None, None]) % 256
        for at in range(steps):
            place = at % (side - side // 4)
            shown[at, place : place + side // 4, place : place + side // 4] = (255, 255, 255) if number % 2 else (200, 30, 30)
        found[CAMERA] = shown
    return found


def write(folder: Path, truth: Path, episodes: int, steps: int, side: int) -> None:
    """Record a data set with ``LeRobotDataset.create``, ``add_frame``, ``save_episode`` and ``finalize``."""
    lerobot_dataset, _ = lerobot()
    rng = np.random.default_rng(0)
    lengths = rng.integers(steps // 2, steps * 3 // 2, episodes)
    features = {
        key: {"dtype": str(values.dtype), "shape": values.shape[1:] or (1,), "names": None}
        for key, values in episode(0, 2, 0).items()
    }
    if side:
        features[CAMERA] = {"dtype": "video", "shape": (side, side, 3), "names": ["height", "width", "channels"]}
    data = lerobot_dataset.LeRobotDataset.create("toy/bench", fps=30, features=features, root=folder, use_videos=bool(side))
    kept: dict[str, list[np.ndarray]] = {}
    for number, length in enumerate(lengths.tolist()):
        columns = episode(number, length, side)
        for at in range(length):
            frame = {key: np.atleast_1d(values[at]) for key, values in columns.items()}
            data.add_frame({**frame, "task": TASKS[number % len(TASKS)]})
        data.save_episode()
        for key, values in columns.items():
            kept.setdefault(key, []).append(values)
    data.finalize()
    np.savez(truth, lengths=lengths, **{key: np.concatenate(values) for key, values in kept.items()})


def status(key: str) -> int:
    """Return a size in this process's status, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def read(folder: Path, out: Path | None, camera: bool) -> dict[str, Any]:
    """Open a data set for the first time and take all rows, as arrays; with ``camera`` all pictures, episode by episode."""
    cache = Path(tempfile.mkdtemp())
    os.environ |= {"HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    lerobot_dataset, video_utils = lerobot()
    Path("/proc/self/clear_refs").write_text("5")
    resident, began = status("VmRSS"), time.process_time()
    data = lerobot_dataset.LeRobotDataset("toy/bench", root=folder)
    if camera:
        shown = []
        for each in range(data.num_episodes):
            found = data.meta.episodes[each]
            times = found[f"videos/{CAMERA}/from_timestamp"] + np.arange(found["length"]) / data.fps
            film = data.root / data.meta.get_video_file_path(each, CAMERA)
            shown.append(video_utils.decode_video_frames(film, times.tolist(), 1e-4, "pyav", return_uint8=True).numpy())
        columns = {CAMERA: np.concatenate(shown).transpose(0, 2, 3, 1)}
    else:
        keys = [key for key in data.meta.features if key not in data.meta.camera_keys]
        columns = dict(data.hf_dataset.with_format("numpy", columns=keys)[:])
    seconds, peak = time.process_time() - began, status("VmHWM") - resident
    if out is not None:
        np.savez(out, **columns)
    shutil.rmtree(cache)
    return {"seconds": seconds, "peak": peak, "rows": sum(len(values) for values in list(columns.values())[:1])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("write", "read", "versions"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--side", type=int, default=0, help="side of the pictures; 0 for none")
    parser.add_argument("--camera", action="store_true", help="read pictures instead of rows")
    options = parser.parse_args()
    if options.what == "write":
        write(options.folder, options.truth, options.episodes, options.steps, options.side)
    elif options.what == "read":
        print(json.dumps(read(options.folder, options.out, options.camera)))
    else:
        found = {}
        for name in ("lerobot", "torch", "numpy", "pyarrow", "av", "datasets"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "unknown"
        print(json.dumps({"python": sys.version.split()[0], **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
