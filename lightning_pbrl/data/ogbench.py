"""OGBench's data sets: one .npz file of trajectories without rewards.

::

    observations (n, O) float32, or pictures (n, S, S, 3) uint8     actions (n, A)     terminals (n,)
    qpos (n, q)   qvel (n, v)   button_states (n, b)                the simulator's state
    valids (n,)                                                     in ogbench's compact form only

Source: Park et al., "OGBench: Benchmarking Offline Goal-Conditioned RL", ICLR 2025 (arXiv 2410.20092);
github.com/seohongpark/ogbench (MIT), ogbench 1.2.2, ``utils.py``.

``terminals`` marks the last observation of a trajectory, where recording stopped; it does not mean that a task ended. No action
was taken there, so that row is no step: a trajectory of T + 1 rows has T steps, the last of them ``truncated``. In the compact
form ``terminals`` marks two rows and ``valids`` is 0 at the last.

There is no reward in the file. With ``task``, reward and success are those of a single task
(:mod:`lightning_pbrl.data.ogbench_tasks`); a state at the goal is ``terminated`` (no future value), and its trajectory goes on.

Differences: ogbench's own reader keeps the rows after the last mark, and then has one observation more than next observations.
Here they are left out and counted.
"""

from __future__ import annotations

import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data.actions import Bounds, Scaling
from lightning_pbrl.data.draft import WINDOW, Draft, pack
from lightning_pbrl.data.file_record import file_record
from lightning_pbrl.data.hdf5 import cached
from lightning_pbrl.data.npz import NPZ, open_npz
from lightning_pbrl.data.ogbench_tasks import Task, check_file, task_of
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import Finite, check_flags
from lightning_pbrl.errors import UserError

CURE = "give the file as ogbench downloads it, or download it again"
_KEYS = ("observations", "actions", "terminals", "valids")
_READER = 1
"""Version of the reader, raised whenever it reads the same file differently; cached copies are then made anew."""


def recognises(path: str | Path) -> bool:
    """Return True if this file has the keys of an OGBench data set."""
    if not zipfile.is_zipfile(path):
        return False
    with open_npz(path, CURE) as file:
        return {"observations", "actions", "terminals"} <= set(file.members) and "next_observations" not in file.members


def read_ogbench(
    path: str | Path,
    task: str | None = None,
    cache_dir: str | Path | None = None,
    action_bounds: Bounds | None = None,
    clip_actions: bool = False,
) -> Transitions:
    """Read one data set into one table.

    Args:
        path: the file, for instance ``antmaze-large-navigate-v0.npz``.
        task: single task whose rewards are computed, for instance ``antmaze-large-navigate-singletask-task2-v0``; None for
            data without rewards.
        cache_dir: folder for a memory-mapped copy, which the next run opens at once; None for no copy.
        action_bounds: low and high of the file's actions, which become -1 and 1; None if they are on that scale.
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.

    Returns:
        The data. Pictures become ``frames``, and ``obs`` is then the file's ``qpos``, or one zero. ``about`` keeps the file's
        name, size and hash, the task, the keys that are not read, ``actions_clipped`` and the observations left out.

    Raises:
        UserError: if the file is missing, damaged or lacks a key; if an array is of the wrong type, shape or length, NaN or
            infinite; if flags are neither 0 nor 1; if no trajectory ends or one has no step; if actions are discrete or leave
            [-1, 1]; if the task does not fit the file.
    """
    settings: dict[str, Any] = {"reader": ["ogbench", _READER], "task": task, "bounds": action_bounds, "clip": clip_actions}
    chosen = None if task is None else task_of(task)
    if task is not None:
        check_file(task, Path(path))
    return cached(path, settings, lambda draft: _write(draft, Path(path), task, chosen, action_bounds, clip_actions), cache_dir)


