"""HDF5 files: one sentence for everything that can be wrong, and copies that equal what was read."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from synthetic import synthetic_transitions

from lightning_pbrl.data.draft import Draft
from lightning_pbrl.data.hdf5 import cached, finite, has, open_hdf5, read
from lightning_pbrl.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "some.hdf5", "w") as file:
        file["matrix"] = np.arange(6.0).reshape(3, 2)
        file["column"] = np.array([[1.0], [0.0], [1.0]])
        file["flags"] = np.array([True, False, True])
        file["half"] = np.array([0.0, 0.5, 1.0])
        file["words"] = np.array([b"a", b"b"])
        file["nothing"] = np.zeros((0, 2))
        file["holes"] = np.array([[0.0, 1.0], [np.nan, 1.0], [0.0, np.inf]])
        file["huge"] = np.array([1e300])
        for number in (10, 2, 1):
            file[f"group/demo_{number}"] = np.zeros(1)
    return tmp_path / "some.hdf5"


def test_types_and_shapes(path: Path):
    with open_hdf5(path) as file:
        matrix = read(file, "matrix", ndim=2, dtype=np.float32, rows=3)
        assert matrix.dtype == np.float32
        assert matrix.tolist() == [[0, 1], [2, 3], [4, 5]]
        assert read(file, "column", ndim=1, dtype=np.float32).tolist() == [1, 0, 1]
        assert read(file, "column", ndim=2, dtype=np.float32).shape == (3, 1)
        assert read(file, "column", ndim=1, dtype=bool).tolist() == [True, False, True]
        assert read(file, "flags", ndim=1, dtype=np.int64).tolist() == [1, 0, 1]
        assert read(file["group"], "demo_2", ndim=1, dtype=np.float32).tolist() == [0]
        assert np.isinf(read(file, "huge", ndim=1, dtype=np.float32)).all()
        assert has(file, "group/demo_2")
        assert not has(file, "group/demo_3")
        finite(matrix, file, "matrix")


@pytest.mark.parametrize(
    ("key", "ndim", "dtype", "rows", "words"),
    [
        ("matrx", 2, "f4", None, ["no key 'matrx'", "the file has", "matrix", "write the file again"]),
        ("group/demo_3", 1, "f4", None, ["no key 'group/demo_3'", "group has demo_1, demo_2, demo_10"]),
        ("group/demo_2/obs", 1, "f4", None, ["no key 'group/demo_2/obs'", "demo_1"]),
        ("group", 1, "f4", None, ["'group' is a group of demo_1", "array"]),
        ("words", 1, "f4", None, ["'words' holds |S1", "store it as float32"]),
        ("matrix", 1, "f4", None, ["'matrix' has shape (3, 2)", "(rows,)"]),
        ("flags", 2, "f4", None, ["'flags' has shape (3,)", "(rows, size)"]),
        ("nothing", 2, "f4", None, ["'nothing' is empty"]),
        ("matrix", 2, "f4", 4, ["'matrix' has 3 rows where 4 belong"]),
        ("half", 1, bool, None, ["'half' holds 0.5 in row 1", "0 and 1"]),
        ("half", 1, "i8", None, ["'half' holds 0.5 in row 1", "int64"]),
    ],
)
def test_bad_arrays(path: Path, key: str, ndim: int, dtype: str, rows: int | None, words: list[str]):
    with open_hdf5(path) as file, pytest.raises(UserError) as error:
        read(file, key, ndim=ndim, dtype=dtype, rows=rows)
    for word in ["some.hdf5", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_row_that_is_not_finite(path: Path):
    with open_hdf5(path) as file, pytest.raises(UserError, match=r"some\.hdf5: key 'holes' .* 2 row\(s\), the first is row 1"):
        finite(read(file, "holes", ndim=2, dtype=np.float32), file, "holes")


def test_a_key_in_a_group_is_named_from_the_root(path: Path):
    with open_hdf5(path) as file, pytest.raises(UserError, match="no key 'group/demo_5'"):
        read(file["group"], "demo_5", ndim=1, dtype=np.float32)


def test_files_that_cannot_be_read(path: Path):
    with pytest.raises(UserError, match=r"no file .*nowhere\.hdf5"), open_hdf5(path.with_name("nowhere.hdf5")):
        pass
    page = path.with_name("page.hdf5")
    page.write_text("<html>Sign in</html>")
    with pytest.raises(UserError, match=r"page\.hdf5 is not an HDF5 file: download it again"), open_hdf5(page):
        pass
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"some\.hdf5 is truncated or damaged .*download it again"), open_hdf5(path):
        pass


def test_damage_that_shows_while_reading(tmp_path: Path):
    path = tmp_path / "packed.hdf5"
    with h5py.File(path, "w") as file:
        packed = file.create_dataset("x", data=np.random.default_rng(0).normal(size=1000), compression="gzip")
        place, size = packed.id.get_chunk_info(0).byte_offset, packed.id.get_chunk_info(0).size
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"packed\.hdf5 is truncated or damaged"), open_hdf5(path) as file:
        read(file, "x", ndim=1, dtype=np.float32)


class Reader:
    """Counts how often the file is read."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, draft: Draft) -> None:
        self.calls += 1
        data = synthetic_transitions(episodes=2, length=4, seed=self.calls)
        draft.begin(data.obs_dim, data.action_dim, data.about)
        draft.append(data.packed.numpy())
        draft.finish(data.episodes.offsets, data.reward, data.about)


