"""Action scaling: learners read [-1, 1], whatever units a file uses.

All readers follow one rule. Numbers are rescaled if their bounds are known: from the file, or from the user's ``action_bounds``.
Excess beyond [-1, 1] from rounding is clipped. Larger excess is refused, unless the user declares that the environment itself
clips actions (``clip_actions``). The clipped action is then the one that was executed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_pbrl.errors import UserError

ACTION_BOUND = 1.0 - 1e-5
"""Magnitude to which actions are clipped: the log-probability of a squashed policy is infinite at 1."""

ROUNDING = 1e-3
"""Largest excess of an action over [-1, 1] that counts as rounding."""

UNBOUNDED = 1e6
"""Size from which bounds are meaningless: libraries write the largest float, or infinity, for unknown bounds."""

Bounds = list[float] | list[list[float]]
"""Low and high: a number each, or a list each with one number per action entry."""


class Scaling:
    """Scaling of actions to [-1, 1], window by window.

    Args:
        where: file and key, for the messages.
        bounds: low and high in the file's units, each a number or (A,), that become -1 and 1; None if actions are on that
            scale already.
        clip: whether any excess is clipped.
        limit: magnitude at which actions are clipped.
        place: function that describes the location of row n.
    """

    def __init__(
        self,
        where: str,
        bounds: Sequence[ArrayLike] | None = None,
        clip: bool = False,
        limit: float = ACTION_BOUND,
        place: Callable[[int], str] = "row {}".format,
    ) -> None:
        self.where, self.bounds, self.clip, self.limit, self.place = where, bounds, clip, limit, place
        self.rows = self.clipped = self.beyond = 0
        self.worst, self.first = -1.0, (0, 0.0)  # the largest excess; the first row that is beyond, and its magnitude

    def scale(self, action: NDArray) -> NDArray[np.float32]:
        """Scale the next actions, (n, A), finite numbers in the file's units, and clip them at ``limit``.

        Raises:
            UserError: for impossible bounds.
        """
        scaled = action if self.bounds is None else _rescale(action, *_finite(self.bounds, action.shape[1], self.where))
        if np.abs(scaled).max(initial=0.0) <= self.limit:
            self.rows += len(action)
            return scaled.astype(np.float32, copy=False)
        excess = np.abs(scaled).max(axis=1) - 1.0
        beyond = excess > ROUNDING
        if count := int(beyond.sum()):
            row = int(beyond.argmax())
            if not self.beyond:
                self.first = self.rows + row, float(np.abs(scaled[row]).max())
            self.beyond, self.worst = self.beyond + count, max(self.worst, float(excess.max()))
        self.rows, self.clipped = self.rows + len(action), self.clipped + int((excess > 0.0).sum())
        return np.clip(scaled, -self.limit, self.limit).astype(np.float32, copy=False)

    def check(self) -> int:
        """Return the number of rows that were beyond [-1, 1].

        Raises:
            UserError: if actions leave [-1, 1] by more than rounding and ``clip`` is false.
        """
        if self.beyond and not self.clip:
            row, size = self.first
            cure = "rescale actions to [-1, 1] before storing them, or set action_bounds to [low, high] of their units"
            if self.bounds is not None:
                cure = "set action_bounds to the right [low, high] of their units"
            scaled = "" if self.bounds is None else " after rescaling"
            raise UserError(
                f"{self.where} leaves [-1, 1]{scaled} in {self.beyond} row(s) by up to {self.worst:.4g}, the first is "
                f"{self.place(row)} with {size:.4g}: {cure}, or set clip_actions: true where the environment itself clips them."
            )
        return self.clipped


def into_range(
    action: NDArray,
    where: str,
    bounds: Sequence[ArrayLike] | None = None,
    clip: bool = False,
    limit: float = ACTION_BOUND,
    place: Callable[[int], str] = "row {}".format,
) -> tuple[NDArray[np.float32], int]:
    """Scale all actions of a recording at once, (N, A): see :class:`Scaling`.

    Returns:
        Actions (N, A) within ``limit``, and the number of rows that were beyond [-1, 1].

    Raises:
        UserError: for impossible bounds, and for actions that leave [-1, 1] by more than rounding where ``clip`` is false.
    """
    scaling = Scaling(where, bounds, clip, limit, place)
    return scaling.scale(action), scaling.check()


def known(low: ArrayLike, high: ArrayLike) -> NDArray[np.bool_]:
    """Return True where bounds are meaningful, (A,), for low and high of shape (A,)."""
    return (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)


def _finite(bounds: Sequence[ArrayLike], size: int, where: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return low and high, (A,) each, after a check that they are finite and ordered."""
    try:
        low, high = (np.broadcast_to(np.asarray(bound, dtype=np.float64), (size,)) for bound in bounds)
    except ValueError as error:
        raise UserError(
            f"{where} has {size} entries and action_bounds is {list(bounds)}: give [low, high], each a number or one per entry."
        ) from error
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise UserError(f"{where}: action_bounds is {list(bounds)}: give finite numbers, each low below its high.")
    return low, high


def _rescale(action: NDArray, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray:
    """Rescale [low, high] to [-1, 1]; an entry that is on that scale already stays bit for bit the same."""
    own = (low == -1.0) & (high == 1.0)
    return np.where(own, action, (action - low) * (2.0 / (high - low)) - 1.0)
