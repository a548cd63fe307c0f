"""LeRobot's data sets (LeRobotDataset v3.0 and v2.1): robot episodes with states, actions, films and tasks in words.

The folder is described in :mod:`lightning_pbrl.data.lerobot_folder`, films in :mod:`lightning_pbrl.data.lerobot_frames`. A row is
a frame: what was observed, the action that followed, and ``next.reward``, ``next.success``, ``next.done`` of what came of it.

An episode of T rows has T observations, so nothing is known of what followed its last action. That row repeats its own
observation, and is drawn by learners only where it is terminal, since a terminal has no future value.
``next.done`` does not tell a terminal from a time limit: LeRobot writes "terminated or truncated". ``end`` decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_pbrl.data.actions import Bounds, Scaling
from lightning_pbrl.data.draft import Draft, Rows
from lightning_pbrl.data.guard import listed, parse_json, reading
from lightning_pbrl.data.hdf5 import cached
from lightning_pbrl.data.interventions import recorded
from lightning_pbrl.data.lerobot_folder import Folder, choose, numbers, open_folder, scan
from lightning_pbrl.data.lerobot_frames import read_frames
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import Finite, check_choice, check_flags
from lightning_pbrl.errors import UserError

STATES = ("observation.state", "observation.environment_state")
"""Keys that LeRobot's own policies read as the state, in this order."""

End = Literal["success", "terminated", "truncated"]
"""Meaning of the end of an episode: terminal where it is a success, terminal wherever it is done, or a time limit."""

Stats = Literal["stats"]
"""Word for the range in ``meta/stats.json``."""

REWARD, SUCCESS, DONE = "next.reward", "next.success", "next.done"

INTERVENTIONS = ("intervention", "complementary_info.is_intervention")
"""Keys of the flags that say where a person acts: LeRobot's own (its DAgger rollouts, 0.6.1), and that of many recorders."""

_INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # LeRobot's own, in every data set

_READER = 2
"""Version of the reader, raised whenever it reads the same data differently; cached copies are then made anew."""


def recognises(path: str | Path) -> bool:
    """Return True if ``path`` is a folder with LeRobot's ``meta/info.json``."""
    return (Path(path) / "meta/info.json").is_file()


def read_lerobot(
    path: str | Path,
    state: Sequence[str] | None = None,
    camera: str | None = None,
    size: int | None = 64,
    action: str = "action",
    intervention: str | None = None,
    tasks: Sequence[str] | None = None,
    episodes: Sequence[int] | None = None,
    end: End | None = None,
    cache_dir: str | Path | None = None,
    action_bounds: Bounds | Stats | None = None,
    clip_actions: bool = False,
) -> Transitions:
    """Read one data set into one table.

    Args:
        path: the folder that has ``meta``, ``data`` and ``videos``.
        state: keys of the observation, concatenated; None for those of :data:`STATES` that are there.
        camera: key of the pictures, for instance ``observation.images.top``; None for no pictures.
        size: side of the square pictures, pixels, to which the whole picture is resized; None for the film's own, if square.
        action: key of the actions.
        intervention: key of the flags of steps in which a person acted; None for that of :data:`INTERVENTIONS` that is there.
        tasks: read only episodes that have one of these tasks; None for all.
        episodes: read only these ``episode_index``; None for all.
        end: meaning of the end of an episode, where ``next.done`` is set (without that column, the last row). ``success``: a
            terminal where ``next.success`` is also set. ``terminated``: always a terminal. ``truncated``: never. None:
            ``success`` if there is ``next.success``, else ``truncated``.
        cache_dir: folder for memory-mapped copies of rows and of pictures, which the next run opens at once; None for none.
        action_bounds: low and high of the actions, which become -1 and 1; ``stats`` for the least and largest in
            ``meta/stats.json``, where an entry that never moves becomes 0. None if actions are in [-1, 1].
        clip_actions: whether the robot itself clips actions; otherwise those beyond their bounds are refused.

    Returns:
        The data, episodes by number. ``about`` keeps the version, ``fps``, ``robot_type``, the text of each task
        (``tasks``), number and tasks of each episode (``demos``, ``episode_tasks``), keys and sizes of the observation,
        ``action_bounds``, ``end``, ``interventions`` (:mod:`lightning_pbrl.data.interventions`) where there is a key of them,
        and keys that are not read. It counts ``actions_clipped`` and ``done_inside`` (rows with
        ``next.done`` before the last of an episode).

    Raises:
        UserError: if a package of the extra ``lerobot`` is missing; if the folder is incomplete, damaged or of another
            version; for a key, task or episode that is not there; if numbers are NaN or infinite, flags neither 0 nor 1,
            or actions leave their bounds; for a film that lacks frames.
    """
    if end is not None:
        check_choice("end", end, End)
    if isinstance(action_bounds, str):
        check_choice("action_bounds", action_bounds, Stats)
    folder = open_folder(path)
    chosen, keys = choose(folder, tasks, episodes), _keys(folder, state, action, intervention, end)
    bounds = _stats(folder, action) if action_bounds == "stats" else action_bounds
    rows_of = {folder.path / folder.episodes.file[place] for place in chosen}
    settings = {"reader": ["lerobot", _READER], "keys": keys, "chosen": chosen.tolist(), "bounds": bounds, "clip": clip_actions}
    settings["files"] = _state(sorted(rows_of | set((folder.path / "meta").rglob("*.parquet"))))

    def write(draft: Draft) -> None:
        _write(draft, folder, chosen, keys, bounds, clip_actions)

    found = cached(folder.path / "meta/info.json", settings, write, cache_dir, folder.path.resolve().name)
    if camera is None:
        return found
    frames, digest = read_frames(folder, chosen, camera, size, cache_dir)
    shown = hashlib.blake2b(f"{found.fingerprint} {digest}".encode(), digest_size=16).hexdigest()
    about = {**found.about, "camera": camera}
    parts: dict[str, Any] = {"drawable": found.drawable, "frames": frames, "success_unknown": found.success_unknown}
    sizes = (found.obs_dim, found.action_dim, about, shown)
    return Transitions(found.packed, found.episodes.offsets, found.reward, found.success, *sizes, **parts)


