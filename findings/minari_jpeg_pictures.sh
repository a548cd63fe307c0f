#!/usr/bin/env bash
# Minari 0.5.4: pictures are stored as JPEG unless one asks otherwise.
#
# Guess:  observations come back as they were recorded; HDF5 compresses without loss.
# Truth:  uint8 boxes of at least 32 x 32 pixels, channels last, pass through JPEG at Pillow's default quality. A 2 x 2 red object on
#         black comes back as (75, 49, 58). The same picture with channels first, or with jpeg_encoding=False, is exact.
# Hurt:   whoever learns from small pictures, where an object has a few pixels, and whoever compares stored pictures with rendered ones.
# Cure:   jpeg_encoding=False when recording.
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

print(*(f"{name} {version(name)}" for name in ("minari", "h5py", "pillow")), sep=", ")
picture = np.zeros((2, 32, 32, 3), np.uint8)
picture[:, 15:17, 15:17, 0] = 255


def stored(name, frames, **settings):
    """The frames as they come back."""
    episode = EpisodeBuffer(observations=frames, actions=np.zeros((1, 1), np.float32), rewards=[0.0], terminations=[False],
                            truncations=[True])
    made = minari.create_dataset_from_buffers(
        f"finding/{name}-v0", [episode], observation_space=Box(0, 255, frames.shape[1:], np.uint8),
        action_space=Box(-1, 1, (1,), np.float32), **settings)
    return minari.load_dataset(made.id)[0].observations


default = stored("default", picture)
exact = stored("exact", picture, jpeg_encoding=False)
first = stored("first", np.ascontiguousarray(picture.transpose(0, 3, 1, 2)))
changed = (default != picture).mean()
print(f"by default: the red pixel is {default[0, 15, 15].tolist()}, {100 * changed:.0f} % of the values differ")
print(f"jpeg_encoding=False: {exact[0, 15, 15].tolist()}; channels first: {first[0, :, 15, 15].tolist()}")
print("guess: [255, 0, 0] in all three")
if np.array_equal(default, picture) or not np.array_equal(exact, picture) or first[0, :, 15, 15].tolist() != [255, 0, 0]:
    sys.exit("changed: pictures are stored otherwise")
PYTHON
