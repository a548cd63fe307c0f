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

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_pbrl.data.actions import Bounds, into_range
from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.data.guard import declared
from lightning_pbrl.data.pickles import Record, load_records
from lightning_pbrl.data.preference_npz import Undecided, adjacent_answers, check_different
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import check_choice, check_finite
from lightning_pbrl.errors import UserError

SET = ("imitation.algorithms.preference_comparisons", "PreferenceDataset")
CLASSES = (".".join(SET), "imitation.data.types.TrajectoryWithRew")
PARTS = ("obs", "acts", "rews")
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
    fragments, label = _content(path)
    if capacity is not None and not 1 <= capacity <= len(label):
        raise UserError(f"{path} has {len(label)} pairs and capacity is {capacity}: choose 1 to {len(label)}, or null for all.")
    kept = np.arange(len(label))[:capacity]
    if undecided == "drop":
        kept = kept[label[kept] != 0.5]
        if not len(kept):
            raise UserError(f"{path} prefers neither fragment of any pair and undecided is drop: choose equal or skip.")
    obs, action, reward = (part[kept] for part in _stacked(fragments, path))
    pairs, _, steps, size = action.shape
    check_different(obs, action, label[kept], kept, path)
    done, clipped = into_range(action.reshape(-1, size), f"{path}: 'acts'", action_bounds, clip_actions)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    about: dict[str, Any] = {
        "format": "imitation_preferences",
        "file": {"name": path.name, "bytes": path.stat().st_size, "sha256": digest},
        "pairs": pairs,
        "undecided": undecided,
        "actions_clipped": clipped,
    }
    before, after = (torch.from_numpy(part.reshape(len(done), -1)) for part in (obs[:, :, :-1], obs[:, :, 1:]))
    offsets = torch.arange(2 * pairs + 1) * steps
    last = torch.zeros(len(done), dtype=torch.bool)
    last[offsets[1:] - 1] = True
    paid = torch.from_numpy(reward.reshape(-1))
    source = Transitions.from_columns(before, torch.from_numpy(done), after, offsets, paid, truncated=last, about=about)
    value = torch.from_numpy(label[kept])
    return source, adjacent_answers(value, torch.zeros(pairs, dtype=torch.bool), steps, undecided)


def _content(path: Path) -> tuple[list[tuple[Record, Record]], NDArray[np.float32]]:
    """Return the pairs of fragments, N, and P(second preferred), (N,)."""
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
    return list(zip(*sides, strict=True)), label


def _stacked(fragments: list[tuple[Record, Record]], path: Path) -> list[NDArray[np.float32]]:
    """Return observations (N, 2, k + 1, O), actions (N, 2, k, A) and rewards (N, 2, k)."""
    parts = [[[_array(each, name, path) for each in pair] for pair in fragments] for name in PARTS]  # views of the file
    size = sum(array.nbytes for part in parts for pair in part for array in pair)
    declared(size, path.stat().st_size, f"{path}, fragments repeated,", AGAIN)
    obs, action, reward = (part[0][0].shape for part in parts)
    if len(obs) != 2 or len(action) != 2 or obs[0] != action[0] + 1 or reward != action[:1] or 0 in (*obs, *action):
        raise UserError(
            f"{path} has obs {obs}, acts {action} and rews {reward} in pair 0: save vectors, (k + 1, O), (k, A) and (k,), with "
            "continuous actions."
        )
    stacked = []
    for name, part, shape in zip(PARTS, parts, (obs, action, reward), strict=True):
        if odd := [number for number, pair in enumerate(part) if any(array.shape != shape for array in pair)]:
            raise UserError(f"{path}: {name!r} of pair {odd[0]} is not {shape}, as in pair 0: save fragments of one length.")
        with np.errstate(over="ignore"):  # what is too large becomes infinite and is refused
            stacked.append(np.array(part, dtype=np.float32))
        check_finite(stacked[-1], f"{path}: {name!r}")
    return stacked


def _array(record: Record, name: str, path: Path) -> NDArray[Any]:
    try:
        return record.array(name)
    except UserError as error:
        raise UserError(f"{path} {error}") from error
