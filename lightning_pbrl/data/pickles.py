"""Restricted reader for pickles of numpy arrays, which never executes anything from the file.

``pickle.load`` calls whatever a file names. This reader accepts only the few names that mean "an array" or "bytes" in files of
numpy 1 and numpy 2 (protocols 0 to 5). Even those resolve to small records that store their arguments, not to numpy's own
functions. The arrays are made from the stored bytes after the pickle has been read, so a forged state never reaches numpy's C
code. Reference: Python documentation, "pickle: Restricting Globals".
"""

from __future__ import annotations

import gc
import math
import mmap
import pickle
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lightning_pbrl.data.guard import declared, listed, reading, reason
from lightning_pbrl.data.pickle_scan import check_sizes
from lightning_pbrl.errors import UserError

_NUMBER = re.compile(r"[<>|=]?[biuf]\d{1,2}|\?")


def load_pickle(path: str | Path) -> Any:
    """Read a pickle of dicts, lists, tuples, strings, numbers and numeric numpy arrays, nothing else.

    Returns:
        The object; its arrays may be read-only.

    Raises:
        UserError: if the file is missing or truncated, or names any class or function that numpy does not use to store an
            array. The error gives the name; nothing is called.
    """
    path = Path(path)
    with _checked(path) as file:
        content, size = _finish(_ArraysOnly(file).load(), {})
        declared(size, path.stat().st_size, "holds lists that", "write the file again without lists of one another")
        return content


def load_records(path: str | Path, classes: Collection[str]) -> Any:
    """Read a pickle of instances of classes that are not imported; they become :class:`Record`, and so do their parts.

    Args:
        path: the file.
        classes: names of the classes, "module.Class". Whatever else the file names stays closed: it can be neither called nor
            read.

    Raises:
        UserError: if the file is missing, truncated or no pickle.
    """
    with _checked(Path(path)) as file:
        return _Records(file, classes).load()


@contextmanager
def _checked(path: Path) -> Iterator[BinaryIO]:
    """Open a pickle whose sizes are checked, and name it in every error."""
    with reading(path, "is truncated or not a pickle", "copy it again from where it came"), path.open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as operations:
            check_sizes(operations)
        collects = gc.isenabled()
        gc.disable()  # it would look at all objects of a large file again and again, and none of them is garbage yet
        try:
            yield file
        except UserError as error:
            raise UserError(f"{path} {error}") from error
        finally:
            if collects:
                gc.enable()


class _Dtype:
    """Stand-in for ``numpy.dtype`` that stores a number type and its byte order."""

    real: np.dtype | None = None

    def __init__(self, spec: object, *flags: object) -> None:
        if not isinstance(spec, str) or not _NUMBER.fullmatch(spec):
            raise UserError(f"holds an array of type {spec!r} instead of numbers: store plain numeric arrays.")
        self.spec, self.big = spec, False

    def __setstate__(self, state: tuple) -> None:
        self.big, self.real = state[1] == ">", None

    def make(self) -> np.dtype:
        """Return the real type."""
        if self.real is None:
            self.real = self._plain().newbyteorder(">" if self.big else "<")
        return self.real

    def _plain(self) -> np.dtype:
        return np.dtype(self.spec)


class _Array:
    """Stand-in for ``numpy.ndarray`` and ``_reconstruct`` that stores shape, type and bytes."""

    __slots__ = ("state",)  # a file has thousands of them

    def __init__(self, *prototype: object) -> None:
        self.state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        stored = data if isinstance(data, bytes | bytearray) else None  # objects are of no use: they go when the file is read
        self.state = (stored, dtype, shape, "F" if fortran else "C", None)

    def make(self) -> NDArray:
        """Return the real array."""
        if self.state is None:
            raise UserError("holds an array without content: write the file again.")
        data, dtype, shape, order, axes = self.state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            raise UserError("holds an array of Python objects instead of numbers: store plain numeric arrays.")
        kind = dtype.make()
        if len(data) != kind.itemsize * math.prod(shape):
            raise UserError("holds an array whose bytes do not fill its shape: copy it again from where it came.")
        flat = np.frombuffer(data, dtype=kind)
        if order == "K":  # numpy 2.3 and later: C order along permuted axes
            return flat.reshape(shape).transpose(axes)
        return flat.reshape(shape, order="F" if order == "F" else "C")


class _FromBuffer(_Array):
    """Stand-in for ``_frombuffer``, numpy's array in protocol 5."""

    __slots__ = ()

    def __init__(self, data: bytes, dtype: _Dtype, shape: tuple, order: str, axes: tuple | None = None) -> None:
        self.state = (data, dtype, shape, order, axes)


