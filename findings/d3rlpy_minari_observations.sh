#!/usr/bin/env bash
# d3rlpy 2.8.0, get_minari: from the second episode on, observations and actions belong to different steps.
#
# Guess:  row t of an episode holds what was seen and done at step t.
# Truth:  all T + 1 observations of every episode are laid end to end beside T actions each, and both are cut at T per episode: episode
#         k (from 0) has the observations of k rows earlier, beginning with the last k of the episodes before.
# Hurt:   whoever trains d3rlpy's methods on Minari data, and whoever compares other methods with such results: the shift grows by one
#         row with every episode.
# Cure:   drop the last observation of every episode before joining them, and build an MDPDataset from that.
#
# Run by hand; needs python3.11 or 3.12, a package index and about 2 GB. Exits 0 while the behaviour is as described.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 d3rlpy==2.8.0 "minari[hdf5]==0.5.4" numpy==2.3.5 gymnasium==1.4.0 h5py==3.16.0 pillow==13.0.0
export MINARI_DATASETS_PATH="$work/minari"
venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import gymnasium
import minari
import numpy as np
from d3rlpy.datasets import get_minari
from minari.data_collector import EpisodeBuffer

print(*(f"{name} {version(name)}" for name in ("d3rlpy", "minari", "torch", "numpy")), sep=", ")
steps, episodes = 5, 3
env = gymnasium.make("Pendulum-v1")
buffers = []
for number in range(episodes):  # the first number of an observation, and the action, tell episode and step
    time = 10.0 * number + np.arange(steps + 1)
    seen = np.stack([time, np.zeros(steps + 1), np.zeros(steps + 1)], axis=1).astype(np.float32)
    last = np.arange(steps) == steps - 1
    buffers.append(EpisodeBuffer(observations=seen, actions=time[:-1, None].astype(np.float32), rewards=np.zeros(steps),
                                 terminations=np.zeros(steps, bool), truncations=last))
minari.create_dataset_from_buffers("finding/pendulum-v0", buffers, env=env)
replay, _ = get_minari("finding/pendulum-v0")
shifts = []
for episode in replay.episodes:
    seen, done = np.asarray(episode.observations)[:, 0], np.asarray(episode.actions)[:, 0]
    shifts.append(seen[-1] - done[-1])
    print(f"observations of steps {seen.tolist()} beside actions of steps {done.tolist()}")
print("guess: both lists equal in every episode")
if [shift == 0 for shift in shifts] != [True, False, False]:
    sys.exit("changed: observations lie elsewhere")
PYTHON
