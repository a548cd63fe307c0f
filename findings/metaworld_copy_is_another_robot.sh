#!/usr/bin/env bash
# Guess: copy.deepcopy(env), and pickling where it works, give an environment that behaves as the original does.
# What happens: __setstate__ builds a new simulation without calling reset_mocap_welds(), so the hand hangs on its mocap body by another
#   weld. After reset() the hand is at about (0.68, 0.45, -0.10), below the table's edge, instead of (0, 0.6, 0.2), and the package's own expert
#   no longer solves a task.
# Versions: metaworld 3.1.1, mujoco 3.3.0, gymnasium 1.4.0.
# Hurt: planners and tree searches that copy environments, evaluation callbacks that deepcopy them, process pools that pickle them.
# Way out: copy the description (class and task) and build again; or call reset_mocap_welds() on the copy before its reset().
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  metaworld==3.1.1 mujoco==3.3.0 gymnasium==1.4.0 numpy==2.3.5 scipy==1.17.1 imageio==2.38.1 packaging==26.3
"$folder/venv/bin/python" -W ignore - <<'END'
import copy
import pickle
from importlib.metadata import version

import metaworld
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

print("versions:", *(f"{name} {version(name)}" for name in ("metaworld", "mujoco", "gymnasium", "numpy")))

mt1 = metaworld.MT1("reach-v3", seed=0)
expert = ENV_POLICY_MAP["reach-v3"]()


def solved(env):
    obs, _ = env.reset()
    hand = obs[:3].round(2).tolist()
    success = False
    for _ in range(200):
        obs, _, _, _, info = env.step(np.clip(expert.get_action(obs), -1, 1))
        success = success or info["success"] > 0
    return hand, success


original = mt1.train_classes["reach-v3"]()
original.set_task(mt1.train_tasks[0])
copies = {"deepcopy": copy.deepcopy(original), "pickle": pickle.loads(pickle.dumps(original))}
mended = copy.deepcopy(original)
mended.reset_mocap_welds()
hand, success = solved(original)
print(f"original: hand after reset {hand}, expert solves: {success}")
same = success and np.allclose(hand, (0, 0.6, 0.2), atol=0.03)
for way, env in copies.items():
    other, its = solved(env)
    print(f"{way}: hand after reset {other}, expert solves: {its}")
    same = same and np.linalg.norm(np.subtract(hand, other)) > 0.5 and not its
there, its = solved(mended)
print(f"deepcopy and reset_mocap_welds(): hand after reset {there}, expert solves: {its}")
print("expected: the same hand and success everywhere")
print("recorded in 2026: the copies' hand is at about (0.68, 0.45, -0.10) and their expert fails; reset_mocap_welds() mends it")
raise SystemExit(0 if same and its else "the behaviour has CHANGED")
END
