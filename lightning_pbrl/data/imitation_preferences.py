"""imitation's preference sets: the pickle of ``PreferenceDataset.save``, opened without imitation and without running its code.

::

    fragments1, fragments2   lists of N fragments of trajectories, k steps each:
        obs (k + 1, O)   acts (k, A)   rews (k,)   infos (k,)   terminal
    preferences              (N,): P(FIRST preferred)

Source: Gleave et al., arXiv 2211.11972; github.com/HumanCompatibleAI/imitation (MIT), imitation 1.0.1,
``algorithms/preference_comparisons.py`` and ``data/types.py``.

A fragment becomes an episode of k rows, the two of a pair side by side. Every step has its true successor, and the reward that
the environment gave. Limit: ``terminal`` says that an episode was complete, which a time limit does, too, so that the last step
of a fragment counts as truncated. ``infos`` stay closed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_pbrl.data.actions import Bounds, Scaling
from lightning_pbrl.data.draft import pack
from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.data.file_record import file_record
from lightning_pbrl.data.guard import declared
from lightning_pbrl.data.pickles import Record, joined, load_records
from lightning_pbrl.data.preference_npz import Undecided, adjacent_answers, check_different, equal_clips
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import Finite, check_choice
from lightning_pbrl.errors import UserError

SET = ("imitation.algorithms.preference_comparisons", "PreferenceDataset")
CLASSES = (".".join(SET), "imitation.data.types.TrajectoryWithRew")
PARTS = ("obs", "acts", "rews")
PAIRS = 128
"""Pairs that are brought into rows at a time."""

AGAIN = "save the preferences again"


def recognises(path: str | Path) -> bool:
    """Return True if this file begins as a pickle of imitation's preferences."""
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        start = file.read(128)
    return all(name.encode() in start for name in SET)


def read_imitation_preferences(
    path: str | Path,
    capacity: int | None = None,
    undecided: Undecided = "equal",
    action_bounds: Bounds | None = None,
    clip_actions: bool = False,
) -> tuple[Transitions, Labels]:
    """Read the pairs of one file; arguments and results are those of ``read_preference_npz``.

    Raises:
        UserError: if the file is missing, damaged or of other classes; if fragments differ in length or hold no vectors; if
            numbers are not finite, actions leave [-1, 1], a preference is neither 0, 0.5 nor 1, or one of two equal fragments is
            preferred.
    """
    check_choice("undecided", undecided, Undecided)
    path = Path(path)
    sides, label = _content(path)
    if capacity is not None and not 1 <= capacity <= len(label):
        raise UserError(f"{path} has {len(label)} pairs and capacity is {capacity}: choose 1 to {len(label)}, or null for all.")
    kept = np.arange(len(label))[:capacity]
    if undecided == "drop":
        kept = kept[label[kept] != 0.5]
        if not len(kept):
            raise UserError(f"{path} prefers neither fragment of any pair and undecided is drop: choose equal or skip.")
    obs, action, _ = sizes = _sizes(sides[0][0], path)
    steps = action[0]
    size = sum(4 * math.prod(shape) for shape in sizes)
    declared(2 * len(kept) * size, path.stat().st_size, f"{path}, fragments repeated,", AGAIN)
    rows = np.empty((len(kept), 2, steps, 2 * obs[1] + action[1] + 3), dtype=np.float32)
    reward = np.empty((len(kept), 2, steps), dtype=np.float32)
    equal = np.empty(len(kept), dtype=bool)
    scaling = Scaling(f"{path}: 'acts'", action_bounds, clip_actions)
    finite = {name: Finite(f"{path}: {name!r}") for name in PARTS}
    last = np.arange(steps) == steps - 1
    for first in range(0, len(kept), PAIRS):
        part = slice(first, first + PAIRS)
        columns = [_stacked(sides, kept[part], name, shape, path) for name, shape in zip(PARTS, sizes, strict=True)]
        for name, values in zip(PARTS, columns, strict=True):
            finite[name].see(values.reshape(-1, values.shape[-1]))
        seen, taken, reward[part] = columns
        equal[part] = equal_clips(seen, taken)
        taken = taken.reshape(-1, action[1])
        taken = taken if finite["acts"].bad else scaling.scale(taken)
        before, after = (each.reshape(-1, obs[1]) for each in (seen[:, :, :-1], seen[:, :, 1:]))
        rows[part] = pack(before, taken, after, truncated=np.tile(last, 2 * len(seen))).reshape(rows[part].shape)
        for side in sides:
            for pair in kept[part]:
                side[pair] = None  # frees its arrays
    for check in finite.values():
        check.check()
    clipped = scaling.check()
    check_different(equal, label[kept], kept, path)
    about: dict[str, Any] = {
        "format": "imitation_preferences",
        "file": file_record(path),
        "pairs": len(kept),
        "undecided": undecided,
        "actions_clipped": clipped,
    }
    offsets = torch.arange(2 * len(kept) + 1) * steps
    packed, paid = torch.from_numpy(rows.reshape(-1, rows.shape[-1])), torch.from_numpy(reward.reshape(-1))
    source = Transitions(packed, offsets, paid, None, obs[1], action[1], about)
    value = torch.from_numpy(label[kept])
    return source, adjacent_answers(value, torch.zeros(len(kept), dtype=torch.bool), steps, undecided)


