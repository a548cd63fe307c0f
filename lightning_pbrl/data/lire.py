"""LiRE's offline data sets: one folder per task with a replay buffer per seed.

::

    MetaWorld/<task>/saved_replay_buffer_1000000_seed{0,1,2}.pkl      (or .npz)
    DMControl/<domain>-<task>/saved_replay_buffer_1000000_seed{0,1,2}.pkl

Each file is a dict of arrays: observations (N, O), actions (N, A), next_observations (N, O), rewards and dones,
both (N,) or (N, 1). Source: Choi et al., "Listwise Reward Estimation for Offline Preference-based Reinforcement
Learning", arXiv 2408.04190; CLARIFY (arXiv 2506.00388) uses the same files.

An episode ends at a done, and where ``next_observations`` does not lead to the next row (an unmarked reset).

Differences: the released readers crash on, or silently cut across, episodes of unequal length; here any length is
accepted. Every done of these files marks a time limit (neither simulator ends an episode early). It is therefore read as
``truncated`` and learners bootstrap through it; ``early_end="terminated"`` is for other data in this format.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data import continuity
from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.file_record import file_record
from lightning_pbrl.data.guard import listed, reading
from lightning_pbrl.data.npz import read_npz
from lightning_pbrl.data.pickles import load_pickle
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import check_choice, check_columns
from lightning_pbrl.errors import UserError

KEYS = {
    "obs": "observations",
    "action": "actions",
    "next_obs": "next_observations",
    "reward": "rewards",
    "done": "dones",
}
"""Keys of the files by the library's column names."""

COPY = "copy it again from its source"

ROWS_PER_QUALITY = 100_000
"""Rows of each seed per unit of ``data_quality``: 1 is the first 100k rows, the earliest and worst policies of the run."""

LONGEST = 1_000
"""Steps of the longest episode of LiRE's tasks; more rows without an end need a time limit from the user."""

HUMANOID_SKIP = 200_000
"""Rows at the beginning of humanoid buffers that LiRE never uses."""

EarlyEnd = Literal["truncated", "terminated"]
"""Meaning of a done before the largest number of steps: a cut, or the end of the task."""

_FILE = re.compile(r"saved_replay_buffer_(\d+)_seed(\d+)\.(npz|pkl)")


def recognises(path: str | Path) -> bool:
    """Return True if this is one of LiRE's buffers, or a folder that holds some, by their names."""
    return bool(seeds_in(path))


def seeds_in(path: str | Path) -> list[int]:
    """Return the seeds of the buffers in a folder, or that of one file, ascending; none elsewhere."""
    files = Path(path).iterdir() if Path(path).is_dir() else [Path(path)]
    return sorted({int(match[2]) for file in files if (match := _FILE.fullmatch(file.name))})


