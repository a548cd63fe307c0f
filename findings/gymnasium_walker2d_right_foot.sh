#!/usr/bin/env bash
# Walker2d-v5 is not Walker2d-v4 with a new interface: its right foot holds twice as well.
#
# Up to version 4 the right foot's friction was 0.9 and the left one's 1.9 (a slip of the first file, kept for years); version 5 gives
# both 1.9. Observations, actions, bounds and the body's masses are the same, so a policy of v2 to v4 loads and runs, on another walker.
# Shown: from the same standing state, the same actions of 200 steps lead both walkers to different places.
#
# Run by hand: bash findings/gymnasium_walker2d_right_foot.sh (needs Python 3.11 and a package index). Ends with 1 when the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gymnasium==1.4.0 mujoco==3.3.0 numpy==2.3.5
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import gymnasium
import mujoco
import numpy as np

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("gymnasium", "mujoco", "numpy")))
assets = Path(gymnasium.__file__).parent / "envs/mujoco/assets"
friction, end = {}, {}
for name in ("walker2d.xml", "walker2d_v5.xml"):  # v2 to v4, and v5
    model = mujoco.MjModel.from_xml_path(str(assets / name))
    data = mujoco.MjData(model)
    friction[name] = [float(model.geom(foot).friction[0]) for foot in ("foot_geom", "foot_left_geom")]
    for step in range(200):
        data.ctrl[:] = np.sin(0.1 * step + np.arange(6)) * 0.3
        mujoco.mj_step(model, data, nstep=4)
    end[name] = data.qpos.copy()
apart = float(np.abs(end["walker2d.xml"] - end["walker2d_v5.xml"]).max())

print("guess:     v5 has v4's physics; feet are alike: friction 1.9, 1.9 in both; apart by 0")
print("behaviour: right and left foot in v4:", friction["walker2d.xml"], "in v5:", friction["walker2d_v5.xml"])
print(f"           after 200 equal steps a coordinate differs by {apart:.2f} m or rad")
same = friction == {"walker2d.xml": [0.9, 1.9], "walker2d_v5.xml": [1.9, 1.9]} and apart > 0.1
sys.exit(0 if same else "The behaviour has changed.")
PYTHON
