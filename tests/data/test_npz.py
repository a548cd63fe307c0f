"""The reader of .npz files: checksums, sizes before memory, and nothing but plain numbers."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lightning_pbrl.data.npz import read_npz
from lightning_pbrl.errors import UserError


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def written(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_wanted_arrays_are_read(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.arange(6).reshape(2, 3), y=np.array(["a"]))
    found = read_npz(tmp_path / "a.npz", "copy it again", "x".__eq__)
    assert list(found) == ["x"] and found["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_npz(tmp_path / "a.npz", "copy it again")["y"].tolist() == ["a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy(np.ones(4)).replace(b"(4,)", b"(9,)"), "declares shape (9,) of float64 and holds 32 bytes: copy it again."),
        (npy(np.ones(4)).replace(b"(4,), ", b"(2**9,"), "holds something other than plain numbers ("),
        (npy(np.ones(4)).replace(b"(4,)", b"(-4,)")[:-1], "declares shape (-4,) of float64 and holds 32 bytes"),
        (npy(np.ones(4))[:-8], "declares shape (4,) of float64 and holds 24 bytes: copy it again."),
        (npy(np.array([1, "b"], dtype=object)), "holds something other than plain numbers (Object arrays cannot be loaded when"),
        (b"words", "holds something other than plain numbers ("),
    ],
)
def test_an_array_fills_its_member(content: bytes, said: str, tmp_path: Path):
    path = written(tmp_path / "a.npz", ("x.npy", content))
    with pytest.raises(UserError) as caught:
        read_npz(path, "copy it again")
    assert str(caught.value).startswith(f"{path}: key 'x' {said}")


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path):
    path = written(tmp_path / "a.npz", ("x.npy", npy(np.ones(4))))
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02") + 24  # the member's size in the directory of the archive
    path.write_bytes(content[:at] + (2**31).to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(UserError, match=r"a\.npz: key 'x' declares 2,147,483,648 bytes and the file holds \d+ for it: copy it"):
        read_npz(path, "copy it again")


def test_one_array_per_name(tmp_path: Path):
    path = written(tmp_path / "a.npz", ("x.npy", npy(np.ones(4))), ("x.npy", npy(np.zeros(4))))
    with pytest.raises(UserError, match=r"a\.npz: key 'x' is there twice: copy it again\."):
        read_npz(path, "copy it again")
