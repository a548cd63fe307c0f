"""The restricted unpickler: arrays of every numpy and protocol come in, nothing else does, nothing runs."""

from __future__ import annotations

import datetime
import os
import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pytest

from lightning_pbrl.data.pickle_scan import check_sizes
from lightning_pbrl.data.pickles import load_pickle
from lightning_pbrl.errors import UserError

RNG = np.random.default_rng(0)
CONTENT = {
    "floats": RNG.normal(size=(7, 3)).astype(np.float32),
    "doubles": RNG.normal(size=5),
    "fortran": np.asfortranarray(RNG.normal(size=(4, 3))),
    "strided": RNG.normal(size=(6, 4))[::2, ::-1],
    "permuted": RNG.normal(size=(2, 3, 4)).transpose(1, 0, 2).copy(order="K"),
    "big_endian": np.arange(4, dtype=">i4"),
    "bools": np.array([[True], [False]]),
    "empty": np.zeros((0, 3), np.float32),
    "scalar_array": np.array(3.5),
    "high bytes": np.arange(256, dtype=np.uint8),
}


def dumped(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int):
    loaded = load_pickle(dumped(tmp_path / "a.pkl", CONTENT, protocol))
    assert list(loaded) == list(CONTENT)
    for name, expected in CONTENT.items():
        assert np.array_equal(loaded[name], expected), name
        assert loaded[name].shape == expected.shape
        assert loaded[name].dtype == expected.dtype, name


@pytest.mark.parametrize("protocol", range(6))
def test_plain_content(tmp_path: Path, protocol: int):
    shared = np.arange(3)
    content = {"list": [1, 2.5, None, True, "text", b"bytes"], "tuple": (shared, [shared]), 3: {"x": np.float32(1.5)}}
    loaded = load_pickle(dumped(tmp_path / "a.pkl", content, protocol))
    assert loaded["list"] == [1, 2.5, None, True, "text", b"bytes"]
    assert loaded["tuple"][0].tolist() == loaded["tuple"][1][0].tolist() == [0, 1, 2]
    assert loaded[3] == {"x": 1.5}


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_module_names_of_numpy_1_and_2(tmp_path: Path, core: str):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    here = type(array).__reduce__(array)[0].__module__
    text = pickle.dumps({"a": array}, protocol=2).replace(here.encode(), core.encode())
    (tmp_path / "a.pkl").write_bytes(text)
    assert core in "".join(str(arg) for _, arg, _ in pickletools.genops(text))
    assert np.array_equal(load_pickle(tmp_path / "a.pkl")["a"], array)


class Attack:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_a_command_is_refused(tmp_path: Path, protocol: int):
    sentinel = tmp_path / "sentinel"
    content = {"observations": np.zeros((2, 2)), "actions": Attack(os.system, f"touch {sentinel}")}
    path = dumped(tmp_path / "evil.pkl", content, protocol)
    with pytest.raises(UserError, match=r"evil\.pkl is refused because it asks for (posix|nt)\.system"):
        load_pickle(path)
    assert not sentinel.exists()
    pickle.loads(path.read_bytes())  # the attack is real: Python's own reader falls for it
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Attack(eval, "1 + 1"), "eval"),
        (Attack(getattr, "", "join"), "getattr"),
        (Attack(np.load, "x"), "load"),
        (Attack(np.fromfile, "x"), "fromfile"),
        (datetime.date(2025, 1, 1), "datetime.date"),
        ({1, 2}, "set"),
        (os.path.join, "join"),
        (1 + 2j, "complex"),
    ],
)
def test_every_other_name_is_refused(tmp_path: Path, content: object, name: str):
    with pytest.raises(UserError, match=f"refused because it asks for .*{name}, which could run code"):
        load_pickle(dumped(tmp_path / "a.pkl", content, protocol=2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([{}, []], dtype=object), "type 'O8' instead of numbers"),
        (np.array(["a", "b"]), "type 'U1' instead of numbers"),
        (np.zeros(2, dtype=[("x", "f4")]), "type 'V4' instead of numbers"),
        (np.dtype("f4"), "a type where data belong"),
        (np.ndarray, "a type where data belong"),
    ],
)
def test_only_numeric_arrays(tmp_path: Path, content: object, message: str):
    with pytest.raises(UserError, match=message):
        load_pickle(dumped(tmp_path / "a.pkl", content))


