#!/usr/bin/env bash
# Guess: in a task with a dense reward of 0 to 10 per step, a policy that solves every episode collects far more than one that solves none.
# What happens: in coffee-button and button-press, holding the open hand 6 cm before the button for 500 steps, without ever pressing
#   it, pays more than the package's own expert, which presses it in every episode: the reward of pressing is paid only while the centre between the
#   fingers is within 5 cm of the button, and the expert's is not.
# Versions: metaworld 3.1.1, mujoco 3.3.0, gymnasium 1.4.0; reward version "v2", which is the default.
# Hurt: preference learning with simulated teachers that compare returns (they prefer hovering), filtering of data by return, and every
#   reading of return as a measure of how well a task is done.
# Way out: compare success as well as return.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  metaworld==3.1.1 mujoco==3.3.0 gymnasium==1.4.0 numpy==2.3.5 scipy==1.17.1 imageio==2.38.1 packaging==26.3
"$folder/venv/bin/python" -W ignore - <<'END'
from importlib.metadata import version

import metaworld
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

print("versions:", *(f"{name} {version(name)}" for name in ("metaworld", "mujoco", "gymnasium", "numpy")))


def hover(obs):
    """Go to 6 cm before the button, sideways and upwards first, and stay there with the hand open."""
    hand, target = obs[:3], obs[4:7] - np.array([0.0, 0.06, 0.0])
    if np.abs(hand[[0, 2]] - target[[0, 2]]).max() > 0.02:
        target[1] = min(hand[1], target[1])
    return np.append(10 * (target - hand), -1.0)


same = True
for name in ("coffee-button-v3", "button-press-v3"):
    mt1 = metaworld.MT1(name, seed=0)
    env = mt1.train_classes[name]()
    found = {}
    for who, policy in (("expert", ENV_POLICY_MAP[name]().get_action), ("hovering", hover)):
        returns, solved = [], 0
        for task in mt1.train_tasks[:5]:
            env.set_task(task)
            obs, _ = env.reset()
            total, success = 0.0, False
            for _ in range(500):
                obs, reward, _, _, info = env.step(np.clip(policy(obs), -1, 1))
                total, success = total + reward, success or info["success"] > 0
            returns.append(total)
            solved += success
        found[who] = np.mean(returns), solved
        print(f"{name}, {who}: mean return {found[who][0]:.0f}, solved {solved} of 5")
    same = same and found["expert"][1] == 5 and found["hovering"][1] == 0 and found["hovering"][0] > 1.3 * found["expert"][0]
print("expected: the expert's return is far above that of never solving the task")
print("recorded in 2026: hovering solves 0 of 5 and has 1.5 to 1.8 times the expert's return")
raise SystemExit(0 if same else "the behaviour has CHANGED")
END
