"""D4RL's data sets: one HDF5 file of logged transitions per data set, in temporal order.

::

    observations (N, O)   actions (N, A)   rewards (N,)   terminals (N,)   timeouts (N,)
    next_observations (N, O)     locomotion v2 only
    infos/...   metadata/...     not read

Source: Fu et al., "D4RL: Datasets for Deep Data-Driven Reinforcement Learning", arXiv 2004.07219;
github.com/Farama-Foundation/D4RL (code Apache-2.0, data CC BY 4.0).

An episode ends where ``terminals`` or ``timeouts`` is set; without ``timeouts``, after ``max_episode_steps`` steps. Where
``next_observations`` does not lead to the next row, the recording was reset without a mark, and an episode ends there, too.
In AntMaze ``terminals`` means that the ant is at its goal while the recording continues; episodes then end at ``timeouts``
alone. Rows after the last end are an incomplete episode and are left out. A terminal has no future value (``terminated``),
a timeout has (``truncated``).

Rewards are kept as recorded. The relabeller sets the scale that IQL's settings assume: ``relabel: {reward: "true",
normalize: return_range}`` for locomotion, ``{reward: "true", normalize: false, bonus: -1.0}`` for AntMaze.

Differences: without ``next_observations``, IPL's loader (arXiv 2305.15363) uses the observation before a timeout as the one
after it, too. Here that transition is left out, as in D4RL's own loader for Q-learning. The transition before it is then
the episode's last, truncated.
"""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data import continuity
from lightning_pbrl.data.actions import Bounds, into_range
from lightning_pbrl.data.hdf5 import cached, finite, has, open_hdf5, read
from lightning_pbrl.data.lire import split_episodes
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError

Terminals = Literal["end", "goal"]
"""Meaning of ``terminals``: the end of an episode, or (AntMaze) that the goal is reached."""

_KEYS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")

_READER = 2
"""Version of the reader, raised whenever it reads the same file differently; cached copies are then made anew."""


def read_d4rl(
    path: str | Path,
    terminals: Terminals = "end",
    max_episode_steps: int | None = None,
    obs_dim: int | None = None,
    cache_dir: str | Path | None = None,
    action_bounds: Bounds | None = None,
    clip_actions: bool = False,
) -> Transitions:
    """Read one data set into one table.

    Args:
        path: the file, for instance ``hopper_medium_expert-v2.hdf5``.
        terminals: meaning of the file's ``terminals``: ``end`` of an episode, or ``goal`` (AntMaze): the goal is reached.
            This stops bootstrapping and is kept as ``success``, but the episode continues.
        max_episode_steps: length of an episode that nothing else ends; needed only if the file has no ``timeouts``.
        obs_dim: read only this many of the first entries of an observation; None reads all. (The last 84 of ant's 111 are
            contact forces, which MuJoCo 2.0 left at zero: github.com/openai/gym/issues/1541.)
        cache_dir: folder for a memory-mapped copy, which the next run opens at once; None for no copy.
        action_bounds: low and high of the file's actions, which become -1 and 1; None if they are on that scale.
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.

    Returns:
        The data. ``about`` keeps the file's name, size and hash, the origin of episode ends and next observations, and keys
        that are not read. It also counts ``unmarked_resets``, ``actions_clipped`` (steps with an action beyond [-1, 1]) and
        rows left out. Unmarked resets also raise a warning.

    Raises:
        UserError: if the file is missing, damaged or lacks a key; if an array is of the wrong type, shape or length, NaN or
            infinite; if flags are neither 0 nor 1; if actions leave [-1, 1] or ``next_observations`` do not lead to the
            next rows; if ``timeouts`` and ``max_episode_steps`` are both missing; if no episode is complete.
    """
    if max_episode_steps is not None and max_episode_steps < 1:
        raise UserError(f"max_episode_steps is {max_episode_steps}; give at least 1.")
    settings: dict[str, Any] = {"reader": ["d4rl", _READER], "terminals": terminals, "steps": max_episode_steps}
    settings |= {"obs_dim": obs_dim, "bounds": action_bounds, "clip": clip_actions}

    def table() -> Transitions:
        return _table(Path(path), terminals, max_episode_steps, obs_dim, action_bounds, clip_actions)

    found = cached(path, settings, table, cache_dir)
    if resets := found.about["unmarked_resets"]:
        warnings.warn(continuity.tell(str(path), resets, found.about["first_reset_after_row"]), stacklevel=2)
    return found


