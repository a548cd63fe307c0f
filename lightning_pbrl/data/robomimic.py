"""robomimic's low-dimensional data sets: one HDF5 file of demonstrations per task and group of operators.

::

    data                     attributes: total, env_args (JSON: env_name, type, env_kwargs)
    data/demo_<i>            attribute: num_samples
        actions (T, A)   rewards (T,)   dones (T,)   states (T, n)
        obs/<key> (T, d)   next_obs/<key> (T, d)        or plain arrays obs (T, O), next_obs (T, O)
    mask/<filter key>        names of demos, byte strings: train, valid, better, 20_percent ...

Source: Mandlekar et al., "What Matters in Learning from Offline Human Demonstrations for Robot Manipulation", arXiv
2108.03298; robomimic.github.io. Versions v0.1, v1.4.1 and v1.5 of the files have this same layout.

An observation is the concatenation of some keys, in the order of IPL (arXiv 2305.15363) and Preference Transformer (arXiv
2303.00957), whose preference files use it. The sparse reward is 1 where the task is solved, so success is known for every
step. Demonstrations are ordered by number: demo_10 comes after demo_9.

The last ``next_obs`` of a demonstration comes from its last action after a reset to a stored state, with an error of up to
0.02 rad and 7.6 mm (robosuite 1.5.2). Nothing is bootstrapped from it: the row is ``terminated``, or left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data.actions import Bounds, Scaling
from lightning_pbrl.data.draft import Draft, pack
from lightning_pbrl.data.file_record import file_record
from lightning_pbrl.data.guard import reason
from lightning_pbrl.data.hdf5 import cached, finite, has, is_hdf5, names, open_hdf5, read, read_texts
from lightning_pbrl.data.robomimic_control import check_scale
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import check_choice
from lightning_pbrl.errors import UserError

OBS_KEYS = (
    "object",
    "robot0_joint_pos",
    "robot0_joint_pos_cos",
    "robot0_joint_pos_sin",
    "robot0_joint_vel",
    "robot0_eef_pos",
    "robot0_eef_quat",
    "robot0_gripper_qpos",
    "robot0_gripper_qvel",
)
"""Default keys of an observation, in order: 49 numbers for Lift, 53 for Can and Square."""

Last = Literal["terminated", "drop"]
"""Treatment of the last step of a demonstration: the task is over, or it is left out."""

_READER = 2
"""Version of the reader, raised whenever it reads the same file differently; cached copies are then made anew."""


def recognises(path: str | Path) -> bool:
    """Return True if this file has demonstrations in a group ``data``."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return any(name.startswith("demo_") for name in names(file, "data"))


def read_robomimic(
    path: str | Path,
    filter_key: str | None = None,
    obs_keys: Sequence[str] | None = None,
    last: Last = "terminated",
    cache_dir: str | Path | None = None,
    action_bounds: Bounds | None = None,
    clip_actions: bool = False,
) -> Transitions:
    """Read the demonstrations of one file into one table; each is an episode.

    Args:
        path: the file, for instance ``lift/ph/low_dim.hdf5``.
        filter_key: subset of demonstrations, as the file's ``mask`` names it (``train``, ``valid``, in mh also ``better``,
            ``okay``, ``worse`` ...); None reads all.
        obs_keys: keys that are concatenated to an observation; None for :data:`OBS_KEYS`, or for the flat array if ``obs``
            is one.
        last: treatment of the last step of a demonstration. ``terminated``: the task is over and there is no future value
            (robomimic, IPL). ``drop``: it is left out and the step before it is truncated (Preference Transformer).
        cache_dir: folder for a memory-mapped copy, which the next run opens at once; None for no copy.
        action_bounds: low and high of the file's actions, which become -1 and 1; None if they are on that scale. Absolute
            poses need them.
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.

    Returns:
        The data. ``about`` keeps ``env_args``, the names of ``demos``, the ``obs_keys``, the number of ``actions_clipped``
        (steps with an action beyond [-1, 1]) and whether ``next_obs`` was stored or shifted. Without stored ones, ``next_obs``
        is the observation of the next step. The last step of a demonstration has none; it repeats its own observation and is
        not ``drawable``.

    Raises:
        UserError: if the file is missing, damaged or lacks a key; if a filter key names no demonstrations of the file; if
            demos are not numbered; if an array is of the wrong type, shape or length, NaN or infinite; if ``dones`` are
            neither 0 nor 1; if ``next_obs`` does not lead to the next row; if actions leave [-1, 1] or are absolute poses
            without bounds.
    """
    keys = None if obs_keys is None else list(obs_keys)
    check_choice("last", last, Last)
    settings: dict[str, Any] = {"reader": ["robomimic", _READER], "filter_key": filter_key, "obs_keys": keys, "last": last}
    settings |= {"bounds": action_bounds, "clip": clip_actions}

    def write(draft: Draft) -> None:
        _write(draft, Path(path), filter_key, keys, last, action_bounds, clip_actions)

    return cached(path, settings, write, cache_dir)


