"""Simulator states that a data set's file holds beside the transitions, read when somebody wants to see them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_pbrl.data.d4rl import file_rows
from lightning_pbrl.data.hdf5 import finite, open_hdf5, read
from lightning_pbrl.errors import UserError

POSITIONS = "infos/qpos"
"""Key of the positions of all joints in D4RL's files; they alone determine what is seen."""


def has_states(path: str | Path, about: Mapping[str, Any]) -> bool:
    """Return True if the file of these data, ``about`` of D4RL's or robomimic's reader, has simulator states."""
    kind = about.get("format")
    if kind not in ("d4rl", "robomimic") or ("of" in about and kind == "d4rl"):  # rows of a part are not those of the file
        return False
    with open_hdf5(path) as file:
        return POSITIONS in file if kind == "d4rl" else f"data/{about['demos'][0]}/states" in file


def d4rl_positions(path: str | Path, about: Mapping[str, Any]) -> NDArray[np.float64]:
    """Read the positions of every row of a table that :func:`~lightning_pbrl.data.d4rl.read_d4rl` has read, (N, nq).

    Raises:
        UserError: if the file is another one than the table was read from, or has no such key.
    """
    check_file(path, about)
    rows = file_rows(path, about).numpy()
    with open_hdf5(path) as file:
        values = read(file, POSITIONS, ndim=2, dtype=np.float64)
        finite(values, file, POSITIONS)
    if len(values) <= rows.max():
        raise UserError(f"{path}: key {POSITIONS!r} has {len(values)} rows and the data more: download the file again.")
    return values[rows]


def demo_states(path: str | Path, demo: str) -> tuple[str | None, NDArray[np.float64]]:
    """Read the model and the states of one robomimic demonstration.

    Returns:
        The model as MJCF (XML), None if the file has none, and time, positions and velocities by step, (T, 1 + nq + nv).

    Raises:
        UserError: if the file has no states.
    """
    with open_hdf5(path) as file:
        states = read(file, f"data/{demo}/states", ndim=2, dtype=np.float64)
        finite(states, file, f"data/{demo}/states")
        model = file["data"][demo].attribute("model_file")
    return (model if isinstance(model, str) else None), states


def check_file(path: str | Path, about: Mapping[str, Any]) -> None:
    """Check that ``path`` is the file that a table was read from.

    Raises:
        UserError: if its hash is another one.
    """
    if not Path(path).is_file():
        raise UserError(
            f"There is no file {path}: its simulator states are drawn, so give the file that the data were read from."
        )
    with Path(path).open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    if digest != about["file"]["sha256"]:
        raise UserError(f"{path} has changed since the data were read from it: read them again, or give that file.")
