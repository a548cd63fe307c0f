"""Labelled pairs of segments in one npz file: the format of IPL, also used for Preference Transformer's human labels.

::

    obs_1, obs_2         (N, k, O)   or the parts of a dict: obs_1.object (N, k, d), obs_1.gripper (N, k, e) ...
    action_1, action_2   (N, k, A)
    label                (N,)        0: the first segment is preferred, 1: the second, 0.5: undecided
    skip_flag            (N,)        optional: 1 where the pair cannot be compared, whatever its label

Sources: Hejna and Sadigh, "Inverse Preference Learning", NeurIPS 2023 (arXiv 2305.15363), who defined the format; Kim et
al., "Preference Transformer", ICLR 2023 (arXiv 2303.00957), who collected the human labels.

A segment becomes an episode of k rows; the two segments of a pair are adjacent. The files hold no reward (it is NaN here),
no end of an episode and nothing after a segment's last step. That row repeats its own observation as ``next_obs``, counts
as truncated and is not ``drawable``. Limit: an end of the task within a segment is not visible.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data.actions import Bounds, into_range
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.file_record import file_record
from lightning_pbrl.data.guard import listed
from lightning_pbrl.data.npz import open_npz, read_npz
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import check_choice, check_flags
from lightning_pbrl.errors import UserError

Undecided = Literal["equal", "skip", "drop"]

_KEY = re.compile(r"obs_[12](\..+)?|action_[12]|label|skip_flag")

Arrays = Mapping[str, NDArray[Any]]


def recognises(path: str | Path) -> bool:
    """Return True if this file has the keys of labelled pairs."""
    if not zipfile.is_zipfile(path):
        return False
    with open_npz(path, "copy it again from its source") as file:
        return {"action_1", "action_2", "label"} <= set(file.members)


def read_preference_npz(
    path: str | Path,
    capacity: int | None = None,
    undecided: Undecided = "equal",
    obs_keys: Sequence[str] | None = None,
    action_bounds: Bounds | None = None,
    clip_actions: bool = False,
) -> tuple[Transitions, Labels]:
    """Read the pairs of one file.

    Args:
        path: the file.
        capacity: read only this many of the first pairs; None reads all.
        undecided: meaning of a label of 0.5: ``equal`` (both are equally good: trained on, with label 0.5), ``skip`` (the
            pair cannot be compared: no label to train on, its segments stay in the data), ``drop`` (the pair and its
            segments are left out).
        obs_keys: parts of a dict observation in the order of concatenation; None for all, sorted by name.
        action_bounds: low and high of the file's actions, which become -1 and 1; None if they are on that scale.
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.

    Returns:
        The segments, 2 k rows per pair, and their labels. ``about`` holds file, settings, keys that are not read, and
        ``actions_clipped``, the number of steps with an action beyond [-1, 1].

    Raises:
        UserError: if the file is missing, damaged or holds pickled objects; if a key is missing, of the wrong type or shape,
            NaN or infinite; if a label is not 0, 0.5 or 1; if one of two equal segments is preferred; if actions leave
            [-1, 1]; if ``capacity`` exceeds the file.
    """
    check_choice("undecided", undecided, Undecided)
    path = Path(path)
    arrays, unread = _read(path)
    parts = _parts(arrays, obs_keys, path)
    _check_shapes(arrays, parts, path)
    label = _labels(arrays, path)
    if capacity is not None and not 1 <= capacity <= len(label):
        raise UserError(f"{path} has {len(label)} pairs and capacity is {capacity}: choose 1 to {len(label)}, or null for all.")
    skipped = _skipped(arrays, len(label), path)
    kept = np.arange(len(label))[:capacity]
    if undecided == "drop":
        kept = kept[(label[kept] != 0.5) & ~skipped[kept]]
        if len(kept) == 0:
            raise UserError(f"{path}: key 'label' is 0.5 for every pair and undecided is drop: choose equal or skip.")
    clips = [[_clips(arrays, f"obs_{clip}{part}", kept, path) for part in parts] for clip in (1, 2)]
    obs = np.stack([np.concatenate(both, axis=-1) for both in clips], axis=1)  # (N, 2, k, O)
    action = np.stack([_clips(arrays, f"action_{clip}", kept, path) for clip in (1, 2)], axis=1)  # (N, 2, k, A)
    check_different(equal_clips(obs, action), label[kept], kept, path)
    pairs, _, steps, size = action.shape
    action, clipped = into_range(
        action.reshape(-1, size),
        f"{path}: keys 'action_1' and 'action_2'",
        action_bounds,
        clip_actions,
        place=lambda row: f"step {row % steps} of clip {row // steps % 2 + 1} of pair {kept[row // (2 * steps)]}",
    )
    action = action.reshape(pairs, 2, steps, size)
    about: dict[str, Any] = {
        "format": "preference_npz",
        "file": file_record(path),
        "pairs": len(kept),
        "undecided": undecided,
        "obs_keys": None if parts == [""] else [part[1:] for part in parts],
        "keys_not_read": unread,
        "actions_clipped": clipped,
    }
    source = _table(obs, action, about)
    return source, adjacent_answers(torch.from_numpy(label[kept]), torch.from_numpy(skipped[kept]), obs.shape[2], undecided)


def write_preference_npz(path: str | Path, source: Transitions, labels: Labels) -> Path:
    """Write the segments that ``labels`` compare, and these labels, as one file, and return ``path``.

    Equal answers become 0.5. The format has no skipped and no pending questions, so they are left out.

    Raises:
        UserError: if no comparison is left to write, or the folder cannot be written.
    """
    answers = labels.preferences()
    if len(answers) == 0 or answers.start.shape[1] != 2:
        raise UserError(f"{path} would hold no comparison: give labels of pairs that were answered or called equal.")
    clips = source.segments(answers.start, answers.length).cpu()  # (N, 2, k, O + A)
    obs, action = clips.split([source.obs_dim, source.action_dim], dim=-1)
    return write_pairs(path, obs, action, answers.value.cpu())


def write_pairs(path: str | Path, obs: Tensor, action: Tensor, label: Tensor) -> Path:
    """Write pairs with their segments, and return ``path``.

    Args:
        path: the file.
        obs: (N, 2, k, O).
        action: (N, 2, k, A).
        label: P(second preferred), (N,).

    Raises:
        UserError: if the folder cannot be written.
    """
    arrays = {"label": label.numpy()}
    for clip in (0, 1):
        arrays |= {f"obs_{clip + 1}": obs[:, clip].numpy(), f"action_{clip + 1}": action[:, clip].numpy()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return Path(path)


def _table(obs: NDArray[np.float32], action: NDArray[np.float32], about: dict[str, Any]) -> Transitions:
    """Convert segments (N, 2, k, O) and (N, 2, k, A) to 2 N episodes of k rows."""
    pairs, _, steps, _ = obs.shape
    next_obs = np.concatenate([obs[:, :, 1:], obs[:, :, -1:]], axis=2)
    last = (torch.arange(2 * pairs * steps) + 1) % steps == 0
    rows = [torch.from_numpy(part.reshape(len(last), -1)) for part in (obs, action, next_obs)]
    return Transitions.from_columns(
        rows[0],
        rows[1],
        rows[2],
        torch.arange(2 * pairs + 1) * steps,
        truncated=last,
        about=about,
        drawable=(~last).nonzero()[:, 0],
    )


def adjacent_answers(value: Tensor, skipped: Tensor, steps: int, undecided: Undecided) -> Labels:
    """Return labels, (N,), of adjacent segments of ``steps`` rows each; those ``skipped``, (N,), carry no value."""
    between = value == 0.5
    if undecided == "skip":
        skipped = skipped | between
    status = torch.where(between, int(Status.EQUAL), int(Status.ANSWERED)).masked_fill(skipped, int(Status.SKIPPED))
    value = value.masked_fill(skipped, float("nan"))
    return Labels(torch.arange(2 * len(value)).view(-1, 2) * steps, steps, value, status)


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read the arrays of the format from a file, and its other keys; checksums are verified and nothing is unpickled."""
    if not path.is_file():
        raise UserError(f"There is no file {path}: check the path, or copy the file from the data set's origin.")
    unread: list[str] = []

    def wanted(key: str) -> bool:
        if not _KEY.fullmatch(key):
            unread.append(key)
        return bool(_KEY.fullmatch(key))

    return read_npz(path, "copy it again from its source", wanted), sorted(unread)


