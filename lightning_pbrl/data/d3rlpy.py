"""d3rlpy's replay buffers: the .h5 file that ``ReplayBuffer.dump`` writes, a few arrays per episode.

::

    columns           observations, actions, rewards, terminated        num_episodes   version ("2.1")
    observations_<i>  (T, O)       of tuples observations_<i>_<j> (T, O_j)
    actions_<i>       (T, A)       rewards_<i>  (T, 1)       terminated_<i>  ()

Source: Seno and Imai, "d3rlpy: An Offline Deep Reinforcement Learning Library", JMLR 2022; github.com/takuseno/d3rlpy (MIT),
d3rlpy 2.8.0, ``dataset/io.py``.

Episodes and parts of a tuple are counted by number: HDF5 lists them by name, 10 before 2. What followed the last step of an
episode is not stored. If it is ``terminated``, there is no future value. Otherwise it was cut (``truncated``), repeats its own
observation as ``next_obs`` and is not drawable; d3rlpy counts one transition less for such an episode, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_pbrl.data.actions import Bounds, Scaling
from lightning_pbrl.data.draft import Draft, pack
from lightning_pbrl.data.file_record import file_record
from lightning_pbrl.data.guard import listed
from lightning_pbrl.data.hdf5 import cached, find, has, is_hdf5, open_hdf5, read, read_each, read_texts
from lightning_pbrl.data.hdf5_process import File
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import Finite
from lightning_pbrl.errors import UserError

COLUMNS = ("observations", "actions", "rewards", "terminated")
VERSION = "2.1"
"""Version of the layout that d3rlpy 2 writes."""

_READER = 1
"""Version of the reader, raised whenever it reads the same file differently; cached copies are then made anew."""


def recognises(path: str | Path) -> bool:
    """Return True if this file says that it holds episodes of d3rlpy."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return all(has(file, key) for key in ("columns", "num_episodes", "version"))


def read_d3rlpy(
    path: str | Path,
    cache_dir: str | Path | None = None,
    action_bounds: Bounds | None = None,
    clip_actions: bool = False,
) -> Transitions:
    """Read one replay buffer into one table.

    Args:
        path: the file, for instance ``dataset.h5``.
        cache_dir: folder for a memory-mapped copy, which the next run opens at once; None for no copy.
        action_bounds: low and high of the file's actions, which become -1 and 1; None if they are on that scale.
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.

    Returns:
        The data. ``about`` keeps the file's name, size and hash, d3rlpy's version of the layout, the sizes of the parts of an
        ``observation``, other columns (``keys_not_read``) and ``actions_clipped``.

    Raises:
        UserError: if the file is missing, damaged, of another version or lacks a key; if an array is of the wrong type, shape or
            length, NaN or infinite; if actions are discrete or leave [-1, 1], or observations are pictures.
    """
    settings: dict[str, Any] = {"reader": ["d3rlpy", _READER], "bounds": action_bounds, "clip": clip_actions}
    return cached(path, settings, lambda draft: _write(draft, Path(path), action_bounds, clip_actions), cache_dir)


