"""Writer of the library's data files (:mod:`lightning_pbrl.data.archive`): rows come window by window, never all at once.

A reader that has opened somebody else's file appends rows as it reads them. Episodes, and with them ``terminated`` and
``truncated``, are often known only at the end. Rows already written can therefore be read again, changed, dropped and narrowed,
one window at a time. The header comes first in a safetensors file and is known last, so room is kept for it. A draft without a
file lies in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from io import BufferedRandom, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data.transitions import Transitions, row_layout

SCHEMA_VERSION = 4
"""Version of the format, raised whenever an older library could misread a file.

2 added ``drawable``, 3 ``frames``, 4 a success that is unknown in some rows. Files without these are written as 1.
"""

UNKNOWN = 2
"""Value of ``success`` where it is unknown."""

KEY = "lightning_pbrl"
"""Entry of the header that holds our record."""

WINDOW = 4 << 20
"""Bytes of rows that are handled at a time."""

_HASHED = 1_024  # rows that are brought together and hashed while they are in the cache
_ROOM = 8_192  # for what a header holds beside ``about``; a multiple of 8
_TYPES = {torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}

Rows = NDArray[np.float32]
"""Rows, (n, W)."""


def pack(obs: NDArray[Any], action: NDArray[Any], next_obs: NDArray[Any], terminated: Any = 0.0, truncated: Any = 0.0) -> Rows:
    """Pack columns, (n, O), (n, A), (n, O) and (n,) twice, into rows, without a learned reward.

    Numbers beyond the range of float32 become infinite.
    """
    rows = np.empty((len(obs), 2 * obs.shape[1] + action.shape[1] + 3), dtype=np.float32)
    with np.errstate(over="ignore"):
        np.concatenate([obs, action, next_obs], axis=1, out=rows[:, :-3], casting="unsafe")
    rows[:, -3], rows[:, -2], rows[:, -1] = np.nan, terminated, truncated
    return rows


class Draft:
    """Data file in the making: :meth:`begin`, :meth:`append`, perhaps :meth:`revise`, :meth:`finish`.

    Args:
        file: empty file, open for reading and writing; None for memory.
    """

    def __init__(self, file: BufferedRandom | None = None) -> None:
        self.file: BufferedRandom | BytesIO = BytesIO() if file is None else file
        self.width = self.room = self.count = 0
        self._digest, self._hashed = _new_digest(), 0  # of the first rows, as they will be in the end

    def __len__(self) -> int:
        return self.count

    @property
    def path(self) -> Path | None:
        """Path of the file; None for memory."""
        return None if isinstance(self.file, BytesIO) else Path(self.file.name)

    def begin(self, obs_dim: int, action_dim: int, about: Mapping[str, Any]) -> None:
        """Set the sizes of the rows.

        Args:
            obs_dim: observation size O.
            action_dim: action size A.
            about: origin of the data as far as it is known; it may grow by a few numbers until :meth:`finish`.
        """
        self._set(obs_dim, action_dim)
        self.room = _ROOM * (1 + len(json.dumps(json.dumps(about))) // _ROOM + 1)

    def append(self, rows: Rows, final: int = 0) -> None:
        """Write rows, (n, W), packed as in :func:`~lightning_pbrl.data.transitions.row_layout`, after the last one.

        Those that will neither change nor go, the first ``final`` of them, are hashed now and need not be read again.
        """
        if self._hashed == self.count:
            self._hash(rows[:final], self.layout)
        self._write(4 * self.count * self.width, rows)
        self.count += len(rows)

    def cut(self, rows: int) -> None:
        """Drop all rows after the first ``rows``."""
        self.count = rows

    def read(self, first: int, last: int) -> Rows:
        """Read rows ``first`` to ``last - 1``."""
        rows = np.empty((last - first, self.width), dtype=np.float32)
        self.file.seek(self.room + 4 * first * self.width)
        self.file.readinto(rows.reshape(-1).view(np.uint8).data)
        return rows

    def windows(self) -> Iterator[tuple[int, Rows]]:
        """Yield all rows by windows, (n, W), each with the number of its first row."""
        step = max(WINDOW // (4 * self.width), 1)
        for first in range(0, self.count, step):
            yield first, self.read(first, min(first + step, self.count))

    def revise(self, change: Callable[[int, Rows], Rows], obs_dim: int, action_dim: int) -> None:
        """Replace all rows, window by window.

        Args:
            change: function of a window's first row and its rows that returns the rows to keep, no more and no wider than given.
                It may read the rows that follow.
            obs_dim: observation size of the new rows.
            action_dim: action size of the new rows.
        """
        kept, place, layout = 0, 0, row_layout(obs_dim, action_dim)
        self._digest, self._hashed = _new_digest(), 0
        for first, rows in self.windows():
            changed = change(first, rows)
            self._hash(changed, layout)
            self._write(place, changed)
            kept, place = kept + len(changed), place + changed.nbytes
        self._set(obs_dim, action_dim)
        self.count = kept

    def finish(
        self,
        offsets: Tensor,
        reward: Tensor,
        about: Mapping[str, Any],
        success: Tensor | None = None,
        success_unknown: Tensor | None = None,
        drawable: Tensor | None = None,
        frames: Tensor | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """Write everything but the rows: arguments as those of :class:`~lightning_pbrl.data.transitions.Transitions`.

        ``learned_reward`` must be NaN in all rows. Without a ``fingerprint`` the rows are hashed.
        """
        self.rest: dict[str, Any] = {"drawable": drawable, "frames": frames, "success_unknown": success_unknown}
        reward, offsets = reward.float().contiguous(), offsets.long().contiguous()
        self.offsets, self.reward, self.success, self.about = offsets, reward, success, dict(about)
        self.fingerprint = fingerprint or self._fingerprint(frames)
        if isinstance(self.file, BytesIO):
            return
        flags = None if success is None else success.to(torch.uint8)
        if flags is not None and success_unknown is not None:
            flags = flags.masked_fill(success_unknown, UNKNOWN)
        wide, narrow = {"offsets": offsets, "drawable": drawable}, {"reward": reward}
        even = self.count * self.width % 2 == 0  # int64 begins at a multiple of 8
        tensors = {**wide, **narrow} if even else {**narrow, **wide}
        end = 4 * self.count * self.width
        self.file.seek(self.room + end)
        entries: dict[str, Any] = {"rows": {"dtype": "F32", "shape": [self.count, self.width], "data_offsets": [0, end]}}
        for name, tensor in {**tensors, "success": flags, "frames": frames}.items():
            if tensor is not None:
                begin, end = end, end + tensor.nbytes
                entries[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
                self.file.write(tensor.contiguous().numpy().data)
        self.file.truncate(self.room + end)
        record = {
            "schema_version": 4 if success_unknown is not None else 3 if frames is not None else 1 if drawable is None else 2,
            "obs_dim": self.obs_dim,
            "action_dim": self.action_dim,
            "layout": {name: list(place) for name, place in self.layout.items()},
            "about": self.about,
            "fingerprint": self.fingerprint,
        }
        header = json.dumps({"__metadata__": {KEY: json.dumps(record)}, **entries}).encode().ljust(self.room - 8)
        if len(header) > self.room - 8:
            raise ValueError(f"a header of {len(header)} bytes has no room in {self.room - 8}")
        self.file.seek(0)
        self.file.write(len(header).to_bytes(8, "little") + header)

    def table(self) -> Transitions:
        """Return the finished table of a draft in memory."""
        assert isinstance(self.file, BytesIO)  # noqa: S101 - a file is opened by the archive
        rows = torch.frombuffer(self.file.getbuffer(), dtype=torch.float32, offset=self.room, count=self.count * self.width)
        rows = rows.view(self.count, self.width)
        sizes = (self.obs_dim, self.action_dim, self.about, self.fingerprint)
        return Transitions(rows, self.offsets, self.reward, self.success, *sizes, **self.rest)

    def _set(self, obs_dim: int, action_dim: int) -> None:
        self.obs_dim, self.action_dim, self.layout = obs_dim, action_dim, row_layout(obs_dim, action_dim)
        self.width = sum(width for _, width in self.layout.values())

    def _write(self, place: int, rows: Rows) -> None:
        self.file.seek(self.room + place)
        self.file.write(np.ascontiguousarray(rows).data)

    def _hash(self, rows: Rows, layout: Mapping[str, tuple[int, int]]) -> None:
        """Hash the next rows of what :attr:`~lightning_pbrl.data.transitions.Transitions.fingerprint` is, without images."""
        for first in range(0, len(rows), _HASHED):
            part = rows[first : first + _HASHED, : layout["learned_reward"][0]]
            self._digest.update(np.ascontiguousarray(part).data)
        self._hashed += len(rows)

    def _fingerprint(self, frames: Tensor | None) -> str:
        """Return the fingerprint; rows that have not been hashed as they are now are read for it."""
        if self._hashed != self.count:
            self.revise(lambda _, rows: rows, self.obs_dim, self.action_dim)
        digest = self._digest.copy()
        digest.update(self.reward.numpy().data)
        digest.update(self.offsets.numpy().data)
        for part in () if frames is None else frames.split(_HASHED):
            digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()


def _new_digest() -> Any:
    return hashlib.blake2b(digest_size=16)
