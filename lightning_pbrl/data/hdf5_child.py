"""Child process that reads HDF5 files; :mod:`lightning_pbrl.data.hdf5_process` talks to it.

The HDF5 library is C code that makes no promise about damaged files. Some make it loop for ever, some make it crash, some make it
request all available memory. A child process can be abandoned. The system limits the computing time of every request and the
memory of the process. The size that a data set declares is compared with the file's content before memory is allocated.

Requests are lines of JSON, answers are lines of JSON, some followed by raw bytes. The module runs as a script. It imports h5py
and of this library only what lies beside it, so it starts quickly.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

if __name__ == "__main__":  # beside this script, as it runs without the package
    sys.path.append(os.path.dirname(__file__))
    from hdf5_chunks import DamageError, unpack  # type: ignore[import-not-found]
    from hdf5_limits import BYTES_PER_SECOND, FREE, MEMORY, RATIO, limit  # type: ignore[import-not-found]
    from hdf5_pieces import piece, sound  # type: ignore[import-not-found]
else:
    from lightning_pbrl.data.hdf5_chunks import DamageError, unpack
    from lightning_pbrl.data.hdf5_limits import BYTES_PER_SECOND, FREE, MEMORY, RATIO, limit
    from lightning_pbrl.data.hdf5_pieces import piece, sound

SECONDS = 3.0
"""Computing time of one request, or of one slab of a data set, seconds."""
SLAB = 16 * 2**20
"""Number of bytes that are read at once, at least one chunk."""


class Reader:
    """Reader of one open file.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        import h5py

        self.h5py, self.size = h5py, os.path.getsize(path)
        self.file = h5py.File(path, "r")
        self.plain = not self.file.userblock_size
        self.pieces: dict[str, Any] = {}  # arrays in one piece that were listed, by their path
        self.spans: list[tuple[int, int, int]] = []  # (first byte, last byte, object) of the data read so far
        self.seen: set[int] = set()
        self.checked: dict[str, int] = {}  # bytes of a chunk of each data set that is read by rows
        self.raw = open(path, "rb", buffering=0)  # noqa: SIM115 - closed when this reader goes
        self.places: dict[int, dict[tuple[int, ...], Any]] = {}  # of the chunks of each data set, by its address

    def look(self, key: str, name: str | None) -> dict[str, Any]:
        """List the content of a group by name.

        Given a ``name`` that is not in it, look that one up once more.
        """
        group = self.file[key]
        if name is not None and group.id.links.exists(name.encode("utf-8", "surrogateescape")):
            raise DamageError(f"the list of keys contradicts itself about {name!r}")
        names = list(group)
        if len(set(names)) < len(names):
            raise DamageError("the list of keys contradicts itself")
        items = {}
        for each in names:
            limit(SECONDS)
            items[each] = self._item(group, each, f"{key.rstrip('/')}/{each}")
        return items

    def _item(self, group: Any, name: str, place: str) -> dict[str, Any]:
        """Describe an item: shape and type of an array, nothing of a group, the problem of anything else."""
        try:
            if self.plain and (whole := piece(self.h5py, group, name)):
                self.pieces[place] = whole
                return {"shape": whole.shape, "dtype": whole.dtype, "away": "", "step": 1}
            found = group[name]
            if isinstance(found, self.h5py.Group):
                return {}
            if isinstance(found, self.h5py.Dataset):
                step = (found.chunks or (1,))[0]
                return {"shape": found.shape, "dtype": self._dtype(found), "away": self._away(found), "step": step}
        except Exception as error:  # noqa: BLE001 - reported when the item is requested
            return {"closed": str(error)}
        return {"closed": "it is neither a group nor an array"}

    def _away(self, data: Any) -> str:
        """Return the reason why an array is unavailable; empty if it is available.

        The reasons are missing external files, or a compression that h5py lacks. HDF5 silently replaces the missing source of a
        virtual data set by zeros.
        """
        plist = data.id.get_create_plist()
        sources = [name for name, *_ in data.external or ()] if plist.get_external_count() else []
        if plist.get_layout() == self.h5py.h5d.VIRTUAL:
            sources += [part.file_name for part in data.virtual_sources() if part.file_name != "."]
        for name in sources:
            if not os.path.isfile(os.path.join(os.path.dirname(self.file.filename), name)) and not os.path.isfile(name):
                return f"its numbers are in the file {name}, which is not: put it beside"
        for number in range(plist.get_nfilters()):
            code, _, _, name = plist.get_filter(number)
            if not self.h5py.h5z.filter_avail(code):
                what = name.decode(errors="replace") or "unnamed"
                return f"compressed by filter {code} ({what}), which h5py lacks: write the file again with gzip"
        return ""

    def attribute(self, key: str, name: str) -> dict[str, Any] | None:
        """Return the value of an attribute as plain JSON; None if there is none."""
        attributes = self.file[key].attrs
        if name not in attributes:
            return None
        stored = attributes.get_id(name).get_storage_size()
        if stored > self.size:
            raise DamageError(f"attribute {name!r} declares {stored:,} bytes, more than the file")
        value = attributes[name]
        if isinstance(value, self.h5py.Empty):
            raise DamageError(f"attribute {name!r} holds nothing")
        return {"value": _plain(value)}

    def read(self, key: str) -> Iterator[Any]:
        """Yield a description of the array, then its bytes, slab by slab; texts come as a list.

        Numbers that lie in the file in one piece, uncompressed, are named by their first byte instead.
        """
        if whole := self.pieces.get(key):
            self._take(whole.address, [(whole.offset, whole.size)])
            yield {"shape": whole.shape, "dtype": whole.dtype, "offset": whole.offset}
            return
        data = self.file[key]
        shape, dtype = data.shape, data.dtype
        if shape is None:
            raise DamageError("it holds nothing (a null dataspace)")
        chunk = self._check(data)
        if dtype.kind in "OSU":
            self._limit(chunk)
            yield {"texts": _plain(np.ravel(data[()])), "shape": shape}
            return
        yield {"shape": shape, "dtype": dtype.str}
        for part in self._slabs(data, chunk):
            self._limit(chunk)
            numbers = np.ascontiguousarray(data[part]).reshape(-1).view(np.uint8)
            if dtype.kind == "b" and numbers.max(initial=0) > 1:
                raise DamageError("a flag in it is neither 0 nor 1")
            yield numbers

    def rows(self, request: dict[str, Any]) -> None:
        """Copy the rows ``first`` to ``last - 1`` of matrices side by side into part ``at`` of a file's array (2, n, width)."""
        first, last = request["first"], request["last"]
        out = np.asarray(np.memmap(request["into"], np.float32, "r+", shape=tuple(request["shape"])))[request["at"]]
        for key, place in request["columns"].items():
            request["key"], data = key, self.file[key]
            if key not in self.checked:
                self.checked[key] = self._check(data)
            self._limit(self.checked[key])
            self._fill(out[: last - first, place : place + data.shape[1]], data, first, last)

    def _fill(self, out: Any, data: Any, first: int, last: int) -> None:
        """Copy rows of a matrix. Chunks of gzip are decompressed here: HDF5 takes longer to bring their numbers into rows."""
        plist, chunks, dtype = data.id.get_create_plist(), data.chunks, data.dtype
        deflated = plist.get_nfilters() == 1 and plist.get_filter(0)[0] == self.h5py.h5z.FILTER_DEFLATE
        behind = self.file.userblock_size  # where HDF5 before 2.0 counts from
        if chunks is None or not deflated or behind or dtype.kind not in "iuf":
            out[:] = data[first:last]
            return
        unpack(out, self.raw, self.places[self._address(data)], chunks, dtype, first, last)

    def check(self) -> Iterator[Any]:
        """Read everything and yield one empty answer at the end."""
        groups: list[Any] = [self.file]
        visited = set()
        while groups:
            group = groups.pop()
            for name in list(group):
                found = group[name]
                address = self.h5py.h5o.get_info(found.id).addr
                if address in visited:
                    continue
                visited.add(address)
                for each in found.attrs:
                    self._limit(0)
                    self.attribute(found.name, each)
                if isinstance(found, self.h5py.Group):
                    groups.append(found)
                elif isinstance(found, self.h5py.Dataset) and found.shape is not None:
                    if away := self._away(found):
                        raise DamageError(away)
                    chunk = self._check(found)
                    for part in self._slabs(found, chunk):
                        self._limit(chunk)
                        data = found[part]
                        if data.dtype.kind == "O" and self.h5py.check_string_dtype(found.dtype):
                            _plain(data)
        yield {}

    def _dtype(self, data: Any) -> str:
        """Return the number type in numpy's notation; a name for anything else."""
        dtype = data.dtype
        if self.h5py.check_string_dtype(dtype) and dtype.kind == "O":
            return "object"
        return dtype.str if dtype.kind in "biufSc" else "V"

    def _check(self, data: Any) -> int:
        """Compare the size that a data set declares with the file's content.

        Returns:
            Number of bytes of one chunk in memory; 0 without chunks.
        """
        if any(size == 0 for size in data.shape):
            return 0
        if not sound(self.h5py.h5t, data.id.get_type()):
            raise DamageError("its numbers are in a form that no machine has")
        stored, plist, dtype, shape = data.id.get_storage_size(), data.id.get_create_plist(), data.dtype, data.shape
        declared = math.prod(shape) * dtype.itemsize
        if data.chunks is None:
            if plist.get_external_count() or plist.get_layout() == self.h5py.h5d.VIRTUAL:
                return 0  # in other files, which are there
            references = dtype.kind == "O"  # texts of any length lie elsewhere in the file
            on_disk = math.prod(shape) * (16 if references else data.id.get_type().get_size())
            if stored != on_disk:
                raise DamageError(f"shape {shape} declares {on_disk:,} bytes and the file holds {stored:,} for it")
            offset = data.id.get_offset()
            if offset is not None:
                self._take(self._address(data), [(offset, stored)])
            return 0
        chunk = math.prod(data.chunks) * data.dtype.itemsize
        counts = [-(-size // step) for size, step in zip(data.shape, data.chunks, strict=True)]
        if max(declared, chunk * math.prod(counts)) > max(FREE, RATIO * stored):
            raise DamageError(f"shape {data.shape} declares {declared:,} bytes and the file holds {stored:,} for it")
        if any(most not in (None, size) for size, most in zip(data.shape[1:], data.maxshape[1:], strict=True)):
            raise DamageError(f"shape {data.shape} contradicts the room for {data.maxshape}")
        if data.id.get_num_chunks() != math.prod(counts):
            raise DamageError(f"it has {data.id.get_num_chunks()} chunks and its shape {data.shape} takes {math.prod(counts)}")
        chunks: list[Any] = []
        data.id.chunk_iter(chunks.append)
        wanted = set(itertools.product(*(range(0, size, step) for size, step in zip(data.shape, data.chunks, strict=True))))
        places = self.places[self._address(data)] = {tuple(each.chunk_offset): each for each in chunks}
        if lacking := wanted - set(places):
            raise DamageError(f"{len(lacking)} of its {len(wanted)} chunks are missing")
        if any(each.filter_mask and each.size < chunk for each in chunks):
            raise DamageError("a chunk of it is marked as uncompressed and is not")
        self._take(self._address(data), [(each.byte_offset, each.size) for each in chunks])
        return chunk

    def _take(self, address: int, parts: list[tuple[int, int]]) -> None:
        """Record the bytes that belong to the data set at an address; no byte belongs to two."""
        if address in self.seen:
            return
        self.seen.add(address)
        for first, size in parts:
            at = bisect.bisect(self.spans, (first, size, 0))
            before, after = self.spans[at - 1] if at else (0, 0, 0), self.spans[at] if at < len(self.spans) else None
            if before[1] > first or (after is not None and after[0] < first + size) or first + size > self.size:
                raise DamageError("its bytes belong to another array or lie beyond the end of the file")
            self.spans.insert(at, (first, first + size, address))

    def _address(self, data: Any) -> int:
        return int(self.h5py.h5o.get_info(data.id).addr)

    def _slabs(self, data: Any, chunk: int) -> Iterator[Any]:
        """Yield index expressions that cover a data set in slabs of rows, aligned to chunks."""
        if data.shape == () or 0 in data.shape:
            yield ()
            return
        row = data.dtype.itemsize * math.prod(data.shape[1:])
        step = data.chunks[0] if data.chunks else 1
        rows = max(SLAB // max(row * step, 1), 1) * step
        for first in range(0, data.shape[0], rows):
            yield slice(first, first + rows)

    def _limit(self, chunk: int) -> None:
        """Set the time and memory limits of the next slab."""
        limit(SECONDS + max(SLAB, chunk) / BYTES_PER_SECOND, MEMORY + 4 * chunk)


def _plain(value: Any) -> Any:
    """Convert a value to plain JSON: texts, numbers and lists of them."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value.tolist()] if value.ndim else _plain(value.item())
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if value is None or isinstance(value, str | int | float):
        return value
    raise DamageError(f"it holds {type(value).__name__} where numbers or text belong")


def answers(reader: Reader | None, request: dict[str, Any]) -> Iterator[Any]:
    """Yield the answers to one request: objects, and arrays of bytes."""
    what, key = request["what"], request.get("key", "/")
    if reader is None:
        raise DamageError("no file is open")
    if what == "look":
        yield {"items": reader.look(key, request.get("name"))}
    elif what == "attribute":
        yield {"found": reader.attribute(key, request["name"])}
    elif what == "read":
        yield from reader.read(key)
    elif what == "rows":
        reader.rows(request)
        yield {}
    else:
        yield from reader.check()


def serve(requests: BinaryIO, out: BinaryIO) -> None:
    """Answer requests until the input ends."""
    reader: Reader | None = None
    for line in requests:
        request = json.loads(line)
        limit(SECONDS)
        try:
            if request["what"] in ("open", "close"):
                if reader is not None:
                    reader.file.close()
                reader = Reader(request["path"]) if request["what"] == "open" else None
                out.write(json.dumps({"items": reader.look("/", None) if reader else {}}).encode() + b"\n")
            else:
                for answer in answers(reader, request):
                    if isinstance(answer, np.ndarray):
                        out.write(b'{"bytes": %d}\n' % answer.size)
                        out.write(answer.data)
                    else:
                        out.write(json.dumps(answer).encode() + b"\n")
        except Exception as error:  # noqa: BLE001 - whatever the library says goes to the other side
            kind = "" if isinstance(error, DamageError) else type(error).__name__
            out.write(json.dumps({"error": str(error), "kind": kind, "key": request.get("key", "")}).encode() + b"\n")
        limit(0)
        out.flush()


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # this process ends when its input does
    stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # printed output of a library must not mix with answers
    serve(sys.stdin.buffer, stdout)