def _numbers(arrays: Arrays, key: str, path: Path) -> NDArray[Any]:
    """Return one array, of numbers of any type."""
    if key not in arrays:
        raise UserError(f"{path} has no key {key!r} (it has {listed(sorted(arrays))}): write the file again with it.")
    if arrays[key].dtype.kind not in "biuf":
        raise UserError(f"{path}: key {key!r} holds {arrays[key].dtype} instead of numbers: store it as float32.")
    return arrays[key]


def _parts(arrays: Arrays, obs_keys: Sequence[str] | None, path: Path) -> list[str]:
    """Return the suffixes of ``obs_1`` and ``obs_2`` in the keys of an observation; "" for one flat array."""
    if obs_keys is None:
        dotted = sorted({key[5:] for key in arrays if key.startswith(("obs_1.", "obs_2."))})
        return [""] if "obs_1" in arrays or not dotted else dotted
    if "obs_1" in arrays or not obs_keys:
        raise UserError(f"{path}: obs_keys is {list(obs_keys)}: name the parts of a dict observation, or leave it null.")
    return [f".{name}" for name in obs_keys]


def _check_shapes(arrays: Arrays, parts: Sequence[str], path: Path) -> None:
    """Check that every array is (N, k, size), with one N and k throughout, and equally wide for both segments."""
    reference = f"obs_1{parts[0]}"
    for before, after in [*(("obs_", part) for part in parts), ("action_", "")]:
        for clip, axes in ((1, 2), (2, 3)):
            key, model = f"{before}{clip}{after}", reference if clip == 1 else f"{before}1{after}"
            shape = _numbers(arrays, key, path).shape
            if len(shape) != 3 or 0 in shape or shape[1] < 2:
                raise UserError(f"{path}: key {key!r} has shape {shape}: store it as (pairs, steps, size), 2 or more steps.")
            if shape[:axes] != arrays[model].shape[:axes]:
                raise UserError(
                    f"{path}: key {key!r} has shape {shape} and {model!r} has {arrays[model].shape}: store the same pairs and "
                    "steps in all arrays, and both clips of a pair alike."
                )
    pairs, shape = len(arrays[reference]), _numbers(arrays, "label", path).shape
    if shape not in ((pairs,), (pairs, 1)):
        raise UserError(f"{path}: key 'label' has shape {shape} and there are {pairs} pairs: store one label for each.")