def read_lire(
    folder: str | Path,
    task: str | None = None,
    data_quality: float | None = None,
    max_episode_steps: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    early_end: EarlyEnd = "truncated",
    action_bounds: Bounds | None = None,
    clip_actions: bool = False,
) -> Transitions:
    """Read a task's buffers, seed after seed, into one table.

    Args:
        folder: the task's folder, with ``saved_replay_buffer_*_seed<k>.pkl`` or ``.npz``. Of several files of a seed the
            one with the largest number in its name is read, and .npz before .pkl. The folder's own name is not used.
        task: name of the task, such as ``walker-walk``. ``humanoid-*`` skips its first 200k rows; None skips nothing.
        data_quality: q, read rows [0, 100,000 q) of each seed; None for all.
        max_episode_steps: largest number of steps per episode; longer stretches are cut there. None for no limit.
        seeds: seeds of the buffers to read, in this order.
        early_end: meaning of a done before ``max_episode_steps``. Dones at that step are always time limits.
        action_bounds: low and high of the files' actions, which become -1 and 1; None if they are on that scale.
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.

    Returns:
        The data; a partial episode at the end of a buffer is kept and truncated. ``about`` lists task, quality, the longest
        episode (``horizon``) and the files, each with the number of its ``unmarked_resets``. These also raise a warning.

    Raises:
        UserError: if the folder or a file is missing, truncated, tries to run code, or does not follow the format; if a file
            has fewer rows than ``data_quality`` needs; if the length of an episode is undefined.
    """
    folder = Path(folder)
    if max_episode_steps is not None and max_episode_steps < 1:
        raise UserError(f"max_episode_steps is {max_episode_steps}; give at least 1.")
    check_choice("early_end", early_end, EarlyEnd)
    if early_end == "terminated" and max_episode_steps is None:
        raise UserError("early_end: terminated needs max_episode_steps, because a done at the time limit does not end the task.")
    what = task or str(folder)
    first = HUMANOID_SKIP if what.startswith("humanoid-") else 0
    last = None if data_quality is None else round(data_quality * ROWS_PER_QUALITY)
    if last is not None and last <= first:
        least = first / ROWS_PER_QUALITY
        raise UserError(f"data_quality {data_quality} of {what} asks for no rows: choose more than {least:g}.")
    parts, files = [], []
    for seed in seeds:
        path = _find(folder, seed)
        arrays = load_arrays(path)
        columns = check_columns(arrays, path, KEYS, action_bounds, clip_actions)
        found = len(columns["obs"])
        if found < (last or first + 1):
            raise UserError(
                f"{path} has {found} rows, and data_quality {data_quality} of {what} needs {last or first + 1}: "
                f"choose data_quality <= {found / ROWS_PER_QUALITY:g}."
            )
        part = {name: torch.tensor(values[first:last]) for name, values in columns.items()}
        tolerance = continuity.rounding(arrays["obs"].dtype, arrays["next_obs"].dtype)
        part["done"], resets = ends(part, max_episode_steps, tolerance, path)
        parts.append(part)
        used = {"rows": len(part["obs"]), "unmarked_resets": resets}
        files.append({**file_record(path), **used})
    if len({(part["obs"].shape[1], part["action"].shape[1]) for part in parts}) > 1:
        raise UserError(f"The buffers in {folder} differ in observation or action size: keep one task per folder.")
    table = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    limit = max_episode_steps or len(table["obs"])
    offsets, done = split_episodes(table["done"], [len(part["obs"]) for part in parts], limit)
    final, early = offsets[1:] - 1, done & (offsets.diff() < limit)
    terminated, truncated = torch.zeros(len(table["obs"])), torch.zeros(len(table["obs"]))
    ended = early if early_end == "terminated" else torch.zeros_like(early)
    terminated[final[ended]], truncated[final[~ended]] = 1.0, 1.0
    about: dict[str, Any] = {"format": "lire", "task": task, "data_quality": data_quality, "horizon": int(offsets.diff().max())}
    return Transitions.from_columns(
        table["obs"],
        table["action"],
        table["next_obs"],
        offsets,
        reward=table["reward"],
        terminated=terminated,
        truncated=truncated,
        about={**about, "early_end": early_end, "seeds": list(seeds), "files": files},
    )


def ends(columns: Mapping[str, Tensor], limit: int | None, tolerance: float, path: str | Path) -> tuple[Tensor, int]:
    """Return rows that end an episode, (N,), bool: dones, and resets without a done; the latter are counted and warned about.

    Args:
        columns: ``obs``, ``next_obs`` (N, O) and ``done`` (N,) of one recording.
        limit: largest number of steps per episode; None if the data define it.
        tolerance: see :func:`lightning_pbrl.data.continuity.jumps`.
        path: the file, for the messages.

    Raises:
        UserError: if neither ``limit`` nor the data define the length of an episode.
    """
    done = columns["done"] > 0
    resets = continuity.jumps(columns["obs"], columns["next_obs"], done, tolerance, f"{path}: key 'next_observations'")
    done[resets] = True
    offsets, _ = split_episodes(done, [len(done)], limit or len(done))
    if limit is None and int(offsets.diff().max()) > LONGEST:
        raise UserError(
            f"{path} marks no end of an episode in {int(offsets.diff().max())} rows, neither by 'dones' nor by a reset: set "
            "max_episode_steps to the time limit of the task."
        )
    resets = continuity.unmarked(resets, offsets, limit)
    if len(resets):
        warnings.warn(continuity.tell(str(path), len(resets), int(resets[0])), stacklevel=3)
    return done, len(resets)