def _write(
    draft: Draft, path: Path, filter_key: str | None, keys: list[str] | None, last: str, bounds: Bounds | None, clip: bool
) -> None:
    """Convert the file to a draft of the library's own."""
    with open_hdf5(path) as file:
        env_args = _env_args(file, path)
        demos = _demos(file, path, filter_key)
        first = file["data"][demos[0]]
        if flat := has(first, "obs") and not hasattr(first["obs"], "keys"):
            if keys is not None:
                raise UserError(f"{path}: key 'data/{demos[0]}/obs' is one flat array: leave obs_keys out (null).")
            parts = [""]
        else:
            parts = [f"/{key}" for key in keys or OBS_KEYS]
        stored = has(first, "next_obs")
        widths: dict[str, int] = {}
        rewards, largest = [], np.zeros(1, dtype=np.float32)
        low, high = np.full((2, 1), [[np.inf], [-np.inf]])
        scaling = Scaling(f"{path}: key 'actions' of the demonstrations together", bounds, clip)
        for demo in demos:
            obs, action, next_obs, reward = _demo(file["data"][demo], parts, stored, widths)
            if not len(draft):
                draft.begin(obs.shape[1], action.shape[1], {"env_args": env_args, "demos": demos, "obs_keys": keys})
            low, high = np.minimum(low, action.min(axis=0)), np.maximum(high, action.max(axis=0))
            end = np.arange(len(reward)) == len(reward) - (1 if last == "terminated" else 2)
            flags = {"terminated" if last == "terminated" else "truncated": end}
            draft.append(pack(obs, scaling.scale(action), next_obs, **flags))
            largest = np.maximum(largest, np.abs(next_obs - obs).max(axis=0))
            rewards.append(torch.from_numpy(reward))
        _all_there(file["data"], len(draft), filter_key is None, path)
    lengths = torch.tensor([len(reward) for reward in rewards])
    final = lengths.cumsum(0) - 1
    if stored:
        _leads_on(path, demos, draft, final, largest)
    if (last == "drop" or not stored) and int(lengths.max()) == 1:
        raise UserError(f"{path} has demonstrations of one step only: give it next_obs and choose last: terminated.")
    check_scale(env_args, low, high, bounds, path)
    clipped, earned = scaling.check(), torch.cat(rewards)
    inner = torch.ones(len(draft), dtype=torch.bool)
    inner[final] = False
    if last == "drop":
        draft.revise(lambda at, rows: rows[inner[at : at + len(rows)].numpy()], draft.obs_dim, draft.action_dim)
        demos = [demo for demo, length in zip(demos, lengths.tolist(), strict=True) if length > 1]
        earned, lengths = earned[inner], lengths[lengths > 1] - 1
    about: dict[str, Any] = {
        "format": "robomimic",
        "file": file_record(path),
        "env_args": env_args,
        "filter_key": filter_key,
        "demos": demos,
        "obs_keys": None if flat else list(keys or OBS_KEYS),
        "last": last,
        "next_obs": "stored" if stored else "shifted",
        "action_bounds": bounds,
        "actions_clipped": clipped,
    }
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    drawable = None if stored or last == "drop" else inner.nonzero()[:, 0]
    draft.finish(offsets, earned, about, success=earned >= 1.0, drawable=drawable)


def _env_args(file: Any, path: Path) -> dict[str, Any] | None:
    """Return the file's description of its environment; None if it has none."""
    if not has(file, "data") or not hasattr(file["data"], "keys"):
        raise UserError(f"{path} has no group 'data' (it has {', '.join(file) or 'nothing'}): give a robomimic file.")
    text = file["data"].attribute("env_args")
    if text is None:
        return None
    try:
        env_args = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: attribute 'env_args' of 'data' is not JSON ({reason(error)}): write it as JSON, or delete it."
        ) from error
    if not isinstance(env_args, dict):
        raise UserError(f"{path}: attribute 'env_args' of 'data' is {text!r}: write a JSON object with env_name, or delete it.")
    return env_args


