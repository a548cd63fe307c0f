#!/usr/bin/env bash
# LeRobot 0.6.1: of episodes of five minutes, one frame in thirteen cannot be read once their film is longer than 1,024 seconds.
#
# Guess:  what LeRobotDataset has recorded with its defaults, LeRobotDataset reads.
# Truth:  the reader compares the time that it asks for with the time of the frame in float32, and allows 1e-4 s. Beyond 1,024 s
#         two neighbours in float32 are 1.2e-4 s apart, beyond 2,048 s 2.4e-4 s. `timestamp` is stored in float32 within the
#         episode, then shifted to the film in float64: after some minutes the two times round to different neighbours.
#         FrameTimestampError blames "synchronization issues with timestamps during data collection".
# Hurt:   training on long episodes (cooking, laundry) stops at a random batch; dropping the "bad" frames drops good ones.
#         Films hold 200 MB by default, hours of small pictures. Episodes of one minute are not affected.
# Cure:   LeRobotDataset(..., tolerance_s=1e-3), or the frame nearest to from_timestamp + timestamp in float64.
#
# Run by hand; needs python3.12 and a package index, or PYTHON=... that has lerobot 0.6.1 with its extra `dataset`. Takes about two
# minutes of CPU after the installation. Exits 0 while the behaviour is as described.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if [ -z "${PYTHON:-}" ]; then
  python3.12 -m venv venv
  venv/bin/pip install -q "lerobot[dataset]==0.6.1" numpy==2.2.6 pyarrow==26.0.1 av==15.1.0 datasets==4.8.5
  PYTHON=venv/bin/python
fi
cat >finding.py <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

if torch.version.cuda is None and "+cpu" not in version("torchvision"):  # torchvision's operators are not needed here
    torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.video_utils import FrameTimestampError

print(*(f"{name} {version(name)}" for name in ("torch", "numpy", "av", "datasets")), sep=", ")
CAMERA, root = "observation.images.top", Path("long")
features = {
    "action": {"dtype": "float32", "shape": (1,), "names": None},
    CAMERA: {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
}
made = LeRobotDataset.create("finding/long", fps=30, features=features, root=root)
for steps in (9001, 9207, 9403, 9604):
    for at in range(steps):
        made.add_frame({"action": np.float32([at]), CAMERA: np.full((64, 64, 3), at % 256, np.uint8), "task": "wait"})
    made.save_episode()
made.finalize()

data, rng, failed = LeRobotDataset("finding/long", root=root, video_backend="pyav"), np.random.default_rng(0), []
for each in range(4):
    episode, wrong = data.meta.episodes[each], 0
    rows = rng.choice(np.arange(episode["dataset_from_index"], episode["dataset_to_index"]), 60, replace=False)
    for row in rows.tolist():
        try:
            data[row]
        except FrameTimestampError as error:
            wrong, told = wrong + 1, str(error).split("\n")[0]
    failed.append(wrong)
    print(f"episode {each} from {episode[f'videos/{CAMERA}/from_timestamp']:.1f} s of its film: {wrong} of 60 frames cannot be read")
print(told if sum(failed) else "all can be read")
print("guess: all can be read")
if failed[:3] != [0, 0, 0] or failed[3] < 1:
    sys.exit("changed: frames of the fourth episode can be read")
data = LeRobotDataset("finding/long", root=root, video_backend="pyav", tolerance_s=1e-3)
print("with tolerance_s=1e-3:", len([data[row] for row in rows.tolist()]), "of 60 of the fourth can be read")
PY
"$PYTHON" finding.py 2>errors || { tail -5 errors; exit 1; }
