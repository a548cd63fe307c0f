"""A few hundred damaged files of every format: each is refused in a sentence, or read for what it says."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.mutation_formats import FORMATS, Format
from benchmarks.mutations import SOUND, Bench, lines_only, row, same
from lightning_pbrl.data import hdf5_process

HERE = [kind for kind in FORMATS if kind.needs is None or (kind.needs == "pyarrow" and find_spec("pyarrow"))]


@pytest.mark.parametrize("kind", HERE, ids=[kind.name for kind in HERE])
def test_damaged_files_are_refused_or_read_for_what_they_say(kind: Format, tmp_path: Path):
    bench = Bench(kind, tmp_path)
    found = [bench.one(number) for number in range(16)]
    assert [each for each in found if each["outcome"] not in SOUND] == []


def test_what_counts_as_a_changed_value():
    sound = {"x": np.array([[1.0, 2.0], [3.0, np.nan]]), "y": np.array(["a", None], dtype=object)}
    assert same(sound, sound) is None
    other = {**sound, "x": np.array([[1.0, 5.0], [6.0, np.nan]])}
    assert same(other, sound, 2) is None
    assert same(other, sound, 1) == "2 numbers differ"
    assert same({**sound, "x": sound["x"].reshape(4)}, sound, 9) == "x: shape (4,) instead of (2, 2)"
    assert same({"x": sound["x"]}, sound, 9) == "keys ['y']"
    assert lines_only(["a", "c"], ["a", "b", "c"], 0) and lines_only(["a", "bc"], ["a", "b", "c"], 1)
    assert not lines_only(["a", "bc"], ["a", "b", "c"], 0) and not lines_only(["a", "x", "c"], ["a", "b", "c"], 0)


def test_memory_is_counted_for_each_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only the file whose reader takes much is too large, not those after it, whatever the process held before."""
    hdf5_process._stop_idle()  # of other tests
    taken = iter([0, 0, 64, 0])  # the sound file is read first

    def reader(path: Path) -> list[int]:
        np.ones(next(taken) * 2**20, np.uint8)
        return [1]

    kind = Format("toy", "toy.bin", lambda path: path.write_bytes(b"abcdefgh"), reader, None, [], 1)
    bench = Bench(kind, tmp_path)
    monkeypatch.setattr("benchmarks.mutations.MEMORY", 48 * 2**20)
    before = np.ones(96 * 2**20, np.uint8)
    found = [bench.one(number) for number in range(3)]
    assert [each["outcome"] for each in found] == ["equal", "too large", "equal"]
    assert 48 * 2**20 <= found[1]["peak"] < before.nbytes


def test_faults_are_counted(tmp_path: Path):
    """A reader that fails, one that loses rows, one that names no file."""

    def reader(path: Path) -> list[int]:
        content = path.read_bytes()
        if content[:2] != b"ab":
            raise KeyError("first")
        return [len(content)]

    def stored(path: Path) -> dict[str, np.ndarray]:
        return {"bytes": np.frombuffer(path.read_bytes(), np.uint8)}

    kind = Format("toy", "toy.bin", lambda path: path.write_bytes(b"abcdefgh"), reader, stored, [], 1)
    bench = Bench(kind, tmp_path)
    told = row(kind, [bench.one(number) for number in range(60)])
    assert told["exception"] > 0 and told["other content"] > 0 and told["equal"] > 0
    assert told["files"] == 60 == sum(told[name] for name in (*SOUND, "exception", "other content"))
    assert len(told["faults"]) == told["exception"] + told["other content"]
    assert told["faults"][0]["said"].startswith(("KeyError: 'first'", "bytes: shape"))