def _demos(file: Any, path: Path, filter_key: str | None) -> list[str]:
    """Return the names of the demonstrations to read, in the order of their numbers."""
    wanted = there = names(file, "data")
    if filter_key is not None:
        masks = sorted(names(file, "mask"))
        if filter_key not in masks:
            raise UserError(
                f"{path} has no filter key 'mask/{filter_key}' (it has {', '.join(masks) or 'none'}): choose one of "
                "these, or leave filter_key out (null) to read all."
            )
        wanted = read_texts(file, f"mask/{filter_key}")
        unknown = sorted(set(wanted) - set(there))
        if unknown:
            raise UserError(
                f"{path}: key 'mask/{filter_key}' names {unknown[0]}, which is not in 'data': correct the mask, or "
                "choose another filter_key."
            )
    if not wanted:
        where = "'data'" if filter_key is None else f"'mask/{filter_key}'"
        raise UserError(f"{path}: {where} has no demonstrations: give another file or filter_key.")
    numbers = {}
    for name in wanted:
        match = re.fullmatch(r"\D*(\d+)", name)
        if match is None:
            raise UserError(
                f"{path}: key 'data/{name}' has no number, so the order of demonstrations is unknown: rename it to demo_<i>."
            )
        numbers[name] = int(match[1])
    return sorted(numbers, key=lambda name: (numbers[name], name))


def _demo(demo: Any, parts: Sequence[str], stored: bool, widths: dict[str, int]) -> tuple[NDArray[np.float32], ...]:
    """Read one demonstration: obs (T, O), action (T, A), next_obs (T, O) and reward (T,), checked.

    Args:
        demo: group of the demonstration.
        parts: suffixes of ``obs`` and ``next_obs`` in the keys of an observation.
        stored: whether the file has ``next_obs``.
        widths: sizes of the keys so far; all demonstrations must have the same.
    """
    action = _matrix(demo, "actions", None, widths)
    rows = len(action)
    promised = demo.attribute("num_samples", rows)
    if promised != rows:
        raise UserError(
            f"{demo.file.filename}: key '{demo.name.strip('/')}/actions' has {rows} rows and num_samples says {promised}: "
            "download the file again from its source."
        )
    reward = read(demo, "rewards", ndim=1, dtype=np.float32, rows=rows)
    finite(reward, demo, "rewards")
    if has(demo, "dones"):  # not used, but a file that is wrong here may be wrong anywhere
        read(demo, "dones", ndim=1, dtype=bool, rows=rows)
    obs = np.concatenate([_matrix(demo, f"obs{part}", rows, widths) for part in parts], axis=1)
    if stored:
        next_obs = np.concatenate([_matrix(demo, f"next_obs{part}", rows, widths) for part in parts], axis=1)
    else:
        next_obs = np.concatenate([obs[1:], obs[-1:]])
    return obs, action, next_obs, reward


def _all_there(data: Any, rows: int, everything: bool, path: Path) -> None:
    """Refuse a file that declares another number of rows; a subset of its demonstrations must have fewer."""
    promised = data.attribute("total", rows)
    if promised != rows and (everything or not isinstance(promised, int | float) or promised < rows):
        raise UserError(
            f"{path}: the demonstrations read have {rows} rows and attribute 'total' of 'data' says {promised}: download the "
            "file again from its source, or correct the attribute where demonstrations were left out or added by hand."
        )


def _leads_on(path: Path, demos: Sequence[str], draft: Draft, final: Tensor, largest: NDArray[np.float32]) -> None:
    """Refuse an interrupted demonstration, in which a row's next observation is far from the observation of the next row.

    Far is more than half of the ``largest`` change of one step, (O,). Observations rebuilt from stored states may differ by
    millimetres.
    """
    tolerance, width, first = np.maximum(largest / 2, 1e-5), draft.obs_dim, 0
    for demo, last in zip(demos, final.tolist(), strict=True):
        rows = draft.read(first, last + 1)
        obs, next_obs = rows[:, :width], rows[:, width + draft.action_dim :][:, :width]
        apart = (np.abs(next_obs[:-1] - obs[1:]) > tolerance).any(axis=1)
        if apart.any():
            raise UserError(
                f"{path}: key 'data/{demo}/next_obs' does not lead to the next row of 'obs' in {int(apart.sum())} row(s), the "
                f"first is row {int(apart.argmax())}: write what was recorded without interruption as a demonstration of its own."
            )
        first = last + 1


def _matrix(demo: Any, key: str, rows: int | None, widths: dict[str, int]) -> NDArray[np.float32]:
    """Read one finite float32 array, (rows, width)."""
    values = read(demo, key, ndim=2, dtype=np.float32, rows=rows)
    finite(values, demo, key)
    width = widths.setdefault(key.removeprefix("next_"), values.shape[1])
    if values.shape[1] != width:
        raise UserError(
            f"{demo.file.filename}: key '{demo.name.strip('/')}/{key}' has {values.shape[1]} entries per row and others have "
            f"{width}: keep demonstrations of one task in a file."
        )
    return values
