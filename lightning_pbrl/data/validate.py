"""What every reader checks before a number reaches a learner; each error names the file, the key and the cure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_pbrl.errors import UserError

ACTION_TOLERANCE = 1e-4
"""How far an action may leave [-1, 1] and still count as rounding; it is then clipped."""

_MATRICES = ("obs", "action", "next_obs")  # (N, d); all other columns have one number per row
_REQUIRED = ("obs", "action", "next_obs")


def check_columns(
    columns: Mapping[str, NDArray], file: str | Path, names: Mapping[str, str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Columns that are numeric, finite, of fitting shapes and with actions in [-1, 1].

    Args:
        columns: arrays by the library's names: obs (N, O), action (N, A), next_obs (N, O) and, where there are any,
            reward, terminated, truncated, success ..., each (N,) or (N, 1).
        file: where they come from, for the messages.
        names: what a column is called in the file, where that differs.

    Returns:
        The same columns as float32, matrices (N, d) and all others (N,); actions clipped to [-1, 1].

    Raises:
        UserError: for a missing or empty column, values that are not numbers, NaN or infinity (with the first such
            row), lengths or shapes that do not fit together, and actions outside [-1, 1].
    """
    called = {name: (names or {}).get(name, name) for name in (*columns, *_REQUIRED)}
    for name in _REQUIRED:
        if name not in columns:
            raise UserError(f"{file} has no key {called[name]!r}: write the file again with it.")
    arrays = {name: _array(values, f"{file}: key {called[name]!r}") for name, values in columns.items()}
    rows = len(arrays["obs"])
    if rows == 0:
        raise UserError(f"{file}: key {called['obs']!r} has no rows: give a file with data.")
    checked = {}
    for name, values in arrays.items():
        where = f"{file}: key {called[name]!r}"
        checked[name] = _numbers(values, name in _MATRICES, rows, where, called["obs"])
    if checked["next_obs"].shape != checked["obs"].shape:
        raise UserError(
            f"{file}: key {called['next_obs']!r} has shape {checked['next_obs'].shape} and {called['obs']!r} has "
            f"{checked['obs'].shape}: both must be equal, one next observation per row."
        )
    checked["action"] = _actions(checked["action"], f"{file}: key {called['action']!r}")
    return checked


def _array(values: object, where: str) -> NDArray:
    """One column as an array with at least one axis."""
    try:
        return np.atleast_1d(np.asarray(values))
    except ValueError as error:
        raise UserError(f"{where} has rows of unequal size: store it as one plain float32 array.") from error


def _numbers(values: NDArray, matrix: bool, rows: int, where: str, obs: str) -> NDArray[np.float32]:
    """One column as finite float32 of shape (N, d) or (N,)."""
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where} holds {values.dtype} instead of numbers: store it as a plain float32 array.")
    if matrix and (values.ndim != 2 or values.shape[1] == 0):
        raise UserError(f"{where} has shape {values.shape}: it must be (rows, size), one flat vector per row.")
    if not matrix and values.shape[1:] not in ((), (1,)):
        raise UserError(f"{where} has shape {values.shape}: it must be (rows,) or (rows, 1).")
    if len(values) != rows:
        raise UserError(f"{where} has {len(values)} rows and {obs!r} has {rows}: cut both to the same rows.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
        values = np.ascontiguousarray(values if matrix else values.reshape(-1), dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        bad = ~finite if finite.ndim == 1 else ~finite.all(axis=1)
        raise UserError(
            f"{where} is NaN or infinite in {int(bad.sum())} row(s), the first is row {int(bad.argmax())}: "
            "drop those episodes or repair them."
        )
    return values


def _actions(action: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """Actions clipped to [-1, 1], refused when that would change more than rounding."""
    beyond = np.abs(action).max(axis=1) > 1 + ACTION_TOLERANCE
    if beyond.any():
        row = int(beyond.argmax())
        raise UserError(
            f"{where} leaves [-1, 1] in {int(beyond.sum())} row(s), the first is row {row} with "
            f"{float(np.abs(action[row]).max()):.4g}: rescale actions to [-1, 1] before storing them."
        )
    return np.clip(action, -1.0, 1.0)
