"""Small files of labelled clips in the npz format of IPL, whose labels can be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pair_arrays(
    pairs: int = 12, steps: int = 6, obs_dim: int = 3, action_dim: int = 2, undecided: int = 4, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Random clips, float64; the one with the larger sum of first observation entries is preferred.

    Every ``undecided``-th pair, the first included, has the label 0.5; none when 0.
    """
    rng = np.random.default_rng(seed)
    level = rng.normal(size=(2, pairs, 1, 1))  # clips differ as wholes, so that a pair is rarely close
    obs = level + 0.3 * rng.normal(size=(2, pairs, steps, obs_dim))
    action = rng.uniform(-1, 1, size=(2, pairs, steps, action_dim))
    label = (obs[1, :, :, 0].sum(1) > obs[0, :, :, 0].sum(1)).astype(float)
    if undecided:
        label[::undecided] = 0.5
    return {"obs_1": obs[0], "obs_2": obs[1], "action_1": action[0], "action_2": action[1], "label": label}


def write_pairs(path: Path, arrays: dict[str, NDArray[Any]] | None = None, **sizes: int) -> Path:
    """A file of ``arrays``, or of :func:`pair_arrays` with ``sizes``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **(pair_arrays(**sizes) if arrays is None else arrays))
    return path