class _Keys(NamedTuple):
    """Columns to read: observation, action, interventions, then reward, success and done if they are there; ``end``, decided."""

    state: list[str]
    action: str
    intervention: str | None
    reward: bool
    success: bool
    done: bool
    end: End

    @property
    def flags(self) -> list[str]:
        """Columns of flags, as far as they are there."""
        named = ((SUCCESS, self.success), (DONE, self.done), (self.intervention or "", self.intervention is not None))
        return [key for key, there in named if there]


def _keys(folder: Folder, state: Sequence[str] | None, action: str, intervention: str | None, end: End | None) -> _Keys:
    """Return the columns to read, after checks of their names."""
    own = [key for key in folder.numeric if key.startswith("observation")]
    state = list(state) if state is not None else [key for key in STATES if key in own]
    if intervention is None:
        intervention = next((key for key in INTERVENTIONS if _size(folder, key) == 1), None)
    for name, keys in (("state", state), ("action", [action]), ("intervention", [intervention] if intervention else [])):
        if missing := [key for key in keys if key not in folder.numeric]:
            raise UserError(
                f"{folder.path} has no key {missing[0]!r} of numbers (it has {listed(folder.numeric)}): correct {name}."
            )
    if intervention and _size(folder, intervention) != 1:
        raise UserError(f"{folder.path}: key {intervention!r} has several numbers a row, a flag is one: correct intervention.")
    if not state or len(set(state)) < len(state):
        what = "names a key twice" if state else f"is empty: neither {' nor '.join(STATES)} is there"
        raise UserError(f"{folder.path}: state {what}: choose among {listed(own or folder.numeric)}.")
    reward, success, done = (key in folder.features for key in (REWARD, SUCCESS, DONE))
    if end == "success" and not success:
        raise UserError(f"{folder.path} has no key {SUCCESS!r}, so end cannot be success: set end to terminated or truncated.")
    return _Keys(state, action, intervention, reward, success, done, end or ("success" if success else "truncated"))


def _size(folder: Folder, key: str) -> int:
    """Return how many numbers a row of a key has; 0 for a key that is not there or holds none."""
    return int(np.prod(folder.features[key]["shape"])) if key in folder.numeric else 0


def _stats(folder: Folder, action: str) -> list[list[float]]:
    """Return least and largest of each action entry; one that never moves is given the same room on both sides."""
    file = folder.path / "meta/stats.json"
    with reading(file, f"does not give the range of {action!r}", "set action_bounds to [low, high] of the actions' units"):
        stats = parse_json(file.read_bytes())[action]
        low, high = (np.asarray(stats[name], dtype=np.float64).reshape(-1) for name in ("min", "max"))
        still = (low == high).astype(np.float64)
        return [(low - still).tolist(), (high + still).tolist()]


def _state(files: Sequence[Path]) -> str:
    """Return a hash of names, sizes and times of change of files."""
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return hashlib.blake2b(json.dumps(states).encode(), digest_size=16).hexdigest()


def _write(draft: Draft, folder: Folder, chosen: NDArray, keys: _Keys, bounds: Any, clip: bool) -> None:
    """Convert the chosen episodes to a draft of the library's own."""
    known, where = folder.episodes, str(folder.path)
    sizes = {key: _size(folder, key) for key in [*keys.state, keys.action]}
    layout, action_dim = {key: sizes[key] for key in keys.state}, sizes[keys.action]
    index = {text: number for number, text in folder.tasks.items()}
    columns = list(dict.fromkeys([*sizes, *([REWARD] if keys.reward else []), *keys.flags]))
    about: dict[str, Any] = {
        "format": "lerobot",
        "folder": folder.path.resolve().name,
        "codebase_version": folder.info["codebase_version"],
        "fps": folder.info["fps"],
        "robot_type": folder.info.get("robot_type"),
        "tasks": {str(number): text for number, text in folder.tasks.items()},
        "demos": known.number[chosen].tolist(),
        "episode_tasks": [[index.get(text, text) for text in known.tasks[place]] for place in chosen.tolist()],
        "observation": layout,
        "action": keys.action,
        "action_bounds": None if bounds is None else np.asarray(bounds, dtype=float).tolist(),
        "end": keys.end,
        "cameras": folder.cameras,
        "keys_not_read": [key for key in folder.features if key not in (*columns, *folder.cameras, *_INDICES)],
    }
    draft.begin(sum(layout.values()), action_dim, about)
    told = " (action_bounds: stats takes the least and largest of meta/stats.json)" if bounds is None else ""
    scaling = Scaling(f"{where}: key {keys.action!r}{told}", bounds, clip)
    offsets = np.concatenate([[0], known.length[chosen].cumsum()])
    record = _Record(draft, scaling, keys, sizes, where, offsets)
    for batch in scan(folder, chosen, columns):
        record.see(batch)
    record.finish(about)


