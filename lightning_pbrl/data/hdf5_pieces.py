"""Arrays of numbers that lie in an HDF5 file in one piece: they are described once, and read without the HDF5 library.

Part of the process that reads HDF5 files (:mod:`lightning_pbrl.data.hdf5_child`): it imports nothing of this library.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Piece(NamedTuple):
    """Array in one piece.

    Attributes:
        shape: its shape.
        dtype: its type in numpy's notation.
        offset: its first byte in the file.
        size: number of bytes.
        address: of the data set that describes it.
    """

    shape: tuple[int, ...]
    dtype: str
    offset: int
    size: int
    address: int


def piece(h5py: Any, group: Any, name: str) -> Piece | None:
    """Return where the numbers of an array of a group lie; None if it has none, not in one piece, or not as it declares.

    Args:
        h5py: the package.
        group: an open group of a file without a user block.
        name: name of a link in it; one to another place is not followed.
    """
    link = name.encode("utf-8", "surrogateescape")
    if group.id.links.get_info(link).type != h5py.h5l.TYPE_HARD:
        return None
    data = h5py.h5o.open(group.id, link)
    if not isinstance(data, h5py.h5d.DatasetID):
        return None
    plist = data.get_create_plist()
    if plist.get_layout() != h5py.h5d.CONTIGUOUS or plist.get_external_count():
        return None
    stored, shape, offset, size = data.get_type(), data.shape, data.get_offset(), data.get_storage_size()
    dtype = stored.dtype
    if offset is None or shape is None or dtype.kind not in "biuf" or not sound(h5py.h5t, stored):
        return None
    if stored.get_size() != dtype.itemsize or size != math.prod(shape) * dtype.itemsize:
        return None
    return Piece(shape, dtype.str, offset, size, int(h5py.h5o.get_info(data).addr))


def sound(h5t: Any, stored: Any) -> bool:
    """Return False for a number type that no machine has: the type itself is then damaged."""
    if isinstance(stored, h5t.TypeFloatID):
        return any(stored.equal(getattr(h5t, each)) for each in _FLOATS)
    if isinstance(stored, h5t.TypeIntegerID):
        return bool(stored.get_precision() == 8 * stored.get_size() and stored.get_offset() == 0)
    return True


_FLOATS = [f"IEEE_F{bits}{order}" for bits in (32, 64, 16) for order in ("LE", "BE")] + ["NATIVE_LDOUBLE"]