def _write(draft: Draft, path: Path, name: str | None, task: Task | None, bounds: Bounds | None, clip: bool) -> None:
    """Convert the file to a draft of the library's own."""
    with ExitStack() as held:
        file = held.enter_context(open_npz(path, CURE))
        count, obs_key, pictures = _shapes(file, path)
        ends = _ends(file, count, path)
        last, complete = ends.nonzero()[0], int(ends.nonzero()[0][-1]) + 1
        lengths = torch.from_numpy(np.diff(last, prepend=-1) - 1)
        if bool((lengths == 0).any()):
            row = int(last[int((lengths == 0).int().argmax())])
            raise UserError(f"{file.where('terminals')} ends a trajectory at row {row}, its only row: leave that row out.")
        met = _met(file, task, name, count)
        solved = None if met is None else np.asarray(met.all(axis=1))
        clipped = _rows(draft, file, obs_key, ends, complete, solved, Scaling(file.where("actions"), bounds, clip))
        frames = None
        if pictures is not None:
            frames = _frames(file, pictures, complete, draft, held)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        keep = ~ends[:complete]
        reward = torch.full((len(draft),), float("nan"))
        if met is not None:
            reward = torch.from_numpy((met.sum(axis=1) - met.shape[1])[:complete][keep].astype(np.float32))
        about: dict[str, Any] = {
            "format": "ogbench",
            "file": file_record(path),
            "task": name,
            "keys_not_read": _unread(file, task, pictures is not None),
            "actions_clipped": clipped,
            "observations_left_out": count - complete,
        }
        success = None if solved is None else torch.from_numpy(solved[:complete][keep])
        draft.finish(offsets, reward, about, success=success, frames=frames)


def _shapes(file: NPZ, path: Path) -> tuple[int, str | None, tuple[int, ...] | None]:
    """Return the number of observations, the key of the observation vectors, and the shape of pictures; check the actions."""
    shape, dtype = file.header("observations")
    actions, kind = file.header("actions")
    if "next_observations" in file.members:
        raise UserError(f"{path} holds next_observations, so it is what ogbench makes of a file: {CURE}.")
    if kind.kind != "f" or len(actions) != 2 or 0 in actions:
        raise UserError(
            f"{file.where('actions')} has shape {actions} of {kind}: continuous actions, (rows, size) of floats, are needed; "
            "powderworld's are discrete."
        )
    if len(shape) > 2:
        if dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
            raise UserError(f"{file.where('observations')} has shape {shape} of {dtype}: pictures are (rows, S, S, 3) of uint8.")
    elif dtype.kind not in "biuf" or len(shape) != 2:
        raise UserError(f"{file.where('observations')} has shape {shape} of {dtype}: store vectors as (rows, size) of numbers.")
    if 0 in shape or actions[0] != shape[0]:
        raise UserError(f"{path}: keys 'observations' and 'actions' have shapes {shape} and {actions}: {CURE}.")
    if len(shape) == 2:
        return shape[0], "observations", None
    return shape[0], "qpos" if "qpos" in file.members else None, shape[1:]


def _ends(file: NPZ, count: int, path: Path) -> NDArray[np.bool_]:
    """Return True for the last observation of each trajectory, (n,)."""
    flags: dict[str, NDArray[np.bool_]] = {}
    for key in ("terminals", "valids"):
        if key == "terminals" or key in file.members:
            values = file.read(key)
            if values.shape not in ((count,), (count, 1)) or values.dtype.kind not in "biuf":
                raise UserError(f"{file.where(key)} has shape {values.shape} of {values.dtype} for {count} observations: {CURE}.")
            check_flags(values.reshape(-1), file.where(key))
            flags[key] = values.reshape(-1).astype(bool)
    ends = ~flags["valids"] if "valids" in flags else flags["terminals"]
    if not ends.any():
        raise UserError(f"{path}: no row of 'terminals' is set, so no trajectory is complete: {CURE}.")
    return ends


