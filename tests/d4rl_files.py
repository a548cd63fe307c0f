"""Small files in D4RL's layout: random episodes, and a writer for any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


def episodes(
    ends: Sequence[str], lengths: Sequence[int], obs_dim: int = 3, action_dim: int = 2, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Episodes one after the other, with observations that say where they belong.

    Observation j at time t of episode i is ``100 i + t + j / 100``; the reward of that step is t + 1. A stored next observation
    is time t + 1 of the same episode.

    Args:
        ends: how each episode ends: "terminal", "timeout", or "nothing" (the recording stops).
        lengths: steps of each episode.
        obs_dim: entries of an observation.
        action_dim: entries of an action; uniform in [-1, 1].
        seed: of the actions.
    """
    time = np.concatenate([100.0 * i + np.arange(length) for i, length in enumerate(lengths)])
    last = np.cumsum(lengths) - 1
    obs = (time[:, None] + np.arange(obs_dim) / 100).astype(np.float32)
    terminals, timeouts = np.zeros(len(time), dtype=bool), np.zeros(len(time), dtype=bool)
    terminals[last] = [end == "terminal" for end in ends]
    timeouts[last] = [end == "timeout" for end in ends]
    return {
        "observations": obs,
        "actions": np.random.default_rng(seed).uniform(-1, 1, (len(time), action_dim)).astype(np.float32),
        "rewards": (time % 100 + 1).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": obs + 1,
    }


def write_d4rl(path: str | Path, columns: Mapping[str, NDArray[Any]], without: Sequence[str] = (), **options: Any) -> Path:
    """Write columns as D4RL does, with what its files hold beside them.

    Args:
        path: the file.
        columns: as :func:`episodes` gives them.
        without: keys to leave out.
        **options: of ``h5py.Group.create_dataset``, for instance ``compression="gzip"``.
    """
    with h5py.File(path, "w") as file:
        for key, values in columns.items():
            if key not in without:
                file.create_dataset(key, data=values, **options)
        file["infos/qpos"] = np.zeros((len(columns["rewards"]), 2))
        file["metadata/algorithm"] = np.bytes_("none")
    return Path(path)