class _Scalar(_Array):
    """Stand-in for ``scalar``: one number of an array type."""

    __slots__ = ()

    def __init__(self, dtype: _Dtype, data: bytes = b"") -> None:
        self.state = (data, dtype, (), "C", None)

    def make(self) -> Any:
        """Return the plain Python number."""
        return super().make().item()


class _Bytes(bytes):
    """Stand-in for ``_codecs.encode`` and ``bytes``: bytes as protocols 0 to 2 write them."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> _Bytes:
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: object) -> None:
        raise UserError("gives attributes to bytes: write the file again.")


_CORES = ("numpy.core", "numpy._core")  # numpy 1 and numpy 2
_KNOWN: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Bytes,
    ("builtins", "bytes"): _Bytes,
    ("__builtin__", "bytes"): _Bytes,
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _Scalar for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _FromBuffer for core in _CORES},
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that resolves the names of arrays and no others."""

    def find_class(self, module: str, name: str) -> type:
        """Return the stand-in for ``module.name``; refuse all but the names of arrays."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise UserError(
                f"is refused because it asks for {listed([f'{module}.{name}'])}, which could run code: if you trust it, convert "
                "it to .npz with plain arrays."
            ) from None


class Record:
    """Stand-in for an instance of another package's class: its attributes by name, as they lie in the file."""

    state: Mapping[Any, Any] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.state = state

    def array(self, name: str) -> NDArray[Any]:
        """Return an attribute that is a numeric array.

        Raises:
            UserError: if it is something else, or damaged.
        """
        if not isinstance(item := self.state.get(name), _Array):
            raise UserError(f"has no array of numbers in {name!r}.")
        try:
            return np.asarray(item.make())
        except UserError:
            raise
        except Exception as error:  # as in data.guard, whose block is too slow for thousands of arrays
            raise UserError(f"has a damaged array in {name!r} ({reason(error)}): write the file again.") from error


def joined(records: Sequence[Record], name: str) -> NDArray[Any] | None:
    """Return an attribute of several records, (n, ...), at once; None unless all are arrays of one shape, type and C order."""
    stored: list[Any] = [getattr(record.state.get(name), "state", None) or (None,) for record in records]
    array = records[0].array(name)
    alike, data = stored[0][1:], [each[0] for each in stored]
    if alike[2] != "C" or not all(each[1:] == alike for each in stored):
        return None
    if not all(type(each) is bytes and len(each) == array.nbytes for each in data):
        return None
    return np.frombuffer(b"".join(data), array.dtype).reshape(len(records), *array.shape)


class _Closed:
    """Stand-in for what nobody reads: whatever the file does with it does nothing."""

    def __init__(self, *given: object, **named: object) -> None:
        pass

    def _nothing(self, *given: object) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _nothing


class _AnyDtype(_Dtype):
    """Stand-in for ``numpy.dtype`` that refuses types without numbers when an array of them is read."""

    def __init__(self, *given: object) -> None:
        self.given, self.big = given, False

    def _plain(self) -> np.dtype:
        return _Dtype(*self.given)._plain()


class _Records(pickle.Unpickler):
    """Unpickler that resolves the names of arrays and of some classes, and closes all others."""

    def __init__(self, file: BinaryIO, classes: Collection[str]) -> None:
        super().__init__(file)
        self.classes = classes

    def find_class(self, module: str, name: str) -> type:
        """Return the stand-in for ``module.name``."""
        if f"{module}.{name}" in self.classes:
            return Record
        return _AnyDtype if (module, name) == ("numpy", "dtype") else _KNOWN.get((module, name), _Closed)


def _finish(item: Any, done: dict[int, tuple[Any, int]]) -> tuple[Any, int]:
    """Replace stand-ins by arrays and numbers, and return the object with its size in bytes after all lists are expanded.

    Args:
        item: an object from the pickle.
        done: results by the id of the original object; an object that occurs repeatedly is processed once.
    """
    if id(item) in done:
        return done[id(item)]
    finished: Any
    if isinstance(item, _Array):
        finished = item.make()
        size = getattr(finished, "nbytes", 8)
    elif isinstance(item, dict):
        finished = {_finish(key, done)[0]: _finish(value, done) for key, value in item.items()}
        size = sum(value[1] for value in finished.values())
        finished = {key: value[0] for key, value in finished.items()}
    elif isinstance(item, list | tuple):
        parts = [_finish(value, done) for value in item]
        finished, size = type(item)(part[0] for part in parts), sum(part[1] for part in parts)
    elif isinstance(item, _Dtype | type):
        raise UserError("holds a type where data belong: store plain numeric arrays.")
    else:
        return item, 8
    done[id(item)] = finished, size
    return finished, size
