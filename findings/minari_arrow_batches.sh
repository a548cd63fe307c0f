#!/usr/bin/env bash
# Minari 0.5.4, data_format "arrow" and "parquet": episodes beyond 32,767 steps come back short and mixed.
#
# Guess:  an episode is read as it was written, whatever its length.
# Truth:  the reader takes the k-th batch of 32,768 rows for episode k. Of episodes of 10, 200,000 and 10 steps come 10, 32,767
#         and 32,767 steps; the third "episode" is the middle of the second. No error, no warning.
# Hurt:   whoever stores long episodes (continuing tasks, real robots) in these formats and trains on what is read back.
# Cure:   data_format="hdf5", or compare the sum of lengths with total_steps.
#
# Run by hand; needs python3.11 or 3.12 and a package index. Exits 0 while the behaviour is as described.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q "minari[hdf5,arrow]==0.5.4" numpy==2.3.5 gymnasium==1.4.0 h5py==3.16.0 pyarrow==26.0.1 pillow==13.0.0
export MINARI_DATASETS_PATH="$work/minari"
venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import minari
import numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer

print(*(f"{name} {version(name)}" for name in ("minari", "pyarrow", "numpy")), sep=", ")
written = (10, 200_000, 10)


def episode(number, steps):
    """The reward tells which episode a step belongs to."""
    last = np.arange(steps) == steps - 1
    return EpisodeBuffer(observations=np.zeros((steps + 1, 1), np.float32), actions=np.zeros((steps, 1), np.float32),
                         rewards=np.full(steps, float(number)), terminations=np.zeros(steps, bool), truncations=last)


seen = {}
for kind in ("arrow", "parquet", "hdf5"):
    made = minari.create_dataset_from_buffers(
        f"finding/{kind}-v0", [episode(k, steps) for k, steps in enumerate(written)], data_format=kind,
        observation_space=Box(-1, 1, (1,), np.float32), action_space=Box(-1, 1, (1,), np.float32))
    read = list(minari.load_dataset(made.id))
    seen[kind] = [len(part.rewards) for part in read]
    print(f"{kind}: written {list(written)}, read {seen[kind]}, the third has rewards {sorted(set(read[2].rewards.tolist()))}, "
          f"total_steps says {made.total_steps}")
    if kind != "hdf5" and set(read[2].rewards.tolist()) != {1.0}:
        sys.exit("changed: the third episode is no longer a part of the second")
print(f"guess: {list(written)} in all three")
if seen != {"arrow": [10, 32_767, 32_767], "parquet": [10, 32_767, 32_767], "hdf5": list(written)}:
    sys.exit("changed: the lengths are not those described")
PYTHON