def _table(
    path: Path, terminals: Terminals, limit: int | None, obs_dim: int | None, bounds: Bounds | None, clip: bool
) -> Transitions:
    """Read the file as a table, without a cached copy."""
    table, resets, unread = _columns(path, terminals)
    action, clipped = into_range(table["action"].numpy(), f"{path}: key 'actions'", bounds, clip)
    table["action"] = torch.from_numpy(action)
    stored, timeouts = "next_obs" in table, "timeout" in table
    rows, width = table["obs"].shape
    if obs_dim is not None and not 1 <= obs_dim <= width:
        raise UserError(f"{path}: key 'observations' has {width} entries per row and obs_dim is {obs_dim}: give 1 to {width}.")
    table, offsets, resets, complete = _cut(path, table, resets, terminals, limit)
    terminated = table["terminated"]
    last = torch.zeros(len(terminated), dtype=torch.bool)
    last[offsets[1:] - 1] = True
    with path.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    about: dict[str, Any] = {
        "format": "d4rl",
        "file": {"name": path.name, "bytes": path.stat().st_size, "sha256": digest},
        "terminals": terminals,
        "timeouts": "stored" if timeouts else f"every {limit} steps",
        "next_obs": "stored" if stored else "shifted",
        "keys_not_read": unread,
        "unmarked_resets": len(resets),
        "first_reset_after_row": int(resets[0]) if len(resets) else None,
        "actions_clipped": clipped,
        "rows_left_out": {"incomplete_episode": rows - complete, "no_next_obs": complete - len(terminated)},
    }
    return Transitions.from_columns(
        table["obs"][:, :obs_dim],
        table["action"],
        table["next_obs"][:, :obs_dim],
        offsets,
        reward=table["reward"],
        terminated=terminated,
        truncated=last & ~terminated,
        success=terminated if terminals == "goal" else None,
        about=about,
    )


def file_rows(path: str | Path, about: Mapping[str, Any]) -> Tensor:
    """Return the row of the file that each row of :func:`read_d4rl`'s table is, (N,), int64.

    Args:
        path: the file.
        about: ``about`` of the table.

    Raises:
        UserError: as :func:`read_d4rl`.
    """
    stored = about["timeouts"] == "stored"
    table, resets, _ = _columns(Path(path), about["terminals"])
    table["row"] = torch.arange(len(table["obs"]))
    limit = None if stored else int(about["timeouts"].split()[1])
    return _cut(Path(path), table, resets, about["terminals"], limit)[0]["row"]


def _cut(
    path: Path, table: dict[str, Tensor], resets: Tensor, terminals: Terminals, limit: int | None
) -> tuple[dict[str, Tensor], Tensor, Tensor, int]:
    """Cut a file's columns to complete episodes and give each row its next observation.

    Returns:
        The columns, the offsets of the episodes, the rows that are followed by an unmarked reset, and the number of rows in
        complete episodes, from 0 to N.
    """
    rows = len(table["obs"])
    offsets = _episodes(path, table["terminated"] if terminals == "end" else None, table.get("timeout"), resets, rows, limit)
    resets = continuity.unmarked(resets, offsets, None if "timeout" in table else limit)
    complete = int(offsets[-1])
    table = {name: values[:complete] for name, values in table.items()}
    if "next_obs" not in table:
        table, offsets = _shifted(table, offsets)
        if len(offsets) < 2:
            raise UserError(f"{path} has episodes of one step only and no 'next_observations': give a file that has them.")
    return table, offsets, resets, complete


