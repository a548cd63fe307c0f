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
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_pbrl.data import continuity
from lightning_pbrl.data.actions import Bounds, Scaling
from lightning_pbrl.data.draft import WINDOW, Draft, Rows
from lightning_pbrl.data.file_record import file_record
from lightning_pbrl.data.hdf5 import cached, find, finite, has, is_hdf5, open_hdf5, read
from lightning_pbrl.data.lire import split_episodes
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import Finite, check_choice
from lightning_pbrl.errors import UserError

Terminals = Literal["end", "goal"]
"""Meaning of ``terminals``: the end of an episode, or (AntMaze) that the goal is reached."""

_MATRICES = ("observations", "actions", "next_observations")
_KEYS = (*_MATRICES, "rewards", "terminals", "timeouts")

_TOGETHER = 4_096  # rows that are looked at, changed and hashed while they are in the cache
_READER = 2
"""Version of the reader, raised whenever it reads the same file differently; cached copies are then made anew."""


def recognises(path: str | Path) -> bool:
    """Return True if this file has the keys of a D4RL data set."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return all(has(file, key) for key in ("observations", "actions", "rewards", "terminals"))


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
    check_choice("terminals", terminals, Terminals)
    settings: dict[str, Any] = {"reader": ["d4rl", _READER], "terminals": terminals, "steps": max_episode_steps}
    settings |= {"obs_dim": obs_dim, "bounds": action_bounds, "clip": clip_actions}

    def write(draft: Draft) -> None:
        _write(draft, Path(path), terminals, max_episode_steps, obs_dim, action_bounds, clip_actions)

    found = cached(path, settings, write, cache_dir)
    if resets := found.about["unmarked_resets"]:
        warnings.warn(continuity.tell(str(path), resets, found.about["first_reset_after_row"]), stacklevel=2)
    return found


def _write(
    draft: Draft, path: Path, terminals: Terminals, limit: int | None, obs_dim: int | None, bounds: Bounds | None, clip: bool
) -> None:
    """Convert the file to a draft of the library's own."""
    scaling = Scaling(f"{path}: key 'actions'", bounds, clip)
    record = _scan(draft, path, terminals, scaling)
    rows, width, size = len(draft), draft.obs_dim, draft.action_dim
    if obs_dim is not None and not 1 <= obs_dim <= width:
        raise UserError(f"{path}: key 'observations' has {width} entries per row and obs_dim is {obs_dim}: give 1 to {width}.")
    keep, offsets, resets, final = _cut(path, record, terminals, limit)
    last = torch.zeros(rows, dtype=torch.bool)
    last[keep.nonzero()[:, 0][offsets[1:] - 1]] = True
    terminated, truncated = record.terminated, last & ~record.terminated
    clipped, complete, shown = scaling.check(), int(final.nonzero()[-1]) + 1, obs_dim or width

    def change(first: int, window: Rows) -> Rows:
        until = first + len(window)
        obs, _, next_obs = (window[:, at : at + size] for at, size in list(draft.layout.values())[:3])
        if not record.stored:  # the observation of the next row; a terminal's is never used: there is no future value
            next_obs[:-1] = obs[1:]
            next_obs[-1:] = draft.read(until, until + 1)[:, :width] if until < rows else obs[-1:]
            np.copyto(next_obs, obs, where=final[first:until, None].numpy())
        window[:, -3], window[:, -2], window[:, -1] = np.nan, terminated[first:until], truncated[first:until]
        if shown < width:
            window = np.delete(window, [*range(shown, width), *range(width + size + shown, 2 * width + size)], axis=1)
        return window if keep[first:until].all() else window[keep[first:until].numpy()]

    if record.stored and record.timeout is not None and not len(record.resets) and shown == width:
        draft.cut(complete)  # every row is as the marks of the file have made it
    else:
        draft.revise(change, shown, size)
    about: dict[str, Any] = {
        "format": "d4rl",
        "file": file_record(path),
        "terminals": terminals,
        "timeouts": f"every {limit} steps" if record.timeout is None else "stored",
        "next_obs": "stored" if record.stored else "shifted",
        "keys_not_read": record.unread,
        "unmarked_resets": len(resets),
        "first_reset_after_row": int(resets[0]) if len(resets) else None,
        "actions_clipped": clipped,
        "rows_left_out": {"incomplete_episode": rows - complete, "no_next_obs": complete - len(draft)},
    }
    draft.finish(offsets, record.reward[keep], about, success=terminated[keep] if terminals == "goal" else None)


