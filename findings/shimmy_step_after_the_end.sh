#!/bin/bash
# shimmy 2.0.1 around dm_control 1.0.28: a step after the end of an episode.
#
# One would guess: an error, as most Gymnasium environments raise or warn.
# What happens: the step silently returns the first frame of a NEW episode. The action is ignored, the reward is 0, and neither
# terminated nor truncated says anything.
# Whom it hurts: loops that count steps themselves, or take another time limit than the suite's 1000 steps, store a transition from the
# end of one episode to the start of the next, with a reward nobody earned.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install --quiet shimmy==2.0.1 dm_control==1.0.28 mujoco==3.3.0 gymnasium==1.4.0 numpy==2.3.5 imageio==2.38.1 packaging==26.3
MUJOCO_GL=disabled env/bin/python - <<'END'
from importlib.metadata import version

import gymnasium
import numpy as np
import shimmy  # noqa: F401 - registers dm_control/...

print({name: version(name) for name in ("shimmy", "dm_control", "mujoco", "gymnasium", "numpy")})
env = gymnasium.make("dm_control/walker-walk-v0")
env.reset(seed=0)
truncated, steps = False, 0
while not truncated:
    obs, reward, terminated, truncated, info = env.step(np.zeros(6))
    steps += 1
after, reward, terminated, truncated, info = env.step(np.ones(6))
moved = max(float(np.abs(after[key] - obs[key]).max()) for key in obs)
print("guess: an error in step", steps + 1)
print(f"seen: reward {reward}, terminated {terminated}, truncated {truncated}, velocity at most {np.abs(after['velocity']).max():.3g},",
      f"observation jumps by {moved:.3g}")
assert steps == 1000 and reward == 0 and not terminated and not truncated and moved > 0.5
END