def test_forged_states_build_nothing(tmp_path: Path):
    array = pickle.dumps(np.arange(4, dtype=np.float32), protocol=2)
    shape = pickle.dumps((4,), protocol=2)[2:-1]  # K\x04\x85 and a memo
    assert shape[:3] in array
    (tmp_path / "a.pkl").write_bytes(array.replace(shape[:3], b"K\xff\x85"))  # claims 255 entries
    with pytest.raises(UserError, match="bytes do not fill its shape"):
        load_pickle(tmp_path / "a.pkl")
    # BUILD on a class or function of ours: (numpy.ndarray).__setstate__({...})
    (tmp_path / "b.pkl").write_bytes(b"cnumpy\nndarray\n}S'make'\nK\x01sb.")
    with pytest.raises(UserError, match="truncated or not a pickle"):
        load_pickle(tmp_path / "b.pkl")
    (tmp_path / "c.pkl").write_bytes(b"cnumpy\nndarray\n)\x81.")  # an array that never got a state
    with pytest.raises(UserError):
        load_pickle(tmp_path / "c.pkl")


@pytest.mark.parametrize("keep", [0, 1, 50, -1])
def test_truncated(tmp_path: Path, keep: int):
    path = dumped(tmp_path / "a.pkl", CONTENT)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"a\.pkl is truncated or not a pickle .*copy it again"):
        load_pickle(path)


def test_missing_and_foreign(tmp_path: Path):
    with pytest.raises(UserError, match=r"There is no file .*absent"):
        load_pickle(tmp_path / "absent.pkl")
    (tmp_path / "text.pkl").write_text("hello")
    with pytest.raises(UserError, match="not a pickle"):
        load_pickle(tmp_path / "text.pkl")


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (b"r" + struct.pack("<I", 10**6), "place 1000000 of the memo is used after 2 operations"),
        (b"p999999\n", "place 999999 of the memo is used after 2 operations"),
        (b"\x8e" + struct.pack("<Q", 2**40), "what is declared before byte 1,099,511,627,787 is longer than the file"),
        (b"\x95" + struct.pack("<Q", 2**40), "the frame at byte 2 is longer than the file"),
        (b"X" + struct.pack("<I", 2**31), "what is declared before byte 2,147,483,655 is longer than the file"),
        (b"I12", "the line at byte 3 has no end"),
        (b"\xff", "unknown operation 255 at byte 2"),
    ],
)
def test_sizes_are_checked_before_memory_is_taken(operation: bytes, said: str, tmp_path: Path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04" + operation + b"K\x01.")
    if operation == b"I12":
        path.write_bytes(b"\x80\x04I12")
    with pytest.raises(UserError) as caught:
        load_pickle(path)
    assert str(caught.value) == f"{path} is truncated or not a pickle ({said}): copy it again from where it came."


@pytest.mark.parametrize("protocol", range(6))
def test_sound_pickles_pass_the_check_of_sizes(protocol: int):
    content = {"x": [np.arange(3.0), np.float32(2.5), (1, -(10**30), 2.5, None, True)], "é": "text" * 100, "b": b"\xff" * 300}
    check_sizes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(ValueError, match=r"it has no end|the frame at byte 2 is longer than the file"):
        check_sizes(pickle.dumps(content, protocol=protocol)[:-1])


def test_lists_of_one_another_are_finished_once_and_not_written_out(tmp_path: Path):
    path, row = tmp_path / "a.pkl", np.arange(3.0)
    path.write_bytes(pickle.dumps({"x": [row, row]}))
    first, second = load_pickle(path)["x"]
    assert first is second and first.tolist() == [0, 1, 2]
    bomb: list = [0] * 10
    for _ in range(8):
        bomb = [bomb] * 10
    path.write_bytes(pickle.dumps({"x": bomb}))
    with pytest.raises(UserError, match=r"a\.pkl holds lists that declares 8,000,000,000 bytes and the file holds \d+ for it"):
        load_pickle(path)
    looped: list = []
    looped.append(looped)
    path.write_bytes(pickle.dumps({"x": looped}))
    with pytest.raises(UserError, match=r"a\.pkl is truncated or not a pickle \(nested too deeply\)"):
        load_pickle(path)
