"""Shared parts of the readers of HDF5 files: opening, reading one checked array, and a memory-mapped copy for the next run.

Every error is one sentence with the file, the key and the cure. HDF5 holds no code, but decompressing a large file takes seconds
to minutes. :func:`cached` therefore keeps the result in the library's own format (:mod:`lightning_pbrl.data.archive`), which
opens in milliseconds. h5py is imported when a file is opened.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import DTypeLike, NDArray

from lightning_pbrl.data import archive
from lightning_pbrl.data.draft import Draft
from lightning_pbrl.data.guard import listed, reading
from lightning_pbrl.data.hdf5_process import AGAIN, Dataset, File, Group, opened
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import check_finite
from lightning_pbrl.errors import UserError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""Signature at the start of the HDF5 part of a file."""


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[File]:
    """Open an HDF5 file for reading; the HDF5 library runs in another process, which can be abandoned.

    Raises:
        UserError: if the file is missing, truncated or not an HDF5 file, even if that shows only while it is read.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no file {path}: check the path, or download the file from the data set's origin.")
    if not is_hdf5(path):
        raise UserError(f"{path} is not an HDF5 file: {AGAIN} (an interrupted download or a web page saved in its place?).")
    with opened(path) as file:
        yield file


def is_hdf5(path: str | Path) -> bool:
    """Return True if HDF5 data start in this file: at 0, or behind a user block of 512, 1024, 2048 ... bytes."""
    if not Path(path).is_file():
        return False
    with reading(path, "cannot be read", "check its permissions"), Path(path).open("rb") as raw:
        size, place = Path(path).stat().st_size, 0
        while place < size:
            raw.seek(place)
            if raw.read(len(SIGNATURE)) == SIGNATURE:
                return True
            place = max(2 * place, 512)
    return False


def has(file: Any, key: str) -> bool:
    """Return True if the file (or group) has this data set or group; ``key`` is a path such as ``obs/object``."""
    return isinstance(file, Group) and key in file


def names(file: Any, key: str) -> list[str]:
    """Return the names in a group; none if there is no such group.

    Raises:
        UserError: if it is an array.
    """
    if not has(file, key):
        return []
    if not isinstance(file[key], Group):
        raise UserError(f"{_where(file, key)} is an array where a group belongs: {AGAIN}, or write it as a group.")
    return list(file[key])


def read_texts(file: Any, key: str) -> list[str]:
    """Read a data set of texts, with all axes flattened.

    Raises:
        UserError: if the key is missing, or holds anything but texts in UTF-8.
    """
    data = _dataset(file, key)
    if data.dtype.kind not in "OSU":
        raise UserError(f"{_where(file, key)} holds {data.dtype}: store names, such as demo_0, as texts.")
    return [str(text) for text in np.ravel(data[()])]


def find(file: Any, key: str, *, ndim: int, dtype: DTypeLike, rows: int | None = None) -> Dataset:
    """Find one data set that can be read as an array of ``dtype``: arguments and errors as those of :func:`read`."""
    data, wanted = _dataset(file, key), np.dtype(dtype)
    shape, stored = data.shape, data.dtype
    if stored.kind not in "biuf":
        raise UserError(f"{_where(file, key)} holds {stored} instead of numbers: store it as {wanted}.")
    if len(shape) != ndim and not (ndim == 1 and shape[1:] == (1,)):
        axes = "(rows,)" if ndim == 1 else f"(rows, {', '.join(['size'] * (ndim - 1))})"
        raise UserError(f"{_where(file, key)} has shape {shape}: store it with shape {axes}.")
    if 0 in shape:
        raise UserError(f"{_where(file, key)} is empty, shape {shape}: {AGAIN}, or leave it out.")
    if rows is not None and shape[0] != rows:
        raise UserError(
            f"{_where(file, key)} has {shape[0]} rows where {rows} belong: cut all keys to the same rows, or {AGAIN}."
        )
    return data


def read(file: Any, key: str, *, ndim: int, dtype: DTypeLike, rows: int | None = None) -> NDArray[Any]:
    """Read one data set as an array of ``dtype``.

    Numbers of any kind become floats or integers; ``bool`` accepts booleans and numbers that are all 0 or 1. Values beyond the
    range of a float type become infinite (see :func:`finite`).

    Args:
        file: an open file or a group in it.
        key: path of the data set in ``file``, for instance ``infos/qpos``.
        ndim: number of axes it must have; with ``ndim`` 1, shape (N, 1) is read as (N,).
        dtype: type of the result.
        rows: required length of the first axis; None for any length but 0.

    Raises:
        UserError: if the key is missing or not a data set, its values are not numbers (or not 0 and 1 for ``bool``, or
            not integers for an integer type), or its shape does not fit.
    """
    return next(read_each(file, [(key, ndim, dtype, rows)]))


def read_each(file: Any, wanted: Iterable[tuple[str, int, DTypeLike, int | None]]) -> Iterator[NDArray[Any]]:
    """Yield one array after the other, all found before the first is read: key, ``ndim``, ``dtype``, ``rows`` as in :func:`read`.

    Many small arrays are read several times as fast as one by one, because the HDF5 library works ahead.
    """
    found = [(find(file, key, ndim=ndim, dtype=dtype, rows=rows), key, ndim, dtype) for key, ndim, dtype, rows in wanted]
    for (data, key, ndim, dtype), values in zip(found, file.file.read_each(data.name for data, *_ in found), strict=True):
        yield _converted(values if len(data.shape) == ndim else values[:, 0], data, file, key, dtype)


def _converted(values: NDArray[Any], data: Dataset, file: Any, key: str, dtype: DTypeLike) -> NDArray[Any]:
    """Convert the values of an array as :func:`read` does."""
    wanted = np.dtype(dtype)
    if wanted.kind == "b" and data.dtype.kind != "b":
        _every(np.isin(values, (0, 1)), values, _where(file, key), "store 0 and 1, or booleans")
    elif wanted.kind in "iu" and data.dtype.kind == "f":
        _every(values == np.floor(values), values, _where(file, key), f"store it as {wanted}")
    with np.errstate(over="ignore"):
        return values.astype(wanted, copy=False)


def finite(array: NDArray[Any], file: Any, key: str) -> None:
    """Check that an array read from ``key`` has no NaN and no infinity.

    Raises:
        UserError: naming file, key, the number of bad rows and the first.
    """
    check_finite(array, _where(file, key))


def cached(
    path: str | Path,
    settings: Mapping[str, Any],
    read_file: Callable[[Draft], None],
    cache_dir: str | Path | None,
    name: str | None = None,
) -> Transitions:
    """Return the result of ``read_file``, from a memory-mapped copy if one exists for this very file and these settings.

    The copy's name holds a hash of the file's path, size and modification time and of ``settings``. A changed file or setting
    makes another copy. Two processes that need the same copy make it once. Rows go to the copy as they are read; it has its
    name when it is whole.

    Args:
        path: the HDF5 file.
        settings: everything else that determines the result, as plain JSON types, the reader's version included.
        read_file: function that reads and converts ``path`` into a draft.
        cache_dir: folder of the copies; None reads the file anew each time.
        name: start of the copy's name; None for that of ``path``.

    Raises:
        UserError: as ``read_file``; also if ``path`` is missing or ``cache_dir`` cannot be written.
    """
    path = Path(path)
    if cache_dir is None:
        draft = Draft()
        read_file(draft)
        return draft.table()
    if not path.is_file():
        raise UserError(f"There is no file {path}: check the path, or download the file from the data set's origin.")
    state = path.stat()
    wanted = [str(path.resolve()), state.st_size, state.st_mtime_ns, dict(settings)]
    digest = hashlib.blake2b(json.dumps(wanted, sort_keys=True).encode(), digest_size=8).hexdigest()
    copy = Path(cache_dir) / f"{name or path.stem}-{digest}.safetensors"
    if not copy.exists():
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(copy.with_name(f"{copy.name}.lock")):
                if not copy.exists():  # another process may have made it meanwhile
                    for part in copy.parent.glob(f".{copy.name}.*.part"):  # of a process that was killed
                        part.unlink()
                    with archive.replacing(copy) as temporary, temporary.open("wb+") as raw:
                        read_file(Draft(raw))
        except OSError as error:
            raise UserError(
                f"{cache_dir} cannot be written ({error.strerror or error}): choose a folder that may be written to, "
                "or cache_dir null to read the file anew each time."
            ) from error
    return archive.load(copy)


def _dataset(file: Any, key: str) -> Any:
    """Return the data set ``key``; an error lists its neighbours."""
    if not isinstance(file, Group):
        raise UserError(f"{_where(file, '')} is an array where a group belongs: {AGAIN}, or write it as a group.")
    try:
        found = file[key]
    except KeyError as error:
        group, place = file, ""
        for name in key.split("/")[:-1]:
            if name not in group or not hasattr(group[name], "keys"):
                break
            group, place = group[name], f"{place}{name}/"
        there = sorted(group, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
        raise UserError(
            f"{_path(file)} has no key {_full(file, key)!r} ({_full(file, place) or 'the file'} has {listed(there)}): "
            "write the file again with it, or give the file's own key."
        ) from error
    if isinstance(found, Group):
        raise UserError(f"{_where(file, key)} is a group of {', '.join(found)}: name one array in it, or write it as an array.")
    if found.away:
        raise UserError(f"{_where(file, key)} is there, but {found.away}.")
    return found


def _every(good: NDArray[np.bool_], values: NDArray[Any], where: str, cure: str) -> None:
    """Refuse the first row that is not ``good``."""
    if not good.all():
        good, values = np.atleast_1d(good), np.atleast_1d(values)
        row = int((~good.reshape(len(good), -1).all(axis=1)).argmax())
        raise UserError(f"{where} holds {values[row]} in row {row}: {cure}.")


def _path(file: Any) -> str:
    """Return the file's name on disk, for a group, too."""
    return str(file.file.filename)


def _full(file: Any, key: str) -> str:
    """Return the path of ``key`` from the root of the file."""
    return f"{file.name}/{key}".strip("/")


def _where(file: Any, key: str) -> str:
    return f"{_path(file)}: key {_full(file, key)!r}"
