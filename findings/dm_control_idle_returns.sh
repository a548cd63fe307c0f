#!/usr/bin/env bash
# dm_control 1.0.28: what doing nothing earns in the control suite, of at most 1000 per episode.
#
# Guess:  next to nothing, and about the same from every start.
# Truth:  cartpole-balance pays about 750: the pole falls, swings through the bottom up again and spends most of its time near the top. quadruped-run
#         pays 500 for standing still where the start happens to leave its torso upright, and about 0 otherwise; fish-upright anything
#         from 0 to over 950. reacher-easy pays 1000 to the one start of ten that has its finger on the target.
# Hurt:   scores read as shares of 1000; averages over a few episodes, which the starts decide (ten idle episodes of quadruped-run differ by 500);
#         agents called half trained on quadruped-run that have learnt to stand still.
# Cure:   give the idle policy's score from the same starts beside an agent's.
#
# Run by hand; needs Python 3.11 or 3.12 and a package index. Ends with 1 when the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dm_control==1.0.28 mujoco==3.3.0 numpy==2.3.5
cd "$folder"
MUJOCO_GL=disabled venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from dm_control import suite

print(*(f"{name} {version(name)}" for name in ("dm_control", "mujoco", "numpy")), sep=", ")
print("guess: returns near 0")
found = {}
for domain, task in (("cheetah", "run"), ("cartpole", "balance"), ("quadruped", "run"), ("fish", "upright"), ("reacher", "easy")):
    found[domain] = []
    for seed in range(10):
        env = suite.load(domain, task, task_kwargs={"random": seed})
        idle, time, total = np.zeros(env.action_spec().shape), env.reset(), 0.0
        while not time.last():
            time = env.step(idle)
            total += time.reward
        found[domain].append(round(float(total)))
    print(f"{domain}-{task}: mean {np.mean(found[domain]):.0f} of {found[domain]}")
runs = found["quadruped"]
same = (max(found["cheetah"]) < 5 and min(found["cartpole"]) > 650 and all(run < 30 or 450 < run < 550 for run in runs)
        and min(runs) < 30 and max(runs) > 450 and min(found["fish"]) < 30 and max(found["fish"]) > 900
        and found["reacher"].count(0) == 9 and found["reacher"].count(1000) == 1)
sys.exit(0 if same else "The behaviour has changed.")
PYTHON