def _labels(arrays: Arrays, path: Path) -> NDArray[np.float32]:
    """Return the labels of all pairs, (N,)."""
    label = arrays["label"].reshape(-1)
    wrong = ~np.isin(label, (0.0, 0.5, 1.0))
    if wrong.any():
        pair = int(wrong.argmax())
        raise UserError(
            f"{path}: key 'label' is {label[pair]} for pair {pair}: store 0 (first preferred), 1 (second) or 0.5 (undecided; "
            "Preference Transformer's raw files have -1 for it)."
        )
    return label.astype(np.float32)


def _skipped(arrays: Arrays, pairs: int, path: Path) -> NDArray[np.bool_]:
    """Return True for pairs that cannot be compared, (N,)."""
    if "skip_flag" not in arrays:
        return np.zeros(pairs, dtype=bool)
    flags = _numbers(arrays, "skip_flag", path)
    if flags.shape not in ((pairs,), (pairs, 1)):
        raise UserError(f"{path}: key 'skip_flag' has shape {flags.shape} and there are {pairs} pairs: store one flag for each.")
    check_flags(flags.reshape(-1), f"{path}: key 'skip_flag'")
    return flags.reshape(-1).astype(bool)


def equal_clips(obs: NDArray, action: NDArray) -> NDArray[np.bool_]:
    """Return True, (n,), where both segments of a pair are the same, for parts (n, 2, k, ...)."""
    equal: NDArray[np.bool_] = (obs[:, 0, 0] == obs[:, 1, 0]).all(axis=1)  # most pairs differ here
    for part in (obs, action):
        equal[equal] = (part[equal, 0] == part[equal, 1]).all(axis=(1, 2))
    return equal


def check_different(equal: NDArray[np.bool_], label: NDArray, kept: NDArray[np.int64], path: Path) -> None:
    """Refuse a preference for one of two ``equal`` segments, (n,)."""
    wrong = equal & (label != 0.5)
    if wrong.any():
        raise UserError(
            f"{path}: pair {int(kept[wrong.argmax()])} compares a clip with itself and its label is {label[wrong.argmax()]:g}, "
            f"as in {int(wrong.sum())} pair(s): store 0.5, or leave these pairs out."
        )


def _clips(arrays: Arrays, key: str, kept: NDArray[np.int64], path: Path) -> NDArray[np.float32]:
    """Return the pairs ``kept`` of one array, (n, k, size), finite."""
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused
        values = arrays[key][kept].astype(np.float32)
    bad = ~np.isfinite(values).all(axis=(1, 2))
    if bad.any():
        raise UserError(
            f"{path}: key {key!r} is NaN or infinite in {int(bad.sum())} pair(s), the first is pair {int(kept[bad.argmax()])}: "
            "leave these pairs out of the file."
        )
    return values
