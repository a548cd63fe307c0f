"""HDF5 files read in a child process that can be abandoned: the part of h5py's interface that the readers need.

The HDF5 library runs in :mod:`lightning_pbrl.data.hdf5_child`, never in this process. If a damaged file makes it loop, crash or
take too much memory, the child ends and the reader gets one sentence. Starting a child takes about .3 s; it is reused for the
next file.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lightning_pbrl.data import hdf5_child
from lightning_pbrl.data.guard import reading, reason
from lightning_pbrl.errors import UserError

AGAIN = "download it again from its source"
_idle: list[Child] = []


class Child:
    """Child process that handles one request and one file at a time."""

    def __init__(self) -> None:
        self.owner, self.pending = os.getpid(), False
        self.process = subprocess.Popen(
            [sys.executable, "-P", hdf5_child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )

    def ask(self, path: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the first answer.

        Raises:
            UserError: if the file is damaged.
        """
        self.send(path, request)
        return self.answer(path, request)

    def send(self, path: str, request: Mapping[str, Any]) -> None:
        """Send a request whose answer is read later."""
        self.pending = True
        with suppress(BrokenPipeError):  # it has ended: the answer tells why
            self.process.stdin.write(json.dumps({"path": path, **request}).encode() + b"\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]

    def answer(self, path: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Read the next answer to a request."""
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        whole = line.endswith(b"\n")
        answer: dict[str, Any] = json.loads(line) if whole else {}
        key = str(answer.get("key", request.get("key", ""))).strip("/")
        at = f"key {key!r}: " if key else ""
        if not whole:
            raise UserError(f"{path} is truncated or damaged ({at}{self._end()}): {AGAIN}.")
        if "error" in answer:
            self.pending = False
            said = reason(Exception(answer["error"] or answer["kind"]))
            if answer["kind"] == "MemoryError":
                said = "it declares more than memory holds"
            elif answer["kind"] == "ModuleNotFoundError":
                raise UserError(f"{path} cannot be read ({said}): install h5py.")
            raise UserError(f"{path} is truncated or damaged ({at}{said}): {AGAIN}.")
        return answer

    def fill(self, path: str, request: Mapping[str, Any], array: NDArray[Any]) -> None:
        """Receive the bytes of an array."""
        view, at = array.reshape(-1).view(np.uint8).data, 0
        while at < len(view):
            size = self.answer(path, request)["bytes"]
            got = self.process.stdout.readinto(view[at : at + size])  # type: ignore[union-attr]
            if got < size:
                raise UserError(f"{path} is truncated or damaged ({self._end()}): {AGAIN}.")
            at += size

    def stop(self) -> None:
        """End the child process."""
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def _end(self) -> str:
        """Return the reason why the process has ended."""
        code = self.process.wait()
        if code == -getattr(signal, "SIGPROF", 0):
            return "reading it does not come to an end"
        return f"the HDF5 library failed with {signal.Signals(-code).name if code < 0 else code}"


class Group(Mapping[str, Any]):
    """Group of a file: groups and arrays by name or path.

    Attributes:
        name: path from the root, beginning with a slash.
        file: file that it belongs to.
    """

    def __init__(self, file: File | None, name: str) -> None:
        self.file: File = file or self  # type: ignore[assignment]
        self.name = name
        self._items: dict[str, Any] | None = None

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute: a text, a number or a list; ``default`` if there is none."""
        found = self.file.ask("attribute", self.name, name=name)["found"]
        return default if found is None else found["value"]

    def __getitem__(self, key: str) -> Any:
        found = self._find(key)
        if found is None:
            raise KeyError(key)
        return found

    def __contains__(self, key: object) -> bool:
        return self._find(str(key)) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed())

    def __len__(self) -> int:
        return len(self._listed())

    def _listed(self) -> dict[str, Any]:
        if self._items is None:
            self._items = self.file.ask("look", self.name)["items"]
        return self._items

    def _find(self, key: str) -> Group | Dataset | None:
        """Return the item at a path relative to this group; None if there is no such key.

        Raises:
            UserError: if it exists but cannot be opened.
        """
        name, _, rest = key.strip("/").partition("/")
        items, place = self._listed(), f"{self.name.rstrip('/')}/{name}"
        if name not in items:
            self.file.ask("look", self.name, name=name)
            return None
        found = items[name]
        if isinstance(found, dict):
            if "closed" in found:
                why = reason(Exception(found["closed"]))
                raise UserError(
                    f"{self.file.filename}: key {place.strip('/')!r} is there and cannot be opened ({why}): write the file again "
                    f"with the array itself in it, not a link to another file, or {AGAIN}."
                )
            found = Dataset(self.file, place, **found) if "shape" in found else Group(self.file, place)
            items[name] = found
        if not rest:
            return found
        return found._find(rest) if isinstance(found, Group) else None


class Dataset:
    """Array of a file.

    Attributes:
        name: path from the root, beginning with a slash.
        file: file that it belongs to.
        shape: its shape; () also for an empty one.
        dtype: its type as stored.
        away: reason why its numbers are unavailable, as the tail of a sentence; empty if they are available.
        step: number of rows that are stored together.
    """

    def __init__(self, file: File, name: str, shape: list[int] | None, dtype: DTypeLike, away: str, step: int) -> None:
        self.file, self.name, self.away, self.step = file, name, away, step
        self.shape, self.dtype = tuple(shape or ()), np.dtype(dtype)

    def __getitem__(self, index: Any) -> Any:
        """Read all values, then index them; texts come as an array of objects."""
        return self.file.read(self.name)[index]


class File(Group):
    """Open HDF5 file.

    Args:
        path: path of the file.
        child: child process that reads it.
    """

    def __init__(self, path: str | Path, child: Child) -> None:
        super().__init__(None, "/")
        self.filename, self._child = str(path), child
        self._items = child.ask(self.filename, {"what": "open"})["items"]
        child.pending = False

    def ask(self, what: str, key: str, **more: Any) -> dict[str, Any]:
        """Ask the child process for one answer."""
        answer = self._child.ask(self.filename, {"what": what, "key": key, **more})
        self._child.pending = False
        return answer

    def read(self, key: str) -> Any:
        """Read the whole array at a path from the root."""
        return next(self.read_each([key]))

    def read_each(self, keys: Iterable[str], ahead: int = 64) -> Iterator[Any]:
        """Yield the whole arrays at paths from the root; the child process reads up to ``ahead`` of them in advance."""
        waiting: deque[dict[str, Any]] = deque()
        for key in (*keys, *[None] * ahead):
            if key is not None:
                waiting.append({"what": "read", "key": key})
                self._child.send(self.filename, waiting[-1])
            if waiting and (key is None or len(waiting) == ahead):
                try:
                    values = self._received(waiting.popleft())
                except UserError:
                    self._child.pending |= bool(waiting)  # answers are under way that nobody reads
                    raise
                self._child.pending = bool(waiting)
                yield values

    def _received(self, request: dict[str, Any]) -> Any:
        """Receive the array of a request that has been sent."""
        first = self._child.answer(self.filename, request)
        if "texts" in first:
            values = np.empty(len(first["texts"]), dtype=object)
            values[:] = first["texts"]
            return values.reshape(first["shape"])
        with reading(f"{self.filename}: key {request['key'].strip('/')!r}", "cannot be read", AGAIN):
            values = np.empty(first["shape"], first["dtype"])
            if "offset" in first:  # in one piece: needs no library
                with Path(self.filename).open("rb", buffering=0) as raw:
                    raw.seek(first["offset"])
                    if raw.readinto(values.reshape(-1).view(np.uint8).data) != values.nbytes:
                        raise EOFError("it is shorter than it was")
                if values.dtype.kind == "b" and values.view(np.uint8).max(initial=0) > 1:
                    raise ValueError("a flag in it is neither 0 nor 1")
                return values
        self._child.fill(self.filename, request, values)
        return values

    def rows(self, columns: Mapping[str, int], width: int, size: int) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of several matrices side by side, (n, width), window by window; a window's memory is used again.

        The child process fills one window, in a file that both have mapped, while the caller works on the one before.

        Args:
            columns: the first entry in a row of each data set, (N, d) of numbers, by its path from the root.
            width: number of entries of a row; those that no data set takes are undefined.
            size: bytes of a window, at least one chunk.
        """
        sets = [self[key] for key in columns]
        count, step = sets[0].shape[0], max(each.step for each in sets)
        step = min(step * max(size // (4 * width * step), 1), count)
        request: dict[str, Any] = {"what": "rows", "columns": dict(columns), "shape": [2, step, width]}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            request["into"] = str(Path(folder) / "rows")
            with reading(folder, "cannot be written", "make room there, or set TMPDIR to another folder"):
                np.zeros((2, step, width), dtype=np.float32).tofile(request["into"])  # written, because a hole may find no room
                windows = np.asarray(np.memmap(request["into"], np.float32, "r+", shape=(2, step, width)))
            for number, first in enumerate(range(0, count + step, step)):
                if number:
                    self._child.answer(self.filename, request)
                    self._child.pending = False
                if first < count:
                    self._child.send(
                        self.filename, {**request, "first": first, "last": min(first + step, count), "at": number % 2}
                    )
                if number:
                    yield windows[1 - number % 2, : min(step, count - first + step)]


@contextmanager
def opened(path: str | Path) -> Iterator[File]:
    """Open an HDF5 file in a child process.

    Raises:
        UserError: if it is damaged, even if that shows only while it is read.
    """
    child = next((each for each in _idle if each.owner == os.getpid()), None)
    if child is not None:
        _idle.remove(child)
    child = child or Child()
    try:
        yield File(path, child)
    finally:
        with suppress(UserError):  # a file that cannot even be closed: the process is given up
            if not child.pending:
                child.ask(str(path), {"what": "close"})
                child.pending = False
        if child.pending:
            child.stop()
        else:
            _idle.append(child)


def check_hdf5(path: str | Path) -> None:
    """Read a whole file in a child process, before a library reads it in this one.

    Raises:
        UserError: if it is damaged.
    """
    with opened(path) as file:
        file.ask("check", "/")


@atexit.register
def _stop_idle() -> None:
    while _idle:
        _idle.pop().stop()
