"""Minari's data sets (github.com/Farama-Foundation/Minari): episodes by name, in a folder of the user.

The package ``minari`` (extra ``minari``) finds and reads them. An episode of T steps has T + 1 observations, so every step has
its true successor. Dictionary observations (goal-conditioned tasks) are concatenated in the alphabetical order of their keys, at
every level: ``achieved_goal``, ``desired_goal``, ``observation`` for AntMaze. Actions are mapped from the bounds of the data
set's action space to [-1, 1]; entries without bounds must lie in [-1, 1] already.

Minari 0.5.4 itself has three faults. Its reader of Arrow and Parquet takes batches of 32,768 rows for episodes (refused here).
``combine_datasets`` of filtered data sets joins the complete ones (equal episodes raise a warning). Images pass through JPEG (a
warning).
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data.actions import Bounds, Scaling, known
from lightning_pbrl.data.draft import Draft, pack
from lightning_pbrl.data.guard import reading, reason
from lightning_pbrl.data.hdf5 import cached
from lightning_pbrl.data.hdf5_process import check_hdf5
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import Finite, check_flags
from lightning_pbrl.errors import UserError

NAMES = {"obs": "observations", "action": "actions", "next_obs": "observations", "reward": "rewards"}
"""Minari's column names by the library's."""

SUCCESS = ("success", "is_success")
"""Keys of infos that report success: most environments use the first, Gymnasium-Robotics' Fetch and Hand tasks the second."""

_READER = 2
"""Version of the reader, raised whenever it reads the same data differently; cached copies are then made anew."""


def open_minari(dataset_id: str, download: bool = False) -> Any:
    """Open the data set as ``minari.MinariDataset``.

    Args:
        dataset_id: for instance ``mujoco/hopper/medium-v0`` or ``D4RL/door/human-v2``.
        download: download it if it is missing (extra ``minari[hf]`` or ``minari[gcs]``, as its host demands).

    Raises:
        UserError: if the package or the data set is missing, or the package cannot read its version.
    """
    try:
        import minari
    except ModuleNotFoundError as error:
        raise UserError(
            f"The package {error.name!r} is not installed; install it with pip install 'lightning-pbrl[minari]'."
        ) from error
    folder = os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets")
    try:
        return minari.load_dataset(dataset_id, download=download)
    except Exception as error:
        raise UserError(
            f"Minari cannot open {dataset_id!r} in {folder} ({reason(error)}): check the name, get it with `minari download "
            f"{dataset_id}` or download: true, or set MINARI_DATASETS_PATH to the folder that holds it."
        ) from error


def read_minari(
    dataset_id: str,
    download: bool = False,
    cache_dir: str | Path | None = None,
    action_bounds: Bounds | None = None,
    clip_actions: bool = False,
) -> Transitions:
    """Read one data set into one table.

    Args:
        dataset_id: its name, version included.
        download: see :func:`open_minari`.
        cache_dir: folder for a memory-mapped copy, which the next run opens at once; None for no copy.
        action_bounds: low and high of the actions, which become -1 and 1; None for those of the action space.
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond their bounds are refused.

    Returns:
        The data. An episode that neither terminates nor is truncated is truncated where its recording stops. ``about``
        keeps name, environment, Minari's version and format, parts and sizes of the ``observation`` in order, and
        ``action_bounds``. It counts ``actions_clipped`` (steps with an action beyond the bounds) and ``equal_episodes``. The
        latter, and images stored as JPEG, also raise a warning.

    Raises:
        UserError: as :func:`open_minari`; also if observations or actions are not vectors of finite numbers, lengths or flags
            contradict each other, actions leave their bounds, or Minari returns fewer steps than the data set has.
    """
    dataset = open_minari(dataset_id, download)
    state = Path(dataset.storage.data_path) / "metadata.json"  # rewritten with every change of the data
    settings = {"reader": ["minari", _READER], "bounds": action_bounds, "clip": clip_actions}
    found = cached(state, settings, lambda draft: _write(draft, dataset, action_bounds, clip_actions), cache_dir)
    for sentence in _doubts(found.about):
        warnings.warn(sentence, stacklevel=2)
    return found


