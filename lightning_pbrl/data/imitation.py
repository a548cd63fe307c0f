"""imitation's trajectories: the folder of ``imitation.data.serialize.save``, a HuggingFace data set in Arrow's stream format.

::

    state.json, dataset_info.json, data-00000-of-0000N.arrow        one row per trajectory:
        obs   lists of T + 1 vectors     acts  lists of T vectors      rews  lists of T numbers (optional)
        infos lists of T texts           terminal  true for complete episodes

Source: Gleave et al., "imitation: Clean Imitation Learning Implementations", arXiv 2211.11972;
github.com/HumanCompatibleAI/imitation (MIT), imitation 1.0.1, ``data/huggingface_utils.py``.

``infos`` are jsonpickle texts, which name classes to build: they are never read. ``terminal`` says that an episode is complete,
and a time limit completes it, too. The last step is therefore ``truncated`` and learners bootstrap through it, unless
``complete`` says that the environment has no time limit. Every step has its true successor.

The package ``pyarrow`` (extra ``arrow``) reads the files; neither imitation nor HuggingFace's ``datasets`` is needed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_pbrl.data.actions import Bounds, Scaling
from lightning_pbrl.data.draft import Draft, pack
from lightning_pbrl.data.file_record import file_record
from lightning_pbrl.data.guard import listed, parse_json, reading
from lightning_pbrl.data.hdf5 import cached
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import Finite, check_choice
from lightning_pbrl.errors import UserError

Complete = Literal["truncated", "terminated"]
"""Meaning of a complete episode's last step: cut by a time limit, or the end of the task."""

COLUMNS = ("obs", "acts", "rews", "terminal")
STEPS = 8_192
"""Steps that are brought into rows at a time, at least one trajectory."""

AGAIN = "save the trajectories again"
_READER = 1
"""Version of the reader, raised whenever it reads the same folder differently; cached copies are then made anew."""


def recognises(path: str | Path) -> bool:
    """Return True if this folder is a HuggingFace data set with imitation's columns."""
    info = Path(path) / "dataset_info.json"
    if not info.is_file() or not (Path(path) / "state.json").is_file():
        return False
    with reading(info, "is not JSON", AGAIN):
        found = parse_json(info.read_bytes())
    return isinstance(found, dict) and {"obs", "acts", "terminal"} <= set(found.get("features") or ())


def read_imitation(
    path: str | Path,
    complete: Complete = "truncated",
    cache_dir: str | Path | None = None,
    action_bounds: Bounds | None = None,
    clip_actions: bool = False,
) -> Transitions:
    """Read the trajectories of a folder into one table; each is an episode.

    Args:
        path: the folder.
        complete: meaning of the last step of an episode that is marked ``terminal``: ``truncated`` by a time limit, or
            ``terminated``, in environments without one.
        cache_dir: folder for a memory-mapped copy, which the next run opens at once; None for no copy.
        action_bounds: low and high of the actions, which become -1 and 1; None if they are on that scale.
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.

    Returns:
        The data. ``about`` keeps the names, sizes and hashes of the files, ``complete``, the number of ``incomplete``
        trajectories, and ``actions_clipped``.

    Raises:
        UserError: if pyarrow or the folder is missing, a file is damaged, a column is missing or of another type, lengths
            contradict each other, numbers are not finite, or actions are discrete or leave [-1, 1].
    """
    state = Path(path) / "state.json"  # rewritten whenever the data are saved
    check_choice("complete", complete, Complete)
    settings: dict[str, Any] = {"reader": ["imitation", _READER], "complete": complete}
    settings |= {"bounds": action_bounds, "clip": clip_actions}
    return cached(state, settings, lambda draft: _write(draft, Path(path), complete, action_bounds, clip_actions), cache_dir)


def data_files(path: str | Path) -> list[Path]:
    """Return the files of a folder in the order of their trajectories, as its ``state.json`` names them.

    Raises:
        UserError: if it cannot be read, or names no file or one that is elsewhere.
    """
    state = Path(path) / "state.json"
    with reading(state, "does not name the files of a data set", AGAIN):
        found = [each["filename"] for each in parse_json(state.read_bytes())["_data_files"]]
        if not found or any(Path(name).name != name for name in found):
            raise ValueError("it names no file, or files elsewhere")
    return [Path(path) / name for name in found]


def _write(draft: Draft, path: Path, complete: Complete, bounds: Bounds | None, clip: bool) -> None:
    """Convert the folder to a draft of the library's own."""
    scaling = Scaling(f"{path}: column 'acts'", bounds, clip)
    finite = {name: Finite(f"{path}: column {name!r}") for name in ("obs", "acts", "rews")}
    lengths, rewards, over = [], [], []
    for obs, action, reward, counts, terminal in _batches(path):
        if not len(draft):
            draft.begin(obs.shape[1], action.shape[1], {"files": [file.name for file in data_files(path)]})
        if (obs.shape[1], action.shape[1]) != (draft.obs_dim, draft.action_dim):
            raise UserError(f"{path} has trajectories of different sizes: save those of one environment in a folder.")
        for name, values in (("obs", obs), ("acts", action), ("rews", reward)):
            if values is not None:
                finite[name].see(values)
        last = counts.cumsum() - 1
        shows = np.ones(len(obs), dtype=bool)  # that an action was taken there
        shows[last + np.arange(1, len(counts) + 1)] = False
        final = np.zeros(len(action), dtype=bool)
        final[last] = True
        ended = np.zeros(len(action), dtype=bool)
        ended[last] = terminal & (complete == "terminated")
        after = np.concatenate([[False], shows[:-1]])
        action = action if finite["acts"].bad else scaling.scale(action)
        rows = pack(obs[shows], action, obs[after], ended, final & ~ended)
        draft.append(rows, len(rows))
        lengths.append(counts)
        over.append(terminal)
        rewards.append(np.full(len(action), np.nan, np.float32) if reward is None else reward)
    if not lengths:
        raise UserError(f"{path} has no trajectories: save some.")
    for check in finite.values():
        check.check()
    about: dict[str, Any] = {
        "format": "imitation",
        "files": [file_record(file) for file in data_files(path)],
        "complete": complete,
        "incomplete": int((~np.concatenate(over)).sum()),
        "actions_clipped": scaling.check(),
    }
    offsets = torch.from_numpy(np.concatenate([[0], np.concatenate(lengths).cumsum()]))
    draft.finish(offsets, torch.from_numpy(np.concatenate(rewards)), about)