def _columns(path: Path, terminals: Terminals) -> tuple[dict[str, Tensor], Tensor, list[str]]:
    """Read the file's checked arrays, the rows after which it is reset without a mark, and the unread keys.

    ``timeout`` and ``next_obs`` are present only if the file has them; without the latter no reset can be detected.
    """
    with open_hdf5(path) as file:
        obs = _numbers(file, "observations", 2, None)
        rows = len(obs)
        columns = {"obs": obs, "action": _numbers(file, "actions", 2, rows), "reward": _numbers(file, "rewards", 1, rows)}
        columns["terminated"] = read(file, "terminals", ndim=1, dtype=bool, rows=rows)
        if has(file, "timeouts"):
            columns["timeout"] = read(file, "timeouts", ndim=1, dtype=bool, rows=rows)
        if has(file, "next_observations"):
            columns["next_obs"] = _numbers(file, "next_observations", 2, rows)
            tolerance = continuity.rounding(file["observations"].dtype, file["next_observations"].dtype)
        unread = sorted(set(file) - set(_KEYS))
        _misspelt(path, sorted(set(_KEYS) - set(file)), unread)
    if "next_obs" in columns and columns["next_obs"].shape != obs.shape:
        raise UserError(
            f"{path}: key 'next_observations' has shape {columns['next_obs'].shape} and 'observations' has {obs.shape}: "
            "store one next observation of the same size per row."
        )
    table = {name: torch.from_numpy(values) for name, values in columns.items()}
    if "next_obs" not in table:
        return table, torch.empty(0, dtype=torch.int64), unread
    ends = table["timeout"].clone() if "timeout" in table else torch.zeros(rows, dtype=torch.bool)
    if terminals == "end":
        ends |= table["terminated"]
    where = f"{path}: key 'next_observations'"
    return table, continuity.jumps(table["obs"], table["next_obs"], ends, tolerance, where), unread


def _misspelt(path: Path, missing: list[str], unread: list[str]) -> None:
    """Refuse a key that is close to that of an optional array: its name is damaged or misspelt."""
    for key in missing:
        for near in difflib.get_close_matches(key, unread, n=1, cutoff=0.5):
            raise UserError(f"{path} has no key {key!r} and one called {near!a}: rename it, or download the file again.")


def _numbers(file: Any, key: str, ndim: int, rows: int | None) -> NDArray[np.float32]:
    """Read one finite float32 array."""
    values = read(file, key, ndim=ndim, dtype=np.float32, rows=rows)
    finite(values, file, key)
    return values


def _episodes(path: Path, ended: Tensor | None, timeout: Tensor | None, resets: Tensor, rows: int, limit: int | None) -> Tensor:
    """Return the offsets of the complete episodes, (M + 1,), from 0.

    Args:
        path: the file, for the messages.
        ended: True if an episode ends with this row, (N,), bool; None if ``terminals`` are goals.
        timeout: the same for time limits; None if the file does not mark them.
        resets: rows after which the recording was reset without a mark.
        rows: number of rows N.
        limit: number of steps of an episode that nothing else ends, for files without ``timeouts``.
    """
    done = torch.zeros(rows, dtype=torch.bool) if ended is None else ended.clone()
    done[resets] = True
    if timeout is not None:
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (done | timeout).nonzero()[:, 0] + 1])
    elif limit is None:
        raise UserError(f"{path} has no key 'timeouts': set max_episode_steps to the time limit of the data's environment.")
    else:
        offsets, with_done = split_episodes(done, [rows], limit)
        if not with_done[-1] and int(offsets.diff()[-1]) < limit:
            offsets = offsets[:-1]
    if len(offsets) < 2:
        keys = "'timeouts'" if ended is None else "'terminals' or 'timeouts'"
        raise UserError(
            f"{path} has no complete episode, no row of {keys} is set"
            + (f" and there are fewer than {limit} rows" if timeout is None else "")
            + ": give the whole file, or delete 'timeouts' and set max_episode_steps."
        )
    return offsets


def _shifted(table: dict[str, Tensor], offsets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Shift the observations to get ``next_obs``, and return the table with its offsets.

    An episode's last row has no next row. A terminal keeps its own observation, which is never used because there is no future
    value. Any other last row is left out, and with it an episode of one step.
    """
    obs, last = table["obs"], offsets[1:] - 1
    next_obs = torch.cat([obs[1:], obs[-1:]])
    next_obs[last] = obs[last]
    keep = torch.ones(len(obs), dtype=torch.bool)
    keep[last] = table["terminated"][last]
    kept_before = torch.cat([torch.zeros(1, dtype=torch.int64), keep.cumsum(0)])
    return {name: values[keep] for name, values in {**table, "next_obs": next_obs}.items()}, kept_before[offsets].unique()