def split_episodes(done: Tensor, parts: Sequence[int], limit: int) -> tuple[Tensor, Tensor]:
    """Split rows into episodes: after a done, at the beginning of a part, and every ``limit`` steps.

    Args:
        done: True if an episode ends with this row, (N,), bool.
        parts: number of rows of each independently recorded part, in order; they sum to N.
        limit: largest number of steps per episode.

    Returns:
        Episode offsets (M + 1,) int64, and True for each episode that ended with a done, (M,) bool.
    """
    ends = torch.cat([done.nonzero()[:, 0] + 1, torch.tensor(parts).cumsum(0)]).unique()
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
    pieces = (ends - starts + limit - 1) // limit  # number of episodes between each two ends
    number = torch.arange(int(pieces.sum())) - (pieces.cumsum(0) - pieces).repeat_interleave(pieces)
    offsets = torch.cat([starts.repeat_interleave(pieces) + number * limit, ends[-1:]])
    return offsets, done[offsets[1:] - 1]


def write_lire(transitions: Transitions, folder: str | Path, seed: int = 0, suffix: Literal["npz", "pkl"] = "npz") -> Path:
    """Write a data set as the buffer of one seed, ``saved_replay_buffer_<rows>_seed<seed>.<suffix>``.

    ``dones`` marks the last row of every episode; unknown true rewards cannot be stored in this format.

    Raises:
        UserError: if the data have no true reward or the folder cannot be written.
    """
    if bool(transitions.reward.isnan().any()):
        raise UserError("LiRE files need the true reward of every row and these data lack some: use archive.save.")
    path = Path(folder) / f"saved_replay_buffer_{len(transitions)}_seed{seed}.{suffix}"
    done = torch.zeros(len(transitions))
    done[transitions.episodes.offsets[1:] - 1] = 1.0
    columns = {name: transitions.column(name).cpu() for name in ("obs", "action", "next_obs")}
    columns |= {"reward": transitions.reward.cpu(), "done": done}
    arrays = {KEYS[name]: values.contiguous().numpy() for name, values in columns.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        if suffix == "npz":
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        else:
            pickle.dump(arrays, file, protocol=4)
    return path


def _find(folder: Path, seed: int) -> Path:
    """Find the buffer of one seed."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}: give a task's folder, with saved_replay_buffer_*_seed{{0,1,2}}.pkl or .npz."
        )
    found = []
    for path in folder.iterdir():
        match = re.fullmatch(rf"saved_replay_buffer_(\d+)_seed{seed}\.(npz|pkl)", path.name)
        if match:
            found.append((int(match[1]), match[2] == "npz", path))
    if not found:
        raise UserError(
            f"{folder} has no saved_replay_buffer_*_seed{seed}.pkl or .npz: put it there, or leave {seed} out of seeds."
        )
    return max(found)[2]


def load_arrays(path: str | Path) -> dict[str, NDArray]:
    """Load the five arrays of one file by the library's names, unchecked.

    Raises:
        UserError: if the file cannot be read, or lacks a key.
    """
    path = Path(path)
    arrays: Any = read_npz(path, COPY, set(KEYS.values()).__contains__) if path.suffix == ".npz" else load_pickle(path)
    if not isinstance(arrays, dict):
        raise UserError(f"{path} holds a {type(arrays).__name__}, not a dict of arrays: write it in LiRE's format.")
    missing = [key for key in KEYS.values() if key not in arrays]
    if missing:
        there = listed(sorted(map(str, arrays)))
        raise UserError(f"{path} has no key {missing[0]!r} (it has {there}): write it in LiRE's format.")
    with reading(path, "holds rows of unequal sizes", "store plain float32 arrays"):
        return {name: np.asarray(arrays[key]) for name, key in KEYS.items()}
