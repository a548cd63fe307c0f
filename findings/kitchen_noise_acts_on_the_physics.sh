#!/bin/bash
# gymnasium-robotics 1.4.2: the noise of FrankaKitchen-v1 moves the robot.
#
# One would guess: robot_noise_ratio and object_noise_ratio blur what is observed, and the simulation does not feel them.
# What happens: the commanded motion starts from the noisy reading, so that two environments that differ in noise alone part: several
# hundredths of a radian after 100 equal actions.
# Whom it hurts: whoever switches noise off for evaluation, or on for robustness, changes the dynamics as well.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install --quiet gymnasium-robotics==1.4.2 gymnasium==1.4.0 mujoco==3.3.0 numpy==2.3.5 imageio
MUJOCO_GL=disabled env/bin/python -W ignore - <<'END'
from importlib.metadata import version

import gymnasium
import gymnasium_robotics
import numpy as np

gymnasium.register_envs(gymnasium_robotics)
print({name: version(name) for name in ("gymnasium-robotics", "gymnasium", "mujoco", "numpy")})
noises = {"none": 0.0, "again none": 0.0, "0.1": 0.1}
ends = {}
for name, noise in noises.items():
    env = gymnasium.make("FrankaKitchen-v1", tasks_to_complete=["kettle"], robot_noise_ratio=noise, object_noise_ratio=noise).unwrapped
    env.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (100, 9)):
        env.step(action)
    ends[name] = env.data.qpos[:9].copy()
apart = {name: round(float(np.abs(end - ends["none"]).max()), 4) for name, end in ends.items()}
print("guess: true joint angles 0 apart after 100 equal actions")
print("seen:", apart)
assert apart["again none"] == 0.0 and apart["0.1"] > 0.005
END