def _met(file: NPZ, task: Task | None, name: str | None, count: int) -> NDArray[np.bool_] | None:
    """Return which conditions of the task are met at each observation, (n, conditions)."""
    if task is None:
        return None
    widths = task.width()
    for key in task.keys:
        shape = file.header(key)[0] if key in file.members else ()
        if len(shape) != 2 or shape[0] != count or shape[1] < widths[key]:
            has = f"has shape {shape}" if shape else "is not there"
            raise UserError(
                f"{file.where(key)} {has}, and {name} needs ({count}, {widths[key]} or more): give the file of that environment, "
                "or set task to null."
            )
    step = max(WINDOW // (8 * file.header(task.keys[0])[0][1]), 1)
    streams = [file.windows(key, step) for key in task.keys]
    checks = {key: Finite(file.where(key)) for key in task.keys}
    parts = []
    for windows in zip(*streams, strict=True):
        arrays = dict(zip(task.keys, windows, strict=True))
        for key, values in arrays.items():
            checks[key].see(values)
        parts.append(task.met(arrays))
    for check in checks.values():
        check.check()
    return np.concatenate(parts)


def _rows(
    draft: Draft,
    file: NPZ,
    obs_key: str | None,
    ends: NDArray[np.bool_],
    complete: int,
    solved: NDArray[np.bool_] | None,
    scaling: Scaling,
) -> int:
    """Write the steps, window by window; return the number of those whose action was beyond [-1, 1]."""
    (count, size), obs_dim = file.header("actions")[0], file.header(obs_key)[0][1] if obs_key else 1
    draft.begin(obs_dim, size, {"file": str(file.path), "keys": list(file.members)})
    step = max(WINDOW // (4 * draft.width), 2)
    finite = [Finite(file.where(key)) for key in ("observations" if obs_key is None else obs_key, "actions")]
    blank = (np.zeros((min(step, count - first), 1), np.float32) for first in range(0, count, step))
    states = file.windows(obs_key, step) if obs_key else blank
    before: tuple[NDArray[Any], NDArray[Any]] | None = None  # the last observation of the window before, and its action
    first = 0  # row of the observation that comes next
    for obs, action in zip(states, file.windows("actions", step), strict=True):
        until = first + len(obs)
        with np.errstate(over="ignore"):
            obs, action = obs.astype(np.float32, copy=False), action.astype(np.float32)
        action[ends[first:until]] = 0.0  # no action was taken there
        finite[0].see(obs)
        finite[1].see(action)
        if not finite[1].bad:
            action = scaling.scale(action)
        if before is not None:
            obs, action, first = np.concatenate([before[0], obs]), np.concatenate([before[1], action]), first - 1
        stop = min(until, complete)
        here = ~ends[first : max(stop - 1, first)]  # steps from an observation of this window to the next one
        truncated = ends[first + 1 : stop] if stop > first else here
        terminated = np.zeros(len(here), bool) if solved is None else solved[first : first + len(here)]
        rows = pack(obs[: len(here)], action[: len(here)], obs[1 : len(here) + 1], terminated, truncated & ~terminated)
        rows = rows if here.all() else rows[here]
        draft.append(rows, len(rows))
        before, first = (obs[-1:], action[-1:]), until
    for each in finite:
        each.check()
    return scaling.check()


def _frames(file: NPZ, shape: tuple[int, ...], complete: int, draft: Draft, held: ExitStack) -> Tensor:
    """Return the pictures, (N + M, S, S, 3); they lie in a temporary file beside the draft's, mapped."""
    folder = None if draft.path is None else draft.path.parent
    raw = held.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 - it is entered
    step, first = max(WINDOW // int(np.prod(shape)), 1), 0
    for window in file.windows("observations", step):
        raw.write(window[: max(complete - first, 0)].data)
        first += len(window)
    raw.flush()
    return torch.from_numpy(np.memmap(raw, np.uint8, "r+", shape=(complete, *shape)))


def _unread(file: NPZ, task: Task | None, pictures: bool) -> list[str]:
    """Return the keys that are not read."""
    read = {*_KEYS, *(task.keys if task else ()), *(("qpos",) if pictures else ())}
    return sorted(set(file.members) - read)