def parts(obs: Any, name: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of an observation in the order of concatenation, with names such as ``goal/position``.

    Args:
        obs: an array, or mappings and tuples of such.
        name: name of ``obs``.
    """
    if isinstance(obs, Mapping):
        for key in sorted(obs):
            yield from parts(obs[key], f"{name}/{key}".lstrip("/"))
    elif isinstance(obs, tuple):
        for number, part in enumerate(obs):
            yield from parts(part, f"{name}/{number}".lstrip("/"))
    else:
        yield name or "observation", np.asarray(obs)


def _write(draft: Draft, dataset: Any, bounds: Bounds | None = None, clip: bool = False) -> None:
    """Convert the data set to a draft of the library's own."""
    where = f"Minari data set {dataset.id}"
    with reading(f"{where}: its metadata", "cannot be read", "download or record it again"):
        storage = getattr(dataset, "storage", None)
        space, promised = dataset.action_space, getattr(dataset, "total_steps", None)
        env_id, version = getattr(dataset.env_spec, "id", None), str(dataset.minari_version)
    bounds, unbounded = (bounds, False) if bounds is not None else _bounds(space, where)
    scaling = Scaling(f"{where}: key 'actions'{' (its action space names no bounds)' if unbounded else ''}", bounds, clip)
    finite = {name: Finite(f"{where}: key {key!r}") for name, key in NAMES.items()}
    small: dict[str, list[Tensor]] = {"reward": [], "terminated": [], "success": []}
    layout, seen, equal, sizes = {}, set(), 0, set()
    for episode in _recorded(dataset, where):
        if not len(episode.rewards):
            continue
        columns = _episode(episode, where)
        digest = _digest(columns)
        equal += digest in seen
        seen.add(digest)
        layout = {name: int(np.prod(part.shape[1:])) for name, part in parts(episode.observations)}
        sizes.add((columns["obs"].shape[1], columns["action"].shape[1]))
        for name, values in small.items():
            values.append(torch.from_numpy(columns[name]))
        if len(sizes) > 1:
            continue  # refused below, once all steps are counted
        if not len(draft):
            draft.begin(*sizes.copy().pop(), {"dataset_id": dataset.id, "observation": layout, "action_bounds": bounds})
        last = np.arange(len(columns["reward"])) == len(columns["reward"]) - 1
        truncated = last & ~columns["terminated"]
        with np.errstate(over="ignore"):
            for name in ("obs", "action", "next_obs", "reward"):
                columns[name] = columns[name].astype(np.float32)
                finite[name].see(columns[name])
        draft.append(
            pack(columns["obs"], scaling.scale(columns["action"]), columns["next_obs"], columns["terminated"], truncated)
        )
    if not sizes:
        raise UserError(f"{where} has no steps: give a data set with episodes.")
    lengths = torch.tensor([len(reward) for reward in small["reward"]])
    _complete(promised, int(lengths.sum()), getattr(storage, "FORMAT", None), where)
    if len(sizes) > 1:
        raise UserError(f"{where} has episodes of different observation or action sizes: keep one environment in a data set.")
    for each in finite.values():
        each.check()
    clipped = scaling.check()
    reward, success = torch.cat(small["reward"]).float(), torch.cat(small["success"])
    told = not bool(success.isnan().all())
    about: dict[str, Any] = {
        "format": "minari",
        "dataset_id": dataset.id,
        "env_id": env_id,
        "minari_version": version,
        "data_format": getattr(storage, "FORMAT", None),
        "observation": layout,
        "action_bounds": None if bounds is None else np.asarray(bounds, dtype=float).tolist(),
        "actions_clipped": clipped,
        "equal_episodes": equal,
        "jpeg_pictures": _jpeg(dataset) if getattr(storage, "jpeg_encoding", False) else [],
    }
    draft.finish(
        torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        reward,
        about,
        success=success == 1 if told else None,
        success_unknown=success.isnan() if told and bool(success.isnan().any()) else None,
    )


def _bounds(space: Any, where: str) -> tuple[list[list[float]] | None, bool]:
    """Return low and high per action entry, -1 and 1 for entries without bounds, and whether there are such entries."""
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or len(space.shape) != 1:
        raise UserError(f"{where} has the action space {space}: methods here need vectors of continuous actions (a Box).")
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    named = known(low, high)
    if (low >= high)[named].any():
        entry = int(((low >= high) & named).argmax())
        raise UserError(
            f"{where}: entry {entry} of its action space goes from {low[entry]:g} to {high[entry]:g}, so its scale is unknown: "
            "set action_bounds to [low, high] of the actions' units."
        )
    if not named.any():
        return None, True
    return [np.where(named, low, -1.0).tolist(), np.where(named, high, 1.0).tolist()], not named.all()


def _complete(promised: int | None, steps: int, kind: str | None, where: str) -> None:
    """Refuse data that Minari returns incompletely, from files of a ``kind`` such as hdf5."""
    if promised not in (None, steps):
        cure = "download or record it again"
        if kind in ("arrow", "parquet"):
            cure = (
                f"Minari takes batches of 32,768 rows of {kind} files for episodes, so record it with data_format='hdf5', or in "
                "shorter episodes"
            )
        raise UserError(f"{where} has {promised} steps and its episodes {steps} together: {cure}.")


def _jpeg(dataset: Any) -> list[str]:
    """Return the parts of the observation that were stored as JPEG."""
    from minari.dataset.minari_storage import is_image_space

    def pictures(space: Any, name: str = "") -> Iterator[str]:
        inner = getattr(space, "spaces", None)
        if inner is None:
            if is_image_space(space):
                yield name or "observation"
            return
        for key, part in inner.items() if isinstance(inner, Mapping) else enumerate(inner):
            yield from pictures(part, f"{name}/{key}".lstrip("/"))

    return sorted(pictures(dataset.observation_space))


def _doubts(about: Mapping[str, Any]) -> Iterator[str]:
    """Yield warnings about a data set that is read nevertheless."""
    where = f"Minari data set {about['dataset_id']}"
    if equal := about["equal_episodes"]:
        yield (
            f"{where} has {equal} episode(s) that equal an earlier one: Minari's combine_datasets joins complete data sets where "
            "filtered ones are given; learners see these episodes as often as they occur."
        )
    if pictures := about["jpeg_pictures"]:
        yield (
            f"{where} stores the pictures {', '.join(pictures)} as JPEG, so they differ from what the environment showed: record "
            "with jpeg_encoding=False to have them exact."
        )


def _digest(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a hash of an episode's observations, actions and rewards."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("obs", "action", "next_obs", "reward"):
        digest.update(np.ascontiguousarray(columns[name]).data)
    return digest.digest()


def _recorded(dataset: Any, where: str) -> Iterator[Any]:
    """Yield Minari's episodes; its HDF5 file is first read in a child process, which can be abandoned."""
    file = Path(getattr(getattr(dataset, "storage", None), "data_path", ".")) / "main_data.hdf5"
    if file.is_file():
        check_hdf5(file)
    with reading(where, "is damaged", "download or record it again"):
        episodes = iter(dataset.iterate_episodes())
    while True:
        with reading(where, "is damaged", "download or record it again"):
            episode = next(episodes, None)
            if episode is not None:
                _check_numbers(episode)
        if episode is None:
            return
        yield episode


def _check_numbers(episode: Any) -> None:
    """Refuse, within a guard, an episode whose parts are not arrays of numbers."""
    columns = {name: np.asarray(getattr(episode, name)) for name in ("rewards", "actions", "terminations", "truncations")}
    for name, part in (*columns.items(), *parts(episode.observations)):
        if part.ndim == 0 or part.dtype.kind not in "biuf" or (name == "rewards" and part.ndim != 1):
            raise ValueError(f"{name} of shape {part.shape} and type {part.dtype}")


def _episode(episode: Any, where: str) -> dict[str, NDArray[Any]]:
    """Return one episode's columns, (T, ...) each; ``success`` is NaN if its infos do not report it."""
    steps, number = len(episode.rewards), episode.id
    flat = []
    for name, part in parts(episode.observations):
        if len(part) != steps + 1 or part.dtype.kind not in "biuf":
            raise UserError(
                f"{where}: episode {number} has {len(part)} entries of {part.dtype} in observations ({name}) for {steps} "
                "steps: one vector of numbers more than steps is needed, record the episode again."
            )
        flat.append(part.reshape(steps + 1, -1))
    obs = np.concatenate(flat, axis=1)
    action = np.asarray(episode.actions)
    if action.ndim != 2 or len(action) != steps:
        raise UserError(f"{where}: episode {number} has actions of shape {action.shape} for {steps} steps: one vector per step.")
    ended = np.asarray(episode.terminations).reshape(-1)
    cut = np.asarray(episode.truncations).reshape(-1)
    for key, flags in (("terminations", ended), ("truncations", cut)):
        if len(flags) != steps:
            raise UserError(f"{where}: episode {number} has {len(flags)} {key} for {steps} steps: record the episode again.")
        check_flags(flags, f"{where}: episode {number}: key {key!r}")
    if cut[:-1].any():
        raise UserError(
            f"{where}: episode {number} is truncated after step {int(cut.argmax())} of {steps} and goes on: record two episodes."
        )
    return {
        "obs": obs[:-1],
        "action": action.astype(np.float32),
        "next_obs": obs[1:],
        "reward": np.asarray(episode.rewards),
        "terminated": ended.astype(bool),
        "success": _success(episode.infos or {}, steps, f"{where}: episode {number}"),
    }


def _success(infos: Mapping[str, Any], steps: int, where: str) -> NDArray[np.float32]:
    """Return 1 for steps that solved the task, else 0, (T,); NaN if it is not reported."""
    key = next((key for key in SUCCESS if infos.get(key) is not None), None)
    if key is None:
        return np.full(steps, np.nan, dtype=np.float32)
    try:
        values = np.asarray(infos[key]).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: infos {key!r} holds something other than numbers ({error}): store 0, 1, or NaN.") from error
    if values.ndim == 0 or len(values) not in (steps, steps + 1) or values.size != len(values):
        raise UserError(f"{where}: infos {key!r} has shape {values.shape} for {steps} steps: store one flag per step.")
    values = values.reshape(-1)[-steps:]  # infos start with those of the reset
    check_flags(np.where(np.isnan(values), 0.0, values), f"{where}: infos {key!r}")
    return values
