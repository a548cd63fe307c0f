#!/usr/bin/env bash
# Minari 0.5.4: combine_datasets ignores what was filtered out.
#
# Guess:  two halves of a data set, made by split_dataset or filter_episodes, join to the whole again.
# Truth:  the files behind both views are copied whole: halves of 2 + 2 episodes make 8, every episode twice.
# Hurt:   whoever selects good episodes of several data sets and joins them: the bad ones are back, and the good ones count double.
# Cure:   write the chosen episodes with create_dataset_from_buffers, and look for equal episodes in a joined set.
#
# Run by hand; needs python3.11 or 3.12 and a package index. Exits 0 while the behaviour is as described.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q "minari[hdf5]==0.5.4" numpy==2.3.5 gymnasium==1.4.0 h5py==3.16.0 pillow==13.0.0
export MINARI_DATASETS_PATH="$work/minari"
venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import minari
import numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer

print(*(f"{name} {version(name)}" for name in ("minari", "h5py", "numpy")), sep=", ")


def episode(number):
    """Three steps; the reward tells which episode it is."""
    return EpisodeBuffer(observations=np.zeros((4, 1), np.float32), actions=np.zeros((3, 1), np.float32),
                         rewards=np.full(3, float(number)), terminations=[False] * 3, truncations=[False, False, True])


whole = minari.create_dataset_from_buffers(
    "finding/whole-v0", [episode(number) for number in range(4)],
    observation_space=Box(-1, 1, (1,), np.float32), action_space=Box(-1, 1, (1,), np.float32))
low = whole.filter_episodes(lambda part: part.rewards[0] < 2)
high = whole.filter_episodes(lambda part: part.rewards[0] >= 2)
joined = minari.combine_datasets([low, high], "finding/joined-v0")
found = [int(part.rewards[0]) for part in joined]
print(f"halves of {len(low)} and {len(high)} episodes, joined: {len(joined)} episodes, {found}")
print("guess: 4 episodes, [0, 1, 2, 3]")
if sorted(found) != [0, 0, 1, 1, 2, 2, 3, 3]:
    sys.exit("changed: the joined set is not every episode twice")
PYTHON
