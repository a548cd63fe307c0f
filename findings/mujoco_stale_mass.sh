#!/usr/bin/env bash
# Changing body_mass of a compiled MuJoCo model makes the ground softer.
#
# Randomising masses (model.body_mass *= s; model.body_inertia *= s) is common in sim-to-real work. How deep a body sinks into the floor
# is set by solref and solimp, for any mass: so one expects the same depth. But the solver scales contacts by constants that were
# computed from the masses when the model was compiled (body_invweight0, dof_invweight0, meaninertia); they keep the old mass
# until mj_setConst is called. A ball of 100 times the mass sinks 20 mm instead of 0.4.
#
# Run by hand: bash findings/mujoco_stale_mass.sh (needs Python 3.11 and a package index). Ends with 1 when the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mujoco==3.3.0 numpy==2.3.5
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import mujoco

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("mujoco", "numpy")))
XML = """<mujoco><worldbody><geom type="plane" size="1 1 1"/>
<body pos="0 0 .1"><freejoint/><geom type="sphere" size=".1"/></body></worldbody></mujoco>"""


def depth(factor: float, constants: bool) -> float:
    """How far the ball has sunk after 4 s, millimetres."""
    model = mujoco.MjModel.from_xml_string(XML)
    model.body_mass *= factor
    model.body_inertia *= factor
    data = mujoco.MjData(model)
    if constants:
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)
    mujoco.mj_step(model, data, nstep=2000)
    return -1000 * float(data.contact.dist.min())


print("guess:     0.37 mm, whatever the mass")
found = {}
for factor in (1, 4, 10, 100):
    found[factor] = depth(factor, constants=False), depth(factor, constants=True)
    print(f"behaviour: mass x {factor:3}: {found[factor][0]:6.2f} mm; after mj_setConst {found[factor][1]:.2f} mm")
same = all(abs(right - 0.37) < 0.01 for _, right in found.values()) and found[100][0] > 50 * found[100][1]
sys.exit(0 if same else "The behaviour has changed.")
PYTHON
