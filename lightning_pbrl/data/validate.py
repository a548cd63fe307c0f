"""Checks of all readers before a number reaches a learner; each error names the file, the key and the cure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data.actions import ROUNDING, Bounds, into_range
from lightning_pbrl.data.transitions import Transitions, unpack
from lightning_pbrl.errors import UserError

_MATRICES = ("obs", "action", "next_obs")  # (N, d); all other columns have one number per row
_REQUIRED = ("obs", "action", "next_obs")
_FLAGS = ("done", "terminated", "truncated", "success")

CHECKED_ROWS = 16_384
"""Rows of a table that are checked at a time."""


def check_columns(
    columns: Mapping[str, NDArray],
    file: str | Path,
    names: Mapping[str, str] | None = None,
    action_bounds: Bounds | None = None,
    clip_actions: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Check columns and convert them to float32: numeric, finite, matching shapes, flags of 0 and 1, actions in [-1, 1].

    Args:
        columns: arrays by the library's names: obs (N, O), action (N, A), next_obs (N, O) and, optionally, reward,
            terminated, truncated, success ..., each (N,) or (N, 1).
        file: origin of the arrays, for the messages.
        names: names of columns in the file, if they differ.
        action_bounds: low and high of the file's actions, see :func:`lightning_pbrl.data.actions.into_range`.
        clip_actions: whether the environment itself clips actions.

    Returns:
        The same columns as float32, matrices (N, d) and all others (N,); actions clipped to [-1, 1].

    Raises:
        UserError: for a missing or empty column, values that are not numbers, NaN or infinity (with the first such
            row), lengths or shapes that do not fit together, flags that are neither 0 nor 1, and actions outside [-1, 1].
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
    for name in _FLAGS:
        if name in checked:
            check_flags(checked[name], f"{file}: key {called[name]!r}")
    where = f"{file}: key {called['action']!r}"
    checked["action"] = into_range(checked["action"], where, action_bounds, clip_actions, limit=1.0)[0]
    return checked


class Finite:
    """Check, window by window, that numbers are neither NaN nor infinite.

    Args:
        where: file and key, for the message.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.rows = self.bad = self.first = 0

    def see(self, values: NDArray[Any]) -> None:
        """Look at the next rows, (n, d) or (n,)."""
        good = np.isfinite(values)
        if not good.all():
            bad = ~good.reshape(len(good), -1).all(axis=1)
            self.first = self.first if self.bad else self.rows + int(bad.argmax())
            self.bad += int(bad.sum())
        self.rows += len(values)

    def check(self) -> None:
        """Check all rows seen.

        Raises:
            UserError: with the number of bad rows and the first.
        """
        if self.bad:
            raise UserError(
                f"{self.where} is NaN or infinite in {self.bad} row(s), the first is row {self.first}: drop those episodes or "
                "repair them."
            )


def check_finite(values: NDArray[Any], where: str) -> None:
    """Check that all numbers, (N, ...), are finite.

    Raises:
        UserError: with the number of bad rows and the first.
    """
    finite = Finite(where)
    finite.see(values)
    finite.check()


def check_table(table: Transitions, where: str) -> None:
    """Check the assumptions of every learner about a table; for a checked file this costs one extra pass.

    Raises:
        UserError: naming the first row in which an observation, action or next observation is not finite, an action leaves
            [-1, 1], or ``terminated`` or ``truncated`` is neither 0 nor 1. Unfilled rows of a replay do not count.
    """
    if table.forgets:
        return
    found: dict[str, list[Tensor]] = {}
    for rows in table.packed.split(CHECKED_ROWS):
        for name, values in unpack(rows, table.layout).items():
            if name in ("terminated", "truncated"):
                bad = (values != 0) & (values != 1)
            elif name == "action":
                bad = ~(values.abs() <= 1.0 + ROUNDING)
            elif name == "learned_reward":
                continue
            else:
                bad = ~torch.isfinite(values)
            found.setdefault(name, []).append(bad.reshape(len(rows), -1).any(dim=1))
    for name, parts in found.items():
        bad = torch.cat(parts)
        if bool(bad.any()):
            kinds = {"action": "beyond [-1, 1] or not finite", "terminated": "neither 0 nor 1", "truncated": "neither 0 nor 1"}
            what = kinds.get(name, "NaN or infinite")
            raise UserError(
                f"The data of {where} have {name} {what} in {int(bad.sum())} row(s), the first is row {int(bad.int().argmax())}: "
                "correct what made them."
            )


def check_flags(values: NDArray, where: str) -> None:
    """Check that flags, (N,), are all 0 or 1.

    Raises:
        UserError: naming the first row that is neither, NaN included.
    """
    good = np.isin(values, (0, 1))
    if not good.all():
        row = int((~good).argmax())
        raise UserError(f"{where} holds {values[row]} in row {row}: store 0 and 1, or booleans.")


def check_choice(name: str, value: object, choices: Any) -> None:
    """Check an argument of a reader that is one of a few words.

    Args:
        name: of the argument.
        value: what was given.
        choices: a ``Literal`` type.

    Raises:
        UserError: for another word, which an ``if`` would take for one of them.
    """
    if value not in (known := get_args(choices)):
        raise UserError(f"{name} is {value!r}: give one of {', '.join(known)}.")


def _array(values: object, where: str) -> NDArray:
    """Convert one column to an array with at least one axis."""
    try:
        return np.atleast_1d(np.asarray(values))
    except ValueError as error:
        raise UserError(f"{where} has rows of unequal size: store it as one plain float32 array.") from error


def _numbers(values: NDArray, matrix: bool, rows: int, where: str, obs: str) -> NDArray[np.float32]:
    """Return one column as finite float32 of shape (N, d) or (N,)."""
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where} holds {values.dtype} instead of numbers: store it as a plain float32 array.")
    if matrix and (values.ndim != 2 or values.shape[1] == 0):
        raise UserError(f"{where} has shape {values.shape}: it must be (rows, size), one flat vector per row.")
    if not matrix and values.shape[1:] not in ((), (1,)):
        raise UserError(f"{where} has shape {values.shape}: it must be (rows,) or (rows, 1).")
    if len(values) != rows:
        raise UserError(f"{where} has {len(values)} rows and {obs!r} has {rows}: cut both to the same rows.")
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused below
        values = np.ascontiguousarray(values if matrix else values.reshape(-1), dtype=np.float32)
    check_finite(values, where)
    return values
