#!/usr/bin/env bash
# The same XML file weighs more in MuJoCo since version 2.1.2 than it did before.
#
# Until then MuJoCo's compiler computed a capsule's mass and inertia as those of a cylinder: the capsule's middle, longer by half
# the radius at either end. Gymnasium's Hopper has the same geoms in versions 2, 4 and 5, so its links weigh 2.5 to 4.4 % more in v4
# and v5 than in v2, in which D4RL's data were recorded: a policy or an answer about those data is judged on another body.
# MuJoCo 2.0's masses are those that mujoco-py printed for Hopper-v2; they follow from the geoms by the cylinder's formula.
#
# Run by hand: bash findings/mujoco_capsule_mass.sh (needs Python 3.11 and a package index). Ends with 1 when the behaviour has changed.
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
MUJOCO_2_0 = np.array([3.53429174, 3.92699082, 2.71433605, 5.0893801])
path = Path(gymnasium.__file__).parent / "envs/mujoco/assets/hopper.xml"
model = mujoco.MjModel.from_xml_path(str(path))
links = range(1, model.nbody)
geoms = [int(model.body_geomadr[link]) for link in links]
assert all(model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE for geom in geoms), "no longer made of capsules"
radius, half = model.geom_size[geoms, 0], model.geom_size[geoms, 1]

cylinder = 1000 * np.pi * radius**2 * (2 * half + radius)
assert np.allclose(cylinder, MUJOCO_2_0, atol=5e-9), "the geoms are not those of Hopper-v2"
length, mass = 2 * half + radius, cylinder
across = mass * (3 * radius**2 + length**2) / 12

print("guess:     the file is the same, so the masses are: ", MUJOCO_2_0)
print("behaviour: masses today:                            ", model.body_mass[1:])
heavier = 100 * (model.body_mass[1:] / MUJOCO_2_0 - 1)
stiffer = 100 * (model.body_inertia[1:, :].max(1) / across - 1)
print("           heavier by %:                            ", heavier.round(1))
print("           larger moment of inertia across, by %:   ", stiffer.round(1))
same = np.allclose(heavier, [3.70, 3.33, 2.47, 4.44], atol=0.01) and np.allclose(stiffer, [12.0, 10.7, 7.8, 14.4], atol=0.1)
sys.exit(0 if same else "The behaviour has changed.")
PYTHON
