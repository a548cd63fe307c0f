"""Reader of .npz files without pickle: it verifies checksums, and sizes before memory is allocated.

A .npz file is a zip archive of .npy files (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_pbrl.data.guard import declared, reading
from lightning_pbrl.errors import UserError


def read_npz(path: str | Path, cure: str, wanted: Callable[[str], object] = lambda key: True) -> dict[str, NDArray[Any]]:
    """Read the arrays of a file by key.

    Args:
        path: the file.
        cure: advice to the owner of a damaged file.
        wanted: predicate of the keys to read; all by default.

    Raises:
        UserError: if the file is missing or damaged, names a key twice, holds Python objects, or declares more than it holds.
    """
    found: dict[str, NDArray[Any]] = {}
    with reading(path, "is truncated or not an .npz file", cure), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            if not wanted(key):
                continue
            where = f"{path}: key {key!r}"
            if key in found:
                raise UserError(f"{where} is there twice: {cure}.")
            declared(member.file_size, member.compress_size, where, cure)
            found[key] = _array(archive.read(member), where, cure)
    return found


def _array(content: bytes, where: str, cure: str) -> NDArray[Any]:
    """Read the array of one .npy file, which must fill the file exactly."""
    stream = io.BytesIO(content)
    with reading(where, "holds something other than plain numbers", "store a numeric array"):
        major, _ = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
    if not dtype.hasobject and dtype.itemsize * math.prod(shape) != len(content) - stream.tell():
        raise UserError(f"{where} declares shape {shape} of {dtype} and holds {len(content) - stream.tell():,} bytes: {cure}.")
    stream.seek(0)
    with reading(where, "holds something other than plain numbers", "store a numeric array"):
        return np.lib.format.read_array(stream, allow_pickle=False)
