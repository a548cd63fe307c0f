"""Reader of .npz files without pickle: it verifies checksums, and sizes before memory is allocated.

A .npz file is a zip archive of .npy files (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
:func:`read_npz` reads whole arrays; :func:`open_npz` reads them by windows of rows, so that no array need lie in memory.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lightning_pbrl.data.guard import declared, listed, reading
from lightning_pbrl.errors import UserError

DAMAGED = "is truncated or not an .npz file"
NOT_NUMBERS = ("holds something other than plain numbers", "store a numeric array")


def read_npz(path: str | Path, cure: str, wanted: Callable[[str], object] = lambda key: True) -> dict[str, NDArray[Any]]:
    """Read the arrays of a file by key.

    Args:
        path: the file.
        cure: advice to the owner of a damaged file.
        wanted: predicate of the keys to read; all by default.

    Raises:
        UserError: if the file is missing or damaged, names a key twice, holds Python objects, or declares more than it holds.
    """
    with open_npz(path, cure) as file:
        return {key: file.read(key) for key in file.members if wanted(key)}


@contextmanager
def open_npz(path: str | Path, cure: str) -> Iterator[NPZ]:
    """Open a file to read its arrays one by one, whole or by windows: arguments and errors as those of :func:`read_npz`."""
    with reading(path, DAMAGED, cure):
        archive = zipfile.ZipFile(path)
    with archive:
        yield NPZ(path, archive, cure)


class NPZ:
    """Open .npz file.

    Attributes:
        members: entry of the archive by key.
    """

    def __init__(self, path: str | Path, archive: zipfile.ZipFile, cure: str) -> None:
        self.path, self._archive, self._cure = path, archive, cure
        self.members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            if key in self.members:
                raise UserError(f"{self.where(key)} is there twice: {cure}.")
            self.members[key] = member

    def where(self, key: str) -> str:
        """Return the beginning of an error message about a key."""
        return f"{self.path}: key {key!r}"

    def read(self, key: str) -> NDArray[Any]:
        """Read the whole array of a key."""
        member = self._checked(key)
        with reading(self.path, DAMAGED, self._cure):
            stream = io.BytesIO(self._archive.read(member))
        self._header(key, stream)
        stream.seek(0)
        with reading(self.where(key), *NOT_NUMBERS):
            return np.lib.format.read_array(stream, allow_pickle=False)

    def header(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of the array of a key."""
        with self._opened(key) as stream:
            return self._header(key, stream)[:2]

    def windows(self, key: str, rows: int) -> Iterator[NDArray[Any]]:
        """Yield an array by windows of ``rows`` rows, read-only; its checksum is verified with the last one."""
        with self._opened(key) as stream:
            shape, dtype, columns = self._header(key, stream)
            if columns or dtype.hasobject or 0 in shape:
                whole = self.read(key)
                yield from (whole[first : first + rows] for first in range(0, len(whole), rows))
                return
            size = dtype.itemsize * math.prod(shape[1:])
            for first in range(0, shape[0], rows):
                count = min(rows, shape[0] - first)
                with reading(self.path, DAMAGED, self._cure):
                    window = np.frombuffer(stream.read(count * size), dtype).reshape(count, *shape[1:])
                    if first + count == shape[0]:
                        stream.read(1)  # the end, where the checksum is compared
                yield window

    def _opened(self, key: str) -> IO[bytes]:
        member = self._checked(key)
        with reading(self.path, DAMAGED, self._cure):
            return self._archive.open(member)

    def _checked(self, key: str) -> zipfile.ZipInfo:
        if key not in self.members:
            raise UserError(f"{self.path} has no key {key!r} (it has {listed(sorted(self.members))}): {self._cure}.")
        member = self.members[key]
        declared(member.file_size, member.compress_size, self.where(key), self._cure)
        return member

    def _header(self, key: str, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        """Read shape, type and whether columns come first; the array must fill the member exactly."""
        with reading(self.where(key), *NOT_NUMBERS):
            major, _ = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, columns, dtype = header(stream)
        held = self.members[key].file_size - stream.tell()
        if not dtype.hasobject and dtype.itemsize * math.prod(shape) != held:
            raise UserError(f"{self.where(key)} declares shape {shape} of {dtype} and holds {held:,} bytes: {self._cure}.")
        return shape, dtype, columns