def _write(draft: Draft, path: Path, bounds: Bounds | None, clip: bool) -> None:
    """Convert the file to a draft of the library's own."""
    rewards, ended, sizes = [], [], []
    with open_hdf5(path) as file:
        count, unread = _head(file, path)
        scaling = Scaling(f"{path}: the actions of all episodes together", bounds, clip)
        finite = {key: Finite(f"{path}: the {key} of all episodes together") for key in COLUMNS[:3]}
        wanted = [_wanted(file, number) for number in range(count)]
        arrays = read_each(file, (each for episode in wanted for each in episode))
        for number, episode in enumerate(wanted):
            action, reward, over, *parts = (next(arrays) for _ in episode)
            if not number:
                sizes = [part.shape[1] for part in parts]
                draft.begin(sum(sizes), action.shape[1], {"file": path.name, "observation": sizes, "keys_not_read": unread})
            found = [part.shape[1] for part in parts]
            if (found, action.shape[1]) != (sizes, draft.action_dim):
                raise UserError(
                    f"{path}: episode {number} has observations of {found} and actions of {action.shape[1]} entries, the first "
                    f"one {sizes} and {draft.action_dim}: dump episodes of one environment."
                )
            obs = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            for key, values in zip(COLUMNS, (obs, action, reward), strict=False):
                finite[key].see(values)
            final = np.arange(len(reward)) == len(reward) - 1
            next_obs = np.concatenate([obs[1:], obs[-1:]])
            action = action if finite["actions"].bad else scaling.scale(action)
            rows = pack(obs, action, next_obs, final & bool(over), final & (not over))
            draft.append(rows, len(rows))
            rewards.append(reward)
            ended.append(bool(over))
    for check in finite.values():
        check.check()
    clipped = scaling.check()
    lengths = torch.tensor([len(reward) for reward in rewards])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    drawable = torch.ones(len(draft), dtype=torch.bool)
    drawable[offsets[1:][~torch.tensor(ended)] - 1] = False
    if not drawable.any():
        raise UserError(f"{path} has episodes of one step only, none of them terminated: no step has a known successor.")
    about: dict[str, Any] = {
        "format": "d3rlpy",
        "file": file_record(path),
        "version": VERSION,
        "observation": sizes,
        "keys_not_read": unread,
        "actions_clipped": clipped,
    }
    rows_drawn = None if bool(drawable.all()) else drawable.nonzero()[:, 0]
    draft.finish(offsets, torch.from_numpy(np.concatenate(rewards)), about, drawable=rows_drawn)


def _head(file: File, path: Path) -> tuple[int, list[str]]:
    """Return the number of episodes and the columns that are not read."""
    version = ", ".join(read_texts(file, "version"))
    if version != VERSION:
        raise UserError(f"{path} is of version {version} and {VERSION} is read: load it in d3rlpy 2 and dump it again.")
    columns = read_texts(file, "columns")
    if missing := sorted(set(COLUMNS) - set(columns)):
        raise UserError(f"{path} has no column {missing[0]!r} ({listed(columns)}): dump d3rlpy's own episodes.")
    count = int(read(file, "num_episodes", ndim=0, dtype=np.int64))
    if count < 1 or has(file, f"actions_{count}"):
        raise UserError(f"{path}: key 'num_episodes' is {count}, which is not the number of episodes in it: dump it again.")
    return count, sorted(set(columns) - set(COLUMNS))


def _wanted(file: File, number: int) -> list[tuple[str, int, Any, int | None]]:
    """Return what is read of an episode: key, axes, type and rows of actions, rewards, ``terminated`` and observations."""
    key = f"actions_{number}"
    rows = find(file, key, ndim=2, dtype=np.float32).shape[0]
    if file[key].dtype.kind != "f":
        raise UserError(
            f"{file.filename}: key {key!r} holds {file[key].dtype}: continuous actions, floats, are needed, and integers are "
            "d3rlpy's discrete ones."
        )
    keys = [f"observations_{number}"]
    if not has(file, keys[0]):
        while has(file, f"observations_{number}_{len(keys) - 1}"):
            keys.append(f"observations_{number}_{len(keys) - 1}")
        keys = keys[1:] or keys
    for each in keys:
        if has(file, each) and len(getattr(file[each], "shape", ())) == 4:  # a group has none
            raise UserError(f"{file.filename}: key {each!r} holds pictures, {file[each].shape}: only vectors are read of d3rlpy.")
    parts: list[tuple[str, int, Any, int | None]] = [(each, 2, np.float32, rows) for each in keys]
    return [
        (key, 2, np.float32, None),
        (f"rewards_{number}", 1, np.float32, rows),
        (f"terminated_{number}", 0, bool, None),
        *parts,
    ]