def file_rows(path: str | Path, about: Mapping[str, Any]) -> Tensor:
    """Return the row of the file that each row of :func:`read_d4rl`'s table is, (N,), int64.

    Args:
        path: the file.
        about: ``about`` of the table.

    Raises:
        UserError: as :func:`read_d4rl`.
    """
    limit = None if about["timeouts"] == "stored" else int(about["timeouts"].split()[1])
    record = _scan(Draft(), Path(path), about["terminals"], Scaling(str(path)))
    return _cut(Path(path), record, about["terminals"], limit)[0].nonzero()[:, 0]


class _Record(NamedTuple):
    """Arrays and facts that are read of a file beside the rows of its draft.

    Attributes:
        reward: (N,), float32.
        terminated: ``terminals``, (N,), bool.
        timeout: ``timeouts``, (N,), bool; None if the file has none.
        stored: whether the file has ``next_observations``.
        resets: rows after which the recording was reset without a mark; none can be found without ``next_observations``.
        unread: keys that are not read.
    """

    reward: Tensor
    terminated: Tensor
    timeout: Tensor | None
    stored: bool
    resets: Tensor
    unread: list[str]


def _cut(path: Path, record: _Record, terminals: Terminals, limit: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut a file to complete episodes whose next observations are known.

    Returns:
        True for rows to keep, (N,), bool; the offsets of their episodes; the rows that are followed by an unmarked reset; True
        for rows that are the last of a complete episode of the file, (N,), bool.
    """
    rows, ended = len(record.reward), record.terminated if terminals == "end" else None
    offsets = _episodes(path, ended, record.timeout, record.resets, rows, limit)
    resets = continuity.unmarked(record.resets, offsets, None if record.timeout is not None else limit)
    final = torch.zeros(rows, dtype=torch.bool)
    final[offsets[1:] - 1] = True
    keep = torch.arange(rows) < offsets[-1]
    if not record.stored:
        keep &= ~final | record.terminated
        before = torch.cat([torch.zeros(1, dtype=torch.int64), keep.cumsum(0)])
        offsets = before[offsets].unique()
        if len(offsets) < 2:
            raise UserError(f"{path} has episodes of one step only and no 'next_observations': give a file that has them.")
    return keep, offsets, resets, final


def _scan(draft: Draft, path: Path, terminals: Terminals, scaling: Scaling) -> _Record:
    """Read the file's checked arrays, those of observations and actions into a draft, with episode ends where they are marked."""
    with open_hdf5(path) as file:
        obs = find(file, "observations", ndim=2, dtype=np.float32)
        rows, width = obs.shape
        action = find(file, "actions", ndim=2, dtype=np.float32, rows=rows)
        reward = read(file, "rewards", ndim=1, dtype=np.float32, rows=rows)
        finite(reward, file, "rewards")
        terminated = torch.from_numpy(read(file, "terminals", ndim=1, dtype=bool, rows=rows))
        timeout = torch.from_numpy(read(file, "timeouts", ndim=1, dtype=bool, rows=rows)) if has(file, "timeouts") else None
        after = find(file, "next_observations", ndim=2, dtype=np.float32, rows=rows) if has(file, "next_observations") else None
        unread = sorted(set(file) - set(_KEYS))
        _misspelt(path, sorted(set(_KEYS) - set(file)), unread)
        if after is not None and after.shape != obs.shape:
            raise UserError(
                f"{path}: key 'next_observations' has shape {after.shape} and 'observations' has {obs.shape}: store one next "
                "observation of the same size per row."
            )
        draft.begin(width, action.shape[1], {"name": path.name, "keys_not_read": unread})
        ends = torch.zeros(rows, dtype=torch.bool) if timeout is None else timeout.clone()
        if terminals == "end":
            ends |= terminated
        tolerance = None if after is None else continuity.rounding(obs.dtype, after.dtype)
        resets = _stream(draft, file, ends, terminated, tolerance, scaling)
    return _Record(torch.from_numpy(reward), terminated, timeout, after is not None, resets, unread)


def _stream(draft: Draft, file: Any, ends: Tensor, terminated: Tensor, tolerance: float | None, scaling: Scaling) -> Tensor:
    """Read observations and actions into the draft, check them, and return the rows that are followed by an unmarked reset.

    Args:
        draft: the draft, begun.
        file: the open file.
        ends: rows that the file marks as the last of an episode, (N,), bool.
        terminated: rows without a future value, (N,), bool.
        tolerance: see :func:`lightning_pbrl.data.continuity.jumps`; None without next observations, where no reset is found.
        scaling: of the actions.
    """
    truncated, complete = ends & ~terminated, int(ends.nonzero()[-1]) + 1 if ends.any() else 0
    keys = _MATRICES if tolerance is not None else _MATRICES[:2]
    places = {key: draft.layout[name] for key, name in zip(keys, ("obs", "action", "next_obs"), strict=False)}
    checks, gaps = {key: Finite(f"{file.filename}: key {key!r}") for key in keys}, continuity.Gaps()
    windows = file.rows({key: at for key, (at, _) in places.items()}, draft.width, WINDOW)
    for window in (rows[at : at + _TOGETHER] for rows in windows for at in range(0, len(rows), _TOGETHER)):
        for check, (at, size) in zip(checks.values(), places.values(), strict=True):
            check.see(window[:, at : at + size])
        first, (at, size) = len(draft), places["actions"]
        if not checks["actions"].bad:
            window[:, at : at + size] = scaling.scale(window[:, at : at + size])
        if tolerance is not None:
            _compare(gaps, draft, window, torch.zeros(draft.obs_dim))
            until = first + len(window)
            window[:, -3], window[:, -2], window[:, -1] = np.nan, terminated[first:until], truncated[first:until]
        draft.append(window, 0 if tolerance is None else max(complete - first, 0))
    for check in checks.values():
        check.check()
    if tolerance is None:
        return torch.empty(0, dtype=torch.int64)
    if bool((gaps.rows() & ~ends).any()):  # not equal bit for bit: within the tolerance?
        gaps, largest = continuity.Gaps(), torch.zeros(draft.obs_dim)
        for _, window in draft.windows():
            largest = torch.maximum(largest, torch.from_numpy(window[:, : draft.obs_dim]).abs().amax(dim=0))
        for _, window in draft.windows():
            _compare(gaps, draft, window, tolerance * largest)
    return continuity.inside_episodes(gaps.rows(), ends, f"{file.filename}: key 'next_observations'")


def _compare(gaps: continuity.Gaps, draft: Draft, window: Rows, tolerance: Tensor) -> None:
    """Show observations and next observations of a draft's rows to ``gaps``."""
    rows, width = torch.from_numpy(window), draft.obs_dim
    gaps.see(rows[:, :width], rows[:, width + draft.action_dim :][:, :width], tolerance)


def _misspelt(path: Path, missing: list[str], unread: list[str]) -> None:
    """Refuse a key that is close to that of an optional array: its name is damaged or misspelt."""
    for key in missing:
        for near in difflib.get_close_matches(key, unread, n=1, cutoff=0.5):
            raise UserError(f"{path} has no key {key!r} and one called {near!a}: rename it, or download the file again.")


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
