"""Rows of a matrix from the compressed chunks of an HDF5 file, faster than the HDF5 library brings them there.

Part of the process that reads HDF5 files (:mod:`lightning_pbrl.data.hdf5_child`): it imports nothing of this library.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

try:
    from deflate import zlib_decompress  # a third faster than zlib
except ImportError:  # no wheel for this machine

    def zlib_decompress(data: Any, originalsize: int) -> bytearray:
        """Decompress a chunk of ``originalsize`` bytes, and at most one byte more of a damaged one."""
        return bytearray(zlib.decompressobj().decompress(data, originalsize + 1))


TILE = 128
"""Number of rows that are put together from columns at a time: they stay in the cache."""
ASIDE = 2**24
"""Largest number of entries that are held for it."""


class DamageError(Exception):
    """Damage of the file, described as the middle of a sentence."""


def unpack(
    out: NDArray[Any],
    raw: BinaryIO,
    places: Mapping[tuple[int, int], Any],
    chunks: tuple[int, int],
    dtype: np.dtype[Any],
    first: int,
    last: int,
) -> None:
    """Copy the rows ``first`` to ``last - 1`` of a matrix.

    Args:
        out: where to, (last - first, d), numbers of any type.
        raw: the file.
        places: byte offset, size and mask of each chunk, as h5py tells them, by its first row and column.
        chunks: rows and columns of a chunk.
        dtype: type of the numbers.
        first: the first row.
        last: the row after the last.

    Raises:
        DamageError: for a chunk of another size; the library's own error for one that cannot be decompressed.
    """
    (step, wide), width, size = chunks, out.shape[1], math.prod(chunks) * dtype.itemsize
    aside = wide < width and width * step <= ASIDE  # columns are brought together first: a row lies in many cache lines
    columns = np.empty((width, step) if aside else 0, out.dtype)
    for above in range(first // step * step, last, step):
        begin, end = max(above, first), min(above + step, last)
        for left in range(0, width, wide):
            place = places[above, left]
            raw.seek(place.byte_offset)
            stored = raw.read(place.size)
            numbers = stored if place.filter_mask else zlib_decompress(stored, size)
            if len(numbers) != size:
                raise DamageError(f"a chunk of it holds {len(numbers):,} bytes instead of {size:,}")
            part = np.frombuffer(numbers, dtype).reshape(chunks)[:, : width - left]
            if aside:
                columns[left : left + wide] = part.T
            else:
                out[begin - first : end - first, left : left + wide] = part[begin - above : end - above]
        for at in range(begin, end, TILE) if aside else ():
            until = min(at + TILE, end)
            out[at - first : until - first] = columns[:, at - above : until - above].T
