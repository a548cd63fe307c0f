"""The process that reads HDF5 files: what it reads, and how it is given up."""

from __future__ import annotations

import shutil
from pathlib import Path
from textwrap import dedent
from typing import Any

import h5py
import numpy as np
import pytest

from lightning_pbrl.data import hdf5_child, hdf5_process
from lightning_pbrl.data.hdf5_process import check_hdf5, opened
from lightning_pbrl.errors import UserError


def test_arrays_texts_and_attributes_come_as_they_are(tmp_path: Path):
    path, rng = tmp_path / "a.hdf5", np.random.default_rng(0)
    long = rng.normal(size=(5_000_000,)).astype("f4")  # 20 MB: several slabs
    arrays = {"f": rng.normal(size=(7, 3)), "i": np.arange(4, dtype=">i2"), "b": np.array([True, False]), "h": np.ones(3, "f2")}
    with h5py.File(path, "w") as file:
        for key, values in {**arrays, "long": long}.items():
            file[f"in/{key}"] = values
        file.create_dataset("packed", data=arrays["f"], chunks=(2, 3), compression="gzip", shuffle=True)
        file["words"], file["more"] = np.array([b"a", b"bc"]), ["d", "é"]
        file["one"] = 2.5
        file["in"].attrs.update({"text": "é", "count": np.int64(3), "list": [1.5, 2.5]})
    with opened(path) as file:
        assert list(file) == ["in", "more", "one", "packed", "words"]
        assert sorted(file["in"]) == ["b", "f", "h", "i", "long"] and "in/f" in file and "in/x" not in file
        for key, values in arrays.items():
            found = file["in"][key]
            assert found.shape == values.shape and found.dtype == values.dtype and np.array_equal(found[()], values)
        assert np.array_equal(file["in/long"][()], long)
        assert np.array_equal(file["packed"][1:3, 0], arrays["f"][1:3, 0])
        assert file["words"][()].tolist() == ["a", "bc"] and file["more"][()].tolist() == ["d", "é"]
        assert file["one"][()] == 2.5
        assert file["in"].attribute("text") == "é" and file["in"].attribute("count") == 3
        assert file["in"].attribute("x") is None and file["in"].attribute("x", 7) == 7
        assert file["in"].attribute("list") == [1.5, 2.5] and file["in/f"].file.filename == str(path)
        first = file._child
        with opened(path) as again:  # two files at once are two processes
            assert again._child is not first and np.array_equal(again["in/f"][()], arrays["f"])
    with opened(path) as file:
        assert file._child in (first, again._child)  # and a process is used again
        del first, again
    check_hdf5(path)
    with h5py.File(path, "r+") as file:  # nobody holds the file any more
        file["new"] = 1.0


def broken(path: Path, kind: str) -> Path:
    """A file whose array ``x`` cannot be what it says."""
    with h5py.File(path, "w") as file:
        if kind == "null":
            file["x"] = h5py.Empty("f4")
        elif kind == "contiguous":
            file.create_dataset("x", shape=(2**40, 3), dtype="f4")
        elif kind == "chunked":
            file.create_dataset("x", shape=(2**40, 3), chunks=(1000, 3), dtype="f4", compression="gzip")
        elif kind == "incomplete":
            data = file.create_dataset("x", shape=(4000, 3), chunks=(1000, 3), dtype="f4")
            data[:2500] = 1.0
        elif kind == "link":
            file["x"] = h5py.ExternalLink("other.hdf5", "/x")
        elif kind == "texts":
            file["x"] = np.array([b"\xff\xfe"])
        elif kind == "type":
            odd = h5py.h5t.IEEE_F32LE.copy()
            odd.set_ebias(255)
            h5py.h5d.create(file.id, b"x", odd, h5py.h5s.create_simple((3,))).write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones(3, "f4"))
        elif kind == "room":
            data = file.create_dataset("x", shape=(4, 3), maxshape=(4, 5), dtype="f4", chunks=(4, 5))
            data[...] = 1.0
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("null", "is truncated or damaged (key 'x': it holds nothing (a null dataspace)): download it again from its source."),
        ("contiguous", "(key 'x': shape (1099511627776, 3) declares 13,194,139,533,312 bytes and the file holds 0 for it)"),
        ("chunked", "(key 'x': shape (1099511627776, 3) declares 13,194,139,533,312 bytes and the file holds 0 for it)"),
        ("incomplete", "(key 'x': it has 3 chunks and its shape (4000, 3) takes 4)"),
        ("link", "key 'x' is there and cannot be opened ("),
        ("texts", "(key 'x': 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte)"),
        ("type", "(key 'x': its numbers are in a form that no machine has)"),
        ("room", "(key 'x': shape (4, 3) contradicts the room for (4, 5))"),
    ],
)
def test_what_a_file_declares_is_checked_before_memory_is_taken(kind: str, said: str, tmp_path: Path):
    path = broken(tmp_path / "x.hdf5", kind)
    with pytest.raises(UserError) as caught, opened(path) as file:
        file["x"][()]
    assert said in str(caught.value) and str(caught.value).startswith(str(path))
    with opened(path) as file:  # the process goes on
        assert list(file) == ["x"]