def _content(path: Path) -> tuple[list[list[Any]], NDArray[np.float32]]:
    """Return the first and the second fragments, N each, and P(second preferred), (N,)."""
    found = load_records(path, CLASSES)
    sides: list[Any] = [found.state.get(f"fragments{side}") for side in (1, 2)] if isinstance(found, Record) else [None]
    if not all(isinstance(side, list) and side and all(isinstance(each, Record) for each in side) for side in sides):
        raise UserError(f"{path} holds no pairs of fragments of imitation 1.0: {AGAIN}, with PreferenceDataset.save.")
    label = 1 - _array(found, "preferences", path).astype(np.float32).reshape(-1)
    if not len(label) == len(sides[0]) == len(sides[1]):
        raise UserError(f"{path} has {len(sides[0])} and {len(sides[1])} fragments and {len(label)} preferences: {AGAIN}.")
    if (wrong := ~np.isin(label, (0, 0.5, 1))).any():
        pair = int(wrong.argmax())
        raise UserError(
            f"{path} prefers the first of pair {pair} with probability {1 - label[pair]:.4g}: keep answers of 0, 0.5 and 1, as "
            "gatherers with sample=True give."
        )
    return sides, label


def _sizes(record: Record, path: Path) -> list[tuple[int, ...]]:
    """Return the shapes of a fragment's observations, (k + 1, O), actions, (k, A), and rewards, (k,)."""
    obs, action, reward = sizes = [_array(record, name, path).shape for name in PARTS]
    if len(obs) != 2 or len(action) != 2 or obs[0] != action[0] + 1 or reward != action[:1] or 0 in (*obs, *action):
        raise UserError(
            f"{path} has obs {obs}, acts {action} and rews {reward} in pair 0: save vectors, (k + 1, O), (k, A) and (k,), with "
            "continuous actions."
        )
    return sizes


def _stacked(sides: list[list[Any]], pairs: NDArray, name: str, shape: tuple[int, ...], path: Path) -> NDArray[np.float32]:
    """Return one part of the fragments of some pairs, (n, 2, ...)."""
    records = [side[pair] for pair in pairs for side in sides]
    try:
        whole = joined(records, name)
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    if whole is not None and whole.shape[1:] == shape:
        with np.errstate(over="ignore"):  # what is too large becomes infinite and is refused
            return whole.astype(np.float32, copy=False).reshape(len(pairs), 2, *shape)
    found = [_array(record, name, path) for record in records]
    for number, array in enumerate(found):
        if array.shape != shape:
            raise UserError(
                f"{path}: {name!r} of pair {pairs[number // 2]} is not {shape}, as in pair 0: save fragments of one length."
            )
    with np.errstate(over="ignore"):
        return np.concatenate(found, dtype=np.float32, casting="unsafe").reshape(len(pairs), 2, *shape)


def _array(record: Record, name: str, path: Path) -> NDArray[Any]:
    try:
        return record.array(name)
    except UserError as error:
        raise UserError(f"{path} {error}") from error