Batch = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.int64], NDArray[np.bool_]]
"""Observations (N + M, O), actions (N, A), rewards (N,), steps (M,) and ``terminal`` (M,) of M trajectories."""


def _batches(path: Path) -> Iterator[Batch]:
    """Yield the trajectories of the folder, about :data:`STEPS` steps at a time."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ModuleNotFoundError as error:
        raise UserError("The package 'pyarrow' is not installed: pip install 'lightning-pbrl[arrow]'.") from error
    for file in data_files(path):
        if not file.is_file():
            raise UserError(f"{path} has no file {listed([file.name])}, which its state.json names: copy the whole folder.")
        with reading(file, "is truncated or not a stream of Arrow", AGAIN):
            with file.open("rb") as raw:
                mapped = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
            source = pyarrow.BufferReader(pyarrow.py_buffer(mapped))
            stream = pyarrow.ipc.open_stream(source)
        while True:
            with reading(file, "is truncated or not a stream of Arrow", AGAIN):
                try:
                    batch = stream.read_next_batch()
                except StopIteration:
                    if source.tell() != len(mapped):
                        raise ValueError(f"it ends at byte {source.tell():,} of {len(mapped):,}") from None
                    break
                there = batch.schema.names
                batch = batch.select([name for name in COLUMNS if name in there])  # infos are not even looked at
                batch.validate(full=True)
            if missing := [name for name in COLUMNS if name not in there and name != "rews"]:
                raise UserError(f"{file} has no column {missing[0]!r} (it has {listed(there)}): {AGAIN}.")
            acts = batch.column("acts")
            steps = len(acts.flatten()) if hasattr(acts, "flatten") else batch.num_rows
            part = max(STEPS * batch.num_rows // max(steps, 1), 1)
            for first in range(0, batch.num_rows, part):
                yield _batch(batch.slice(first, part), file, first)
                if hasattr(mapped, "madvise"):  # what has been read need not stay; POSIX
                    mapped.madvise(mmap.MADV_DONTNEED)


def _batch(batch: Any, file: Path, first: int) -> Batch:
    """Return the columns of trajectories as arrays; ``first`` is the number of the first in its batch."""
    columns = {name: batch.column(name) for name in batch.schema.names}
    counts, action = _matrix(columns["acts"], "acts", file)
    seen, obs = _matrix(columns["obs"], "obs", file)
    if (seen != counts + 1).any():
        row = int((seen != counts + 1).argmax())
        raise UserError(
            f"{file}: trajectory {first + row} has {seen[row]} observations for {counts[row]} steps: one more is needed."
        )
    if not counts.all():
        raise UserError(f"{file}: trajectory {first + int((counts == 0).argmax())} has no step: leave it out.")
    reward = None
    if "rews" in columns:
        paid, flat = _unlisted(columns["rews"], "rews", file)
        if (paid != counts).any():
            row = first + int((paid != counts).argmax())
            raise UserError(f"{file}: trajectory {row} has other numbers of rews and acts: {AGAIN}.")
        reward = _numbers(flat, "rews", file)
    with reading(f"{file}: column 'terminal'", "holds something other than true and false", AGAIN):
        terminal = columns["terminal"].to_numpy(zero_copy_only=False)
        if terminal.dtype != np.bool_:
            raise ValueError(str(terminal.dtype))
    return obs, action, reward, counts, terminal


def _matrix(column: Any, name: str, file: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the number of vectors of each trajectory, (M,), and all of them, (n, d)."""
    counts, vectors = _unlisted(column, name, file)
    widths, flat = _unlisted(vectors, name, file)
    if len(widths) and (widths != widths[0]).any():
        raise UserError(f"{file}: column {name!r} has vectors of different sizes: save trajectories of one environment.")
    return counts, _numbers(flat, name, file).reshape(len(widths), int(widths[0]) if len(widths) else 0)


def _unlisted(column: Any, name: str, file: Path) -> tuple[NDArray[np.int64], Any]:
    """Return the lengths of a column's lists, and their entries one after the other."""
    if not hasattr(column, "flatten") or not hasattr(column, "value_lengths"):
        what = "vectors (actions must be continuous)" if name == "acts" else "lists"
        raise UserError(f"{file}: column {name!r} holds {column.type} in place of {what}.")
    if column.null_count:
        raise UserError(f"{file}: column {name!r} has rows without a value: {AGAIN}.")
    return column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64), column.flatten()


def _numbers(flat: Any, name: str, file: Path) -> NDArray[np.float32]:
    with reading(f"{file}: column {name!r}", "holds something other than numbers", "save vectors of numbers"):
        values = flat.to_numpy(zero_copy_only=False)
        if values.dtype.kind not in "biuf":
            raise ValueError(str(flat.type))
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float32)
