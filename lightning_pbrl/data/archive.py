"""The library's own data format: one safetensors file per data set, opened as a memory map.

A file holds the packed ``rows`` (N, W) float32, the episode ``offsets`` (M + 1,) int64 and the true ``reward`` (N,) float32.
Optional are ``success`` (N,) uint8 (2 in rows where it is unknown), ``drawable`` (D,) int64 if not all rows are drawable, and
``frames`` (N + M, S, S, 3) uint8 if there are images. One JSON record holds the schema version, the sizes, the column layout, the
origin of the data and their fingerprint. safetensors is a JSON header followed by raw tensors
(https://github.com/huggingface/safetensors). It cannot hold code, every language reads it, and a million rows open in
milliseconds because nothing is read before it is used.

``learned_reward`` belongs to a run, not to the data: it is NaN in every file. A loaded table may be written to; the map is
private (copy on write), so the file never changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from lightning_pbrl.data.atomic import replacing as replacing
from lightning_pbrl.data.draft import KEY, SCHEMA_VERSION, UNKNOWN, WINDOW, Draft
from lightning_pbrl.data.guard import parse_json, reading
from lightning_pbrl.data.transitions import Transitions, row_layout
from lightning_pbrl.errors import UserError

_RECORD = {"schema_version": int, "obs_dim": int, "action_dim": int, "layout": dict, "about": dict, "fingerprint": str}
_TENSORS = {"rows", "offsets", "reward", "success", "drawable", "frames"}


def save(transitions: Transitions, path: str | Path) -> Path:
    """Write a data set to ``path``, replacing it atomically, and return ``path``.

    ``learned_reward`` is stored as NaN, whatever the table holds.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    names = ("success", "success_unknown", "drawable", "frames")
    found = {name: getattr(transitions, name) for name in names}
    rest = {name: None if tensor is None else tensor.detach().cpu() for name, tensor in found.items()}
    with replacing(path) as temporary, temporary.open("wb+") as file:
        draft = Draft(file)
        draft.begin(transitions.obs_dim, transitions.action_dim, transitions.about)
        for part in transitions.packed.detach().split(max(WINDOW // (4 * draft.width), 1)):
            rows = part.cpu().numpy().astype(np.float32)
            rows[:, transitions.layout["learned_reward"][0]] = np.nan
            draft.append(rows)
        offsets, reward = transitions.episodes.offsets, transitions.reward.detach().cpu()
        draft.finish(offsets, reward, transitions.about, fingerprint=transitions.fingerprint, **rest)
    return Path(path)


def recognises(path: str | Path) -> bool:
    """Return True if this is a safetensors file with our record, by its header alone."""
    if not Path(path).is_file() or Path(path).suffix != ".safetensors":
        return False
    with Path(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return f'"{KEY}"'.encode() in file.read(min(size, 2**24))


def load(path: str | Path) -> Transitions:
    """Open a data set written by :func:`save`, memory-mapped: rows are read from disk on first use.

    Raises:
        UserError: if the file is missing, truncated, not one of ours, or of a newer schema version.
    """
    with _opened(path) as (file, record):
        names = set(file.keys())
        missing = {"rows", "offsets", "reward"} - names
        if missing:
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}: make the file again.")
        if names - _TENSORS:
            raise UserError(f"{path} has {', '.join(sorted(names - _TENSORS))}, which no version knows: make the file again.")
        rows, offsets, reward = (file.get_tensor(name) for name in ("rows", "offsets", "reward"))
        success = file.get_tensor("success") if "success" in names else None
        drawable = file.get_tensor("drawable") if "drawable" in names else None
        frames = file.get_tensor("frames") if "frames" in names else None
        obs_dim, action_dim, stored = record["obs_dim"], record["action_dim"], record["layout"]
        about, fingerprint = record["about"], record["fingerprint"]
    layout = row_layout(obs_dim, action_dim)
    width = sum(size for _, size in layout.values())
    whole = (
        min(obs_dim, action_dim) >= 0
        and stored == {name: list(place) for name, place in layout.items()}
        and rows.shape[1:] == (width,)
        and rows.dtype == reward.dtype == torch.float32
        and reward.shape == rows.shape[:1]
        and (success is None or success.shape == reward.shape)
        and offsets.dtype == torch.int64
        and offsets.numel() > 1
        and bool((offsets.diff() > 0).all())
        and offsets[[0, -1]].tolist() == [0, len(rows)]
        and (success is None or _flags(success, len(rows)))
        and (drawable is None or _ids(drawable, len(rows)))
        and (frames is None or _pictures(frames, len(rows) + offsets.numel() - 1))
    )
    if not whole:
        raise UserError(f"{path} contradicts itself (rows, columns and episodes do not fit): make the file again.")
    solved = None if success is None else success == 1
    unknown = None if success is None or not bool((success == UNKNOWN).any()) else success == UNKNOWN
    return Transitions(rows, offsets, reward, solved, obs_dim, action_dim, about, fingerprint, drawable, frames, unknown)


def describe(path: str | Path) -> dict[str, Any]:
    """Read a file's record without its rows.

    Returns:
        ``schema_version, obs_dim, action_dim, layout, about, fingerprint`` and the number of ``rows`` and ``episodes``.

    Raises:
        UserError: as :func:`load`.
    """
    with _opened(path) as (file, record):
        rows, offsets = (file.get_slice(name).get_shape()[0] for name in ("rows", "offsets"))
    return {**record, "rows": rows, "episodes": offsets - 1}


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the open file and its record, after checks."""
    if not Path(path).is_file():
        raise UserError(f"There is no data file {path}: check the path, or make one with `lightning-pbrl collect`.")
    damaged = reading(path, "is truncated or not a lightning-pbrl data file", "copy it again or make it anew")
    with damaged, safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        if KEY not in metadata:
            raise UserError(f"{path} is a safetensors file of another program: give one written by lightning-pbrl.")
        record = parse_json(metadata[KEY])
        if record["schema_version"] > SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {record['schema_version']} and this library reads up to "
                f"{SCHEMA_VERSION}: upgrade lightning-pbrl."
            )
        wrong = [name for name, kind in _RECORD.items() if not isinstance(record[name], kind)]
        if wrong:
            raise UserError(f"{path} has {wrong[0]} = {record[wrong[0]]!r}: copy it again or make it anew.")
        yield file, record


def _flags(found: Tensor, rows: int) -> bool:
    """Return True if these are one flag per row: 0, 1 or :data:`UNKNOWN`."""
    return found.shape == (rows,) and found.dtype in (torch.uint8, torch.bool) and int(found.max()) <= UNKNOWN


def _ids(found: Tensor, rows: int) -> bool:
    """Return True if these are ids of a table's rows, at least one."""
    ids = found.dtype == torch.int64 and found.dim() == 1 and found.numel() > 0
    return ids and int(found.min()) >= 0 and int(found.max()) < rows


def _pictures(found: Tensor, steps: int) -> bool:
    """Return True if these are square images, one per time step."""
    return found.dtype == torch.uint8 and found.dim() == 4 and found.shape == (steps, found.shape[1], found.shape[1], 3)
