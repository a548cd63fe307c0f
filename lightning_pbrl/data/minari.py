"""Minari's data sets (github.com/Farama-Foundation/Minari): episodes by name, in a folder of the user's.

The package ``minari`` (extra ``minari``) finds and reads them. An episode of T steps brings T + 1 observations, so every
step has its true successor. Observations that are dictionaries (goal-conditioned tasks) are laid end to end in the
alphabetical order of their keys, at every level: ``achieved_goal``, ``desired_goal``, ``observation`` for AntMaze. Actions
are mapped from the bounds of the data set's action space to [-1, 1].
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_pbrl.data.hdf5 import cached
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import check_columns
from lightning_pbrl.errors import UserError

ACTION_BOUND = 1.0 - 1e-5
"""Actions are clipped to this magnitude: the log-probability of a squashed policy is infinite at 1."""

NAMES = {"obs": "observations", "action": "actions", "next_obs": "observations", "reward": "rewards"}
"""The library's column names and Minari's."""

_READER = 1
"""Raised whenever the reader makes something else of the same data: cached copies are then made anew."""


def open_minari(dataset_id: str, download: bool = False) -> Any:
    """The data set as ``minari.MinariDataset``.

    Args:
        dataset_id: for instance ``mujoco/hopper/medium-v0`` or ``D4RL/door/human-v2``.
        download: fetch it when it is not there (extra ``minari[hf]`` or ``minari[gcs]``, as its host demands).

    Raises:
        UserError: when the package or the data set is missing, or its version is one that the package cannot read.
    """
    try:
        import minari
    except ModuleNotFoundError as error:
        raise UserError(
            f"The package {error.name!r} is not installed; install it with pip install 'lightning-pbrl[minari]'."
        ) from error
    try:
        return minari.load_dataset(dataset_id, download=download)
    except (ValueError, TypeError, KeyError, ImportError, OSError) as error:
        folder = os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets")
        raise UserError(
            f"Minari cannot open {dataset_id!r} in {folder} ({error}): check the name, get it with `minari download "
            f"{dataset_id}` or download: true, or set MINARI_DATASETS_PATH to the folder that holds it."
        ) from error


def read_minari(dataset_id: str, download: bool = False, cache_dir: str | Path | None = None) -> Transitions:
    """Read one data set into one table.

    Args:
        dataset_id: its name, version included.
        download: see :func:`open_minari`.
        cache_dir: folder for a memory-mapped copy, so that the next run opens it at once; None: no copy.

    Returns:
        The data. An episode that neither terminates nor is truncated is truncated where its recording stops. ``about``
        keeps name, environment, Minari's version, the ``observation``'s parts and sizes in order, and the number of
        ``actions_clipped`` (steps with an action beyond the bounds of its space).

    Raises:
        UserError: as :func:`open_minari`; when observations or actions are not vectors of finite numbers, or lengths differ.
    """
    dataset = open_minari(dataset_id, download)
    state = Path(dataset.storage.data_path) / "metadata.json"  # rewritten with every change of the data
    return cached(state, {"reader": ["minari", _READER]}, lambda: _table(dataset), cache_dir)


def parts(obs: Any, name: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of an observation in the order in which they are laid end to end, with names such as ``goal/position``.

    Args:
        obs: an array, or mappings and tuples of such.
        name: what ``obs`` is called.
    """
    if isinstance(obs, Mapping):
        for key in sorted(obs):
            yield from parts(obs[key], f"{name}/{key}".lstrip("/"))
    elif isinstance(obs, tuple):
        for number, part in enumerate(obs):
            yield from parts(part, f"{name}/{number}".lstrip("/"))
    else:
        yield name or "observation", np.asarray(obs)


def _table(dataset: Any) -> Transitions:
    """The data set as a table, without a copy."""
    where, space = f"Minari data set {dataset.id}", dataset.action_space
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or len(space.shape) != 1:
        raise UserError(f"{where} has the action space {space}: methods here need vectors of continuous actions (a Box).")
    episodes, layout = [], {}
    for episode in dataset.iterate_episodes():
        if len(episode.rewards):
            episodes.append(_episode(episode, where))
            layout = {name: int(np.prod(part.shape[1:])) for name, part in parts(episode.observations)}
    if not episodes:
        raise UserError(f"{where} has no steps: give a data set with episodes.")
    table = {name: np.concatenate([columns[name] for columns in episodes]) for name in episodes[0]}
    if np.isfinite(low).all() and np.isfinite(high).all():
        table["action"] = (table["action"] - low) * (2.0 / (high - low)) - 1.0
    clipped = int((np.abs(table["action"]) > 1.0).any(axis=1).sum())
    table["action"] = table["action"].clip(-ACTION_BOUND, ACTION_BOUND)
    table |= check_columns({name: table[name] for name in NAMES}, where, NAMES)
    columns = {name: torch.from_numpy(values) for name, values in table.items()}
    offsets = torch.tensor([0, *(len(columns["reward"]) for columns in episodes)]).cumsum(0)
    last = torch.zeros(int(offsets[-1]), dtype=torch.bool)
    last[offsets[1:] - 1] = True
    about: dict[str, Any] = {
        "format": "minari",
        "dataset_id": dataset.id,
        "env_id": getattr(dataset.env_spec, "id", None),
        "minari_version": str(dataset.minari_version),
        "observation": layout,
        "actions_clipped": clipped,
    }
    success = columns.pop("success", None)
    return Transitions.from_columns(
        **columns,
        offsets=offsets,
        truncated=last & ~columns["terminated"],
        success=success,
        about=about,
    )


def _episode(episode: Any, where: str) -> dict[str, NDArray[Any]]:
    """One episode's columns, (T, ...) each; ``success`` where its infos tell."""
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
    columns = {
        "obs": obs[:-1],
        "action": action.astype(np.float32),
        "next_obs": obs[1:],
        "reward": np.asarray(episode.rewards),
        "terminated": np.asarray(episode.terminations, dtype=bool),
    }
    success = (episode.infos or {}).get("success")
    if success is not None and len(success) >= steps:
        columns["success"] = np.asarray(success, dtype=bool).reshape(len(success))[-steps:]  # infos begin with the reset's
    return columns