def test_a_copy_is_used_until_file_or_settings_change(path: Path, tmp_path: Path):
    reader, folder = Reader(), tmp_path / "copies"
    first = cached(path, {"q": 1}, reader, folder)
    again = cached(path, {"q": 1}, reader, folder)
    assert reader.calls == 1
    assert again.fingerprint == first.fingerprint == synthetic_transitions(2, 4, seed=1).fingerprint
    assert torch.equal(again.column("obs"), synthetic_transitions(2, 4, seed=1).column("obs"))
    assert again.about == first.about
    cached(path, {"q": 2}, reader, folder)
    assert reader.calls == 2
    os.utime(path, ns=(0, 0))
    cached(path, {"q": 1}, reader, folder)
    assert reader.calls == 3
    cached(path, {"q": 1}, reader, None)
    assert reader.calls == 4
    assert len(list(folder.glob("some-*.safetensors"))) == 3


def test_copies_need_a_file_and_a_folder(path: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"no file .*nowhere\.hdf5"):
        cached(tmp_path / "nowhere.hdf5", {}, Reader(), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written .*cache_dir null"):
        cached(path, {}, Reader(), tmp_path / "file")


# There, but out of reach ---------------------------------------------------------------------------------------------------


def test_arrays_that_are_there_and_out_of_reach(tmp_path: Path) -> None:
    """A link whose target is lost, numbers in a lost file, and a virtual array that HDF5 would fill with zeros."""
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["numbers"] = np.ones(3)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["linked"] = h5py.ExternalLink("other.hdf5", "numbers")
        file["soft"] = h5py.SoftLink("/nowhere")
        file.create_dataset("apart", (3,), "f8", external=[(str(tmp_path / "apart.raw"), 0, 24)])
        file["apart"][:] = 2.0
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource("other.hdf5", "numbers", (3,))
        file.create_virtual_dataset("virtual", layout)
    with open_hdf5(tmp_path / "a.hdf5") as file:
        for key, value in (("linked", 1.0), ("virtual", 1.0), ("apart", 2.0)):
            assert read(file, key, ndim=1, dtype=np.float32).tolist() == [value] * 3
    (tmp_path / "other.hdf5").unlink()
    (tmp_path / "apart.raw").unlink()
    for key, words in (
        ("linked", "is there and cannot be opened .*: write the file again with the array itself in it, not a link"),
        ("soft", "is there and cannot be opened"),
        ("virtual", r"is there, but its numbers are in the file other\.hdf5, which is not: put it beside"),
        ("apart", r"is there, but its numbers are in the file .*apart\.raw, which is not: put it beside"),
    ):
        with pytest.raises(UserError, match=rf"a\.hdf5: key '{key}' {words}"), open_hdf5(tmp_path / "a.hdf5") as file:
            read(file, key, ndim=1, dtype=np.float32)


def test_a_compression_that_h5py_lacks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((3,))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())  # Zstandard; optional, so that HDF5 writes without it
        h5py.h5d.create(file.id, b"packed", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((3,)), plist)
    message = r"key 'packed' is there, but compressed by filter 32015 \(.*\), which h5py lacks: write the file again with gzip"
    with pytest.raises(UserError, match=message), open_hdf5(tmp_path / "a.hdf5") as file:
        read(file, "packed", ndim=1, dtype=np.float32)
