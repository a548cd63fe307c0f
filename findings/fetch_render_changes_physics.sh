#!/bin/bash
# gymnasium-robotics 1.4.2: render() of FetchPickAndPlace-v4 changes the physics.
#
# One would guess: drawing a picture leaves the simulation alone.
# What happens: two environments with the same seed and the same actions part where one of them is rendered: by millimetres in ten
# steps, and more later. FetchReach-v4 and FetchPush-v4 stay equal to rounding.
# Whom it hurts: evaluations that are filmed show other episodes, with other results, than the same evaluations without a film, and
# data recorded with pictures cannot be repeated without them.
# Needs a renderer: libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri of Debian or Ubuntu.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install --quiet gymnasium-robotics==1.4.2 gymnasium==1.4.0 mujoco==3.3.0 numpy==2.3.5 imageio PyOpenGL
MUJOCO_GL=egl env/bin/python -W ignore - <<'END'
from importlib.metadata import version

import gymnasium
import gymnasium_robotics
import numpy as np

gymnasium.register_envs(gymnasium_robotics)
print({name: version(name) for name in ("gymnasium-robotics", "gymnasium", "mujoco", "numpy")})
apart = {}
for name in ("FetchReach-v4", "FetchPush-v4", "FetchPickAndPlace-v4"):
    plain, drawn = gymnasium.make(name), gymnasium.make(name, render_mode="rgb_array")
    plain.reset(seed=1)
    drawn.reset(seed=1)
    for action in np.random.default_rng(0).uniform(-1, 1, (10, 4)):
        drawn.render()
        first, second = (env.step(action)[0]["observation"] for env in (plain, drawn))
    apart[name] = float(np.abs(first - second).max())
    drawn.close()
print("guess: 0 apart, rendered or not")
print("seen after ten steps:", apart)
assert max(apart["FetchReach-v4"], apart["FetchPush-v4"]) < 1e-12 and apart["FetchPickAndPlace-v4"] > 1e-4
END
