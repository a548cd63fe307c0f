"""Ways to damage a file: bytes of any format, and the structure of each.

A mutation of bytes takes content and gives content. A mutation of structure changes a sound file in place with its format's own
tools, as another program would have written it. Each also tells how many numbers it may have changed: an accepted file may
differ from the sound one in as many numbers and in nothing else.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import sqlite3
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Rng = random.Random
Mutation = Callable[[Path, Rng], int]
DEEP = "[" * 100_000
HUGE = (2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


# -- bytes -------------------------------------------------------------------------------------------------------------


def mutate_bytes(content: bytes, rng: Rng) -> tuple[bytes, int]:
    """The content with one or several places changed, and how many bytes were touched."""
    data, touched = bytearray(content), 0
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        touched += _once(data, rng)
    return bytes(data), touched


def _once(data: bytearray, rng: Rng) -> int:
    if not data:
        return 0
    kind = rng.choice(("bit", "bit", "bit", "byte", "byte", "zero", "random", "delete", "double", "cut", "size", "head"))
    size = min(rng.choice((1, 2, 4, 8, 16, 64, 256)), len(data))
    at = rng.randrange(len(data) - size + 1)
    if kind == "head":
        at, kind = rng.randrange(min(512, len(data) - size + 1)), "random"
    if kind == "bit":
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
        return 1
    if kind == "byte":
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        return 1
    if kind == "cut":
        del data[rng.randrange(1, len(data) + 1) :]
        return 0
    if kind == "size":  # an absurd number where a size may stand
        value = struct.pack("<Q", rng.choice(HUGE) & (2**64 - 1))[: rng.choice((4, 8))]
        data[at : at + len(value)] = value
        return len(value)
    if kind == "delete":
        del data[at : at + size]
    elif kind == "double":
        data[at:at] = data[at : at + size]
    else:
        data[at : at + size] = bytes(size) if kind == "zero" else rng.randbytes(size)
    return size


# -- HDF5 --------------------------------------------------------------------------------------------------------------


def hdf5(keys: Callable[[Any], list[str]], texts: str | None = None, attribute: tuple[str, str] | None = None) -> list[Mutation]:
    """Mutations of the structure of HDF5 files.

    Args:
        keys: arrays that the reader needs.
        texts: a key of texts.
        attribute: a group's key, and an attribute that holds JSON.
    """

    def other(make: Callable[[Any, str, Any, Rng], int]) -> Mutation:
        def mutation(path: Path, rng: Rng) -> int:
            with h5py.File(path, "r+") as file:
                key = rng.choice(keys(file))
                values = file[key][()]
                del file[key]
                return make(file, key, values, rng)

        return mutation

    def holds(value: Callable[[Any, Rng], Any], touched: bool = False) -> Mutation:
        def make(file: Any, key: str, values: Any, rng: Rng) -> int:
            file[key] = value(values, rng)
            return int(np.size(values)) if touched else 0

        return other(make)

    def declares(file: Any, key: str, values: Any, rng: Rng) -> int:
        shape = (rng.choice((len(values), 2**20, 2**33, 2**45)), *values.shape[1:])
        chunks = rng.choice((None, (min(1000, shape[0]), *values.shape[1:])))
        file.create_dataset(key, shape=shape, dtype=values.dtype, chunks=chunks, compression="gzip" if chunks else None)
        return 0

    def grown(file: Any, key: str, values: Any, rng: Rng) -> int:
        data = file.create_dataset(key, data=values, chunks=True, maxshape=(None,) * values.ndim)
        data.resize([size * rng.choice((1, 2, 2**30)) + (axis == 0) for axis, size in enumerate(values.shape)])
        return 0

    def points(link: Callable[[str], Any]) -> Mutation:
        def make(file: Any, key: str, values: Any, rng: Rng) -> int:
            file[key] = link(key)
            return 0

        return other(make)

    def typed(dtype: Any) -> Mutation:
        return other(lambda file, key, values, rng: file.create_dataset(key, shape=values.shape, dtype=dtype) is None)

    def virtual(file: Any, key: str, values: Any, rng: Rng) -> int:
        layout = h5py.VirtualLayout(shape=values.shape, dtype=values.dtype)
        layout[...] = h5py.VirtualSource("elsewhere.hdf5", "x", shape=values.shape)
        file.create_virtual_dataset(key, layout)
        return 0

    found: list[Mutation] = [
        other(lambda file, key, values, rng: 0),
        other(lambda file, key, values, rng: file.create_group(key) is None),
        other(declares),
        other(declares),
        other(grown),
        other(virtual),
        holds(lambda values, rng: h5py.Empty("f4")),
        holds(lambda values, rng: "words"),
        holds(lambda values, rng: np.array(["a", "b"], dtype="S")),
        holds(lambda values, rng: np.swapaxes(values, 0, -1)[:, None]),
        holds(lambda values, rng: values[: rng.choice((0, 1, len(values) - 1))]),
        holds(lambda values, rng: np.repeat(values, 2, axis=0)),
        holds(lambda values, rng: values.astype(complex)),
        holds(lambda values, rng: np.full(values.shape, rng.choice((np.nan, np.inf, -np.inf)))),
        holds(lambda values, rng: values.astype(rng.choice(("f8", "f2", ">f4", ">f8", "g"))), touched=True),
        holds(lambda values, rng: np.zeros(values.shape, [("a", "f4"), ("b", "i4")])),
        points(lambda key: h5py.SoftLink("/nowhere")),
        points(lambda key: h5py.SoftLink(f"/{key}")),
        points(lambda key: h5py.ExternalLink("elsewhere.hdf5", "/x")),
        typed(h5py.vlen_dtype(np.int32)),
        typed(h5py.string_dtype()),
        typed(h5py.ref_dtype),
        typed("V8"),
        typed(h5py.enum_dtype({"A": 1, "B": 2})),
    ]
    if texts is not None:
        names = (np.array([b"\xff\xfe", b"demo_1"]), np.array([b"demo_9999", b"demo_1"]))
        odd: tuple[Any, ...] = (*names, h5py.Empty("S4"), np.arange(3), 1.0)
        found += [_replace(texts, value) for value in odd]
    if attribute is not None:
        words = (DEEP, '{"a":' * 5000, "{", b"{\x00}", b"\xff\xfe", 10.5, np.arange(4), h5py.Empty("S3"), "[1]", "9" * 5000)
        found += [_set(*attribute, value) for value in words]
        counts = (2**62, -1, "six", np.arange(3), 1e300, h5py.Empty("i8"))
        found += [_set("data/demo_1", "num_samples", value) for value in counts]
    return found


def _replace(key: str, value: Any) -> Mutation:
    def mutation(path: Path, rng: Rng) -> int:
        with h5py.File(path, "r+") as file:
            del file[key]
            file[key] = value
        return 0

    return mutation


def _set(key: str, name: str, value: Any) -> Mutation:
    def mutation(path: Path, rng: Rng) -> int:
        with h5py.File(path, "r+") as file:
            if name in file[key].attrs:
                del file[key].attrs[name]
            if isinstance(value, str) and len(value) > 60_000:  # more than an attribute holds in place
                file[key].attrs.create(name, value, dtype=h5py.string_dtype())
            elif isinstance(value, bytes):
                file[key].attrs.create(name, value, dtype=h5py.string_dtype(length=len(value)))
            else:
                file[key].attrs[name] = value
        return 1

    return mutation


# -- JSON, text --------------------------------------------------------------------------------------------------------

ODD = (
    *(DEEP, '{"a":' * 5000, "1" * 400, "1" * 5000, "NaN", "-Infinity", "1e999", "null", "true", "[]", "{}", '""', "-1", "1.5"),
    *('"\\ud800"', '"\\u0000"', '"x"', '{"a": NaN}', "9223372036854775808", "-9223372036854775809", '{"a": 1, "a": 2}', ""),
)
"""What may stand where a value belongs."""


def odd_json(path: Path, rng: Rng) -> int:
    """One value of one line replaced by an odd one."""
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = _odd(lines[at], rng)
    path.write_text("\n".join(lines) + "\n")
    return 1


def _odd(text: str, rng: Rng) -> str:
    """JSON of an object with the value of one key replaced, at any depth."""
    marker, whole = "@odd@", json.loads(text)
    place = whole
    while True:
        key = rng.choice(list(place))
        if isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        break
    place[key] = marker
    return json.dumps(whole).replace(f'"{marker}"', rng.choice(ODD))


def odd_file(path: Path, rng: Rng) -> int:
    """A whole text in another encoding, or something else in its place."""
    text = path.read_text()
    odd = (text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode(), b"", DEEP.encode(), b"\xff" * 20, b"1" * 5000, b"\n\n")
    odd += (text.replace("0", "٠").encode(), text.replace(" ", "\xa0").encode(), text.replace("\n", "\r").encode(), b"- &a [*a]")
    path.write_bytes(rng.choice(odd))
    return 0


def odd_digits(path: Path, rng: Rng) -> int:
    """One number of a text made another, or absurd."""
    words = path.read_text().split(" ")
    words[rng.randrange(len(words))] = rng.choice(("9" * 5000, "99999999999999999999", "-5", "1e3", "٣", "", "0x10", "2.0"))
    path.write_text(" ".join(words))
    return 1


# -- zip archives of arrays -----------------------------------------------------------------------------------------------


def odd_npz(path: Path, rng: Rng) -> int:
    """One array of an .npz file is missing, there twice, of another type, or declares another shape."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    content, touched = members.pop(name), 0
    kind = rng.choice(("gone", "twice", "objects", "texts", "shape", "bytes", "zeros", "version"))
    if kind == "objects":
        members[name] = _npy(np.array([[1, 2], "three", None], dtype=object))
    elif kind == "texts":
        members[name] = _npy(np.array(["a", "b"]))
    elif kind == "zeros":
        members[name] = _npy(np.zeros((1000, 1000, 3), np.float32))
    elif kind == "shape":
        shape = rng.choice((b"(99999999999, ", b"(-1, ", b"((((((", b"(1e9, ", b"(10**9, ", b"(True, "))
        members[name] = content.replace(b"(", shape, 1)
    elif kind in ("bytes", "version"):
        members[name], touched = mutate_bytes(content, rng) if kind == "bytes" else (content[:6] + b"\x09" + content[7:], 0)
    elif kind == "twice":
        members[name] = content
    with zipfile.ZipFile(path, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for each, data in members.items():
            archive.writestr(each, data)
        if kind == "twice":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile tells of the double name
                archive.writestr(name, content)
    return touched


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


# -- pickles -------------------------------------------------------------------------------------------------------------


def odd_pickle(path: Path, rng: Rng) -> int:
    """A pickle of something else, or with sizes that are not so. Nothing in it can run code."""
    content: Any = pickle.loads(path.read_bytes())  # noqa: S301 - written a moment ago by this program
    key = rng.choice(list(content))
    looped: list[Any] = []
    looped.append(looped)
    bomb: list[Any] = [0] * 10
    for _ in range(12):
        bomb = [bomb] * 10
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    values: tuple[Any, ...] = (looped, bomb, deep, None, "words", {"a": 1}, [1, [2]], 10**400, [], {1, 2}, b"\xff")
    values += (np.array(["a"]), np.array([1, "b"], dtype=object), np.zeros(3, [("a", "f4")]), np.zeros((3, 0)))
    values += (np.zeros((4, 4, 4)), np.array(5.0), np.arange(3) * 1j)
    kind = rng.choice(("value", "value", "value", "gone", "list", "size"))
    if kind == "value":
        content[key] = rng.choice(values)
    elif kind == "gone":
        del content[key]
    elif kind == "list":
        content = list(content.items())
    data = pickle.dumps(content, protocol=rng.choice((2, 3, 4, 5)))
    if kind == "size":
        index = struct.pack("<I", rng.choice((10**5, 10**6)))
        odd = (b"r" + index, b"p999999\n", b"\x8e" + struct.pack("<Q", 2**40), b"\x95" + struct.pack("<Q", 2**40), b"B" + index)
        odd += (b"\x96" + struct.pack("<Q", 2**33), b"X" + index, b"\x8b" + struct.pack("<i", 2**30), b"Q")
        odd += (b"cfractions\nFraction\n)R",)
        data = data[:2] + rng.choice(odd) + data[2:]
    path.write_bytes(data)
    return 0


# -- SQLite ---------------------------------------------------------------------------------------------------------------

CELLS: tuple[Any, ...] = (
    *("text", "", b"\x00\xff", b"", 2.5, 1e300, -(2**63), 2**63 - 1, -1, 0, 1, 0.3, "NaN", DEEP, "[1]", "{", "\x00"),
    *('{"a": NaN}', "null", "1" * 5000, "12", "pair", "rating", b"{}", None),
)


def odd_cell(path: Path, rng: Rng) -> int:
    """One cell of a label store holds something else."""
    with sqlite3.connect(path) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(pbrl_questions)")]
        rows = [row[0] for row in db.execute("SELECT rowid FROM pbrl_questions")]
        column, row, value = rng.choice(columns), rng.choice(rows), rng.choice(CELLS)
        try:
            db.execute(f"UPDATE OR REPLACE pbrl_questions SET {column} = ? WHERE rowid = ?", (value, row))
            if db.execute("SELECT count(*) FROM pbrl_questions").fetchone()[0] < len(rows):
                db.rollback()
        except sqlite3.IntegrityError:
            db.rollback()
    db.close()
    return 1


def odd_table(path: Path, rng: Rng) -> int:
    """A table is missing, has another name or other columns, or segment content is damaged."""
    with sqlite3.connect(path) as db:
        blob = db.execute("SELECT content FROM pbrl_clips").fetchone()[0]
        changed, touched = mutate_bytes(blob, rng)
        statement, values = rng.choice(
            (
                ("DROP TABLE pbrl_questions", ()),
                ("DROP TABLE pbrl_clips", ()),
                ("DROP TABLE pbrl_info", ()),
                ("ALTER TABLE pbrl_questions RENAME TO pbrl_question", ()),
                ("ALTER TABLE pbrl_questions RENAME COLUMN status TO state", ()),
                ("DELETE FROM pbrl_info", ()),
                ("UPDATE pbrl_info SET value = ?", (rng.choice(("9" * 5000, "x", "", "-1", "1.5", b"1", "2")),)),
                ("CREATE TABLE other (a, b)", ()),
                ("UPDATE pbrl_clips SET content = ? WHERE rowid = 1", (changed,)),
                ("UPDATE pbrl_clips SET content = ? WHERE rowid = 1", (rng.choice((b"", "text", 5, blob[:-4])),)),
                ("DELETE FROM pbrl_clips WHERE rowid = 1", ()),
            )
        )
        db.execute(statement, values)
    db.close()
    return touched