def test_two_arrays_do_not_share_bytes(tmp_path: Path):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["a"], file["x"], file["y"] = np.arange(10.0), np.arange(100.0), np.arange(100.0) + 100
        file["again"] = file["x"]  # the same array by another name is none of two
        places = [file[key].id.get_offset().to_bytes(8, "little") for key in "xy"]
    content = path.read_bytes()
    assert content.count(places[0]) == 1
    path.write_bytes(content.replace(places[0], (int.from_bytes(places[0], "little") + 80).to_bytes(8, "little")))
    with opened(path) as file:
        assert file["y"][()][0] == 100
        with pytest.raises(UserError, match=r"key 'x': its bytes belong to another array or lie beyond the end of the file"):
            file["x"][()]


def test_a_flag_in_one_piece_is_checked_where_it_is_read(tmp_path: Path):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = np.array([True, False]), np.float32(2.5)
        place = file["x"].id.get_offset()
    with opened(path) as file:
        assert file["x"][()].tolist() == [True, False] and file["y"][()] == np.float32(2.5) and file["y"].shape == ()
    content = bytearray(path.read_bytes())
    content[place] = 7
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"key 'x'.*a flag in it is neither 0 nor 1"), opened(path) as file:
        file["x"][()]


@pytest.mark.parametrize("links", [h5py.SoftLink("/a"), h5py.ExternalLink("other.hdf5", "/a")])
def test_arrays_behind_links_and_user_blocks(links: Any, tmp_path: Path):
    """What is not in one piece of this very file goes through the library."""
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["a"] = np.arange(4.0) + 10
    with h5py.File(tmp_path / "x.hdf5", "w", userblock_size=512) as file:
        file["a"], file["x"] = np.arange(4.0) + 10, links
    with opened(tmp_path / "x.hdf5") as file:
        assert file["x"][()].tolist() == file["a"][()].tolist() == [10, 11, 12, 13]


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("while True: pass", "reading it does not come to an end"),
        ("signal.raise_signal(signal.SIGSEGV)", "the HDF5 library failed with SIGSEGV"),
        ("bytes(2**33)", "it declares more than memory holds"),
        ("raise RuntimeError('bad heap')", "bad heap"),
    ],
)
def test_a_library_that_loops_or_crashes_is_given_up(does: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The other process runs the real program; what opens the file in it does ``does`` instead."""
    program = tmp_path / "child.py"
    program.write_text(
        dedent(f"""
            import runpy, sys
            code = open({hdf5_child.__file__!r}).read().replace("SECONDS = 3.0", "SECONDS = 0.2")
            head, body = code.split('        self.file = h5py.File(path, "r")')
            exec(compile(head + "        {does}" + body, "child", "exec"))
        """)
    )
    for beside in ("hdf5_chunks.py", "hdf5_limits.py", "hdf5_pieces.py"):
        shutil.copy(Path(hdf5_child.__file__).with_name(beside), tmp_path)
    (tmp_path / "x.hdf5").touch()
    monkeypatch.setattr(hdf5_process.hdf5_child, "__file__", str(program))
    monkeypatch.setattr(hdf5_process, "_idle", [])
    with pytest.raises(UserError) as caught, opened(tmp_path / "x.hdf5"):
        pass
    assert str(caught.value) == f"{tmp_path / 'x.hdf5'} is truncated or damaged ({said}): download it again from its source."
    for child in hdf5_process._idle:
        child.stop()