class _Record:
    """Rows on their way from record batches to a draft; the last one waits for the observation that follows."""

    def __init__(
        self, draft: Draft, scaling: Scaling, keys: _Keys, sizes: dict[str, int], where: str, offsets: NDArray[np.int64]
    ) -> None:
        self.draft, self.scaling, self.keys, self.sizes, self.where, self.offsets = draft, scaling, keys, sizes, where, offsets
        self.finite = {key: Finite(f"{where}: key {key!r}") for key in [*sizes, REWARD]}
        self.held: Rows = np.empty((0, draft.width), dtype=np.float32)
        self.last = np.zeros(offsets[-1], dtype=bool)
        self.last[offsets[1:] - 1] = True
        self.terminated = np.zeros(offsets[-1], dtype=bool)
        self.success = np.zeros(offsets[-1], dtype=bool)
        self.person = np.zeros(offsets[-1], dtype=bool)
        self.reward = np.full(offsets[-1], np.nan, dtype=np.float32)
        self.seen = self.inside = 0

    def see(self, batch: Any) -> None:
        """Take the next rows."""
        draft, count = self.draft, len(batch)
        here = slice(self.seen, self.seen + count)
        self._ends(batch, here)
        rows = np.empty((len(self.held) + count, draft.width), dtype=np.float32)
        rows[: len(self.held)] = self.held
        new, at = rows[len(self.held) :], 0
        for key in [*self.keys.state, self.keys.action]:
            values, size = self._column(batch, key, self.sizes[key]), self.sizes[key]
            with np.errstate(over="ignore"):
                self.finite[key].see(values.astype(np.float32, copy=False))
            scaled = key == self.keys.action and not self.finite[key].bad
            new[:, at : at + size] = self.scaling.scale(values) if scaled else values
            at += size
        last = self.last[self.seen - len(self.held) : here.stop]
        obs, next_obs = (rows[:, at : at + draft.obs_dim] for at in (0, draft.layout["next_obs"][0]))
        next_obs[:-1] = obs[1:]
        next_obs[last] = obs[last]
        new[:, -3], new[:, -2], new[:, -1] = np.nan, self.terminated[here], self.last[here] & ~self.terminated[here]
        self.held, self.seen = rows[-1:], here.stop
        draft.append(rows[:-1], len(rows) - 1)

    def _ends(self, batch: Any, here: slice) -> None:
        """Read reward, success and done, and decide which rows are terminal."""
        if self.keys.reward:
            self.reward[here] = self._column(batch, REWARD)
            self.finite[REWARD].see(self.reward[here])
        flags: dict[str | None, NDArray[np.bool_]] = {}
        for key in self.keys.flags:
            values = self._column(batch, key)
            check_flags(values, f"{self.where}: key {key!r}")
            flags[key] = values.astype(bool)
        self.success[here], self.person[here] = flags.get(SUCCESS, False), flags.get(self.keys.intervention, False)
        done = flags.get(DONE, self.last[here])
        self.inside += int((done & ~self.last[here]).sum())
        if self.keys.end != "truncated":
            self.terminated[here] = done & (flags[SUCCESS] if self.keys.end == "success" else True)

    def _column(self, batch: Any, key: str, size: int | None = None) -> NDArray[Any]:
        return numbers(batch, key, f"{self.where}: key {key!r}", size)

    def finish(self, about: dict[str, Any]) -> None:
        """Write the last row and everything else."""
        self.draft.append(self.held, len(self.held))
        for check in self.finite.values():
            check.check()
        about |= {"actions_clipped": self.scaling.check(), "done_inside": self.inside}
        if self.keys.intervention is not None:
            about["interventions"] = recorded(torch.from_numpy(self.person), torch.from_numpy(self.offsets))
        drawable = np.flatnonzero(~self.last | self.terminated)
        if not len(drawable):
            raise UserError(
                f"{self.where} has episodes of one row only, and no terminals: nothing is known of what followed them."
            )
        self.draft.finish(
            torch.from_numpy(self.offsets),
            torch.from_numpy(self.reward),
            about,
            success=torch.from_numpy(self.success) if self.keys.success else None,
            drawable=None if len(drawable) == len(self.last) else torch.from_numpy(drawable),
        )
