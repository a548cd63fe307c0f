#!/usr/bin/env bash
# Guess: env.observation_space.contains(obs) holds for what reset() and step() return; a few tasks may start a little outside.
# What happens: with a task set, as MT1 hands it out, all 50 tasks return a goal in the last three entries, while observation_space, which
#   was made before set_task(), says that these entries are between 0 and 0. Every observation of every task is outside.
# Versions: metaworld 3.1.1, mujoco 3.3.0, gymnasium 1.4.0.
# Hurt: whoever scales or clips observations by the declared bounds (the goal becomes a constant or a division by 0), runs Gymnasium's
#   checker, or writes data whose readers check them against the space (Minari). The values are float64.
# Way out: bounds of one's own; never scale by the declared ones.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  metaworld==3.1.1 mujoco==3.3.0 gymnasium==1.4.0 numpy==2.3.5 scipy==1.17.1 imageio==2.38.1 packaging==26.3
"$folder/venv/bin/python" -W ignore - <<'END'
import pickle
from importlib.metadata import version

import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS as classes
from metaworld.types import Task

print("versions:", *(f"{name} {version(name)}" for name in ("metaworld", "mujoco", "gymnasium", "numpy")))

outside, goal_zero, inside = [], 0, 0
for name, kind in sorted(classes.items()):
    env = kind()
    env._freeze_rand_vec = False
    env.reset()  # draws a vector that the task allows
    task = {"rand_vec": env._last_rand_vec, "env_cls": kind, "partially_observable": False}  # as MT1 makes its tasks
    env.set_task(Task(env_name=name, data=pickle.dumps(task)))
    observations = [env.reset()[0]]
    observations += [env.step(np.zeros(4))[0] for _ in range(3)]
    held = [env.observation_space.contains(obs) for obs in observations]
    inside += sum(held)
    outside += [name] if not any(held) else []
    goal_zero += bool((env.observation_space.low[-3:] == 0).all() and (env.observation_space.high[-3:] == 0).all())
print(f"{len(outside)} of {len(classes)} tasks return only observations outside their observation_space; {inside} observations are inside")
print(f"{goal_zero} of {len(classes)} spaces say that the goal is 0 to 0")
print("expected: 0 tasks; recorded in 2026: 50 of 50, and 50 of 50")
raise SystemExit(0 if len(outside) == goal_zero == len(classes) == 50 and inside == 0 else "the behaviour has CHANGED")
END
