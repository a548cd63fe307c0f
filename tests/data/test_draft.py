"""Data files written window by window: what is whole equals a table, what is not is no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import h5py
import numpy as np
import pytest
import torch
from d4rl_files import episodes, write_d4rl
from synthetic import synthetic_transitions

from lightning_pbrl.data import archive, draft
from lightning_pbrl.data.d4rl import read_d4rl
from lightning_pbrl.data.draft import Draft, pack
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of a few rows, in the draft and in what the process that reads HDF5 sends."""
    for module in (draft, archive):
        monkeypatch.setattr(module, "WINDOW", 200)
    monkeypatch.setattr("lightning_pbrl.data.d4rl.WINDOW", 200)


def test_rows_are_packed_in_the_order_of_a_table():
    data = synthetic_transitions(episodes=2, length=3)
    columns = [data.column(name).numpy() for name in ("obs", "action", "next_obs", "terminated", "truncated")]
    assert np.array_equal(pack(*columns), data.packed.numpy(), equal_nan=True)
    assert np.isinf(pack(np.full((1, 1), 1e300), np.zeros((1, 1)), np.zeros((1, 1)))[0, 0])


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("length", [3, 4])
def test_a_draft_in_memory_and_one_in_a_file_are_the_same_table(tmp_path: Path, length: int):
    """Also where an odd number of floats lies before the integers, which begin at a multiple of eight."""
    data = synthetic_transitions(episodes=3, length=length)
    odd = torch.arange(len(data)) % 2 == 1
    memory, path = Draft(), tmp_path / "a.safetensors"
    with path.open("wb+") as file:
        for each in (memory, Draft(file)):
            each.begin(data.obs_dim, data.action_dim, {})
            for rows in data.packed.split(2):
                each.append(rows.numpy())
            assert [first for first, _ in each.windows()][:3] == [0, 3, 6]  # 200 bytes hold three rows of 15 floats
            each.finish(data.episodes.offsets, data.reward, data.about, odd, ~odd, odd.nonzero()[:, 0])
    for table in (memory.table(), archive.load(path)):
        assert torch.equal(table.packed.nan_to_num(-7), data.packed.nan_to_num(-7))
        assert torch.equal(table.success, odd) and torch.equal(table.success_unknown, ~odd)
        assert table.drawable.tolist() == list(range(1, 3 * length, 2)) and torch.equal(table.reward, data.reward)
        assert table.about == data.about and table._fingerprint == data.fingerprint


@pytest.mark.usefixtures("small_windows")
def test_rows_can_be_dropped_narrowed_and_changed(tmp_path: Path):
    table = Draft()
    table.begin(2, 1, {})
    count = np.arange(20.0)[:, None]
    table.append(pack(np.hstack([count, -count]), count / 20, np.hstack([count + 1, -count - 1])))

    def even_without_the_second_entry(first: int, rows: np.ndarray) -> np.ndarray:
        assert rows[0, 0] == first
        return np.delete(rows, [1, 4], axis=1)[first % 2 :: 2]

    table.revise(even_without_the_second_entry, 1, 1)
    table.finish(torch.tensor([0, 10]), torch.zeros(10), {})
    found = table.table()
    assert found.column("obs")[:, 0].tolist() == [*range(0, 20, 2)]
    assert found.column("next_obs")[:, 0].tolist() == [*range(1, 20, 2)]


def test_what_is_not_known_at_the_beginning_has_room(tmp_path: Path):
    with (tmp_path / "a").open("wb+") as file:
        table = Draft(file)
        table.begin(1, 1, {"names": ['"' * 9] * 2_000})
        table.append(np.zeros((1, 6), np.float32))
        table.finish(torch.tensor([0, 1]), torch.zeros(1), {"names": ['"' * 9] * 2_000, "more": "x" * 4_000})
        with pytest.raises(ValueError, match="has no room"):
            table.finish(torch.tensor([0, 1]), torch.zeros(1), {"names": ['"' * 9] * 9_000})


def compressed(path: Path, chunks: tuple[int, int]) -> None:
    """Write the matrices of a D4RL file in chunks of gzip."""
    with h5py.File(path, "r+") as file:
        for key in {"observations", "actions", "next_observations"} & set(file):
            values = file[key][()]
            del file[key]
            sizes = (chunks[0], min(chunks[1], values.shape[1]))
            file.create_dataset(key, data=values, chunks=sizes, compression="gzip", compression_opts=1)


@pytest.mark.parametrize("chunks", [None, (5, 1), (7, 3)])
@pytest.mark.parametrize("without", [(), ("next_observations",), ("timeouts", "next_observations")])
def test_a_d4rl_file_read_by_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks, without):
    """Equal to the same file read at once, whatever its chunks and types; 33 rows of 11 floats."""
    columns = episodes(("timeout", "terminal", "timeout", "nothing"), (11, 9, 11, 2))
    columns["observations"] = columns["observations"].astype(np.float64)
    columns["observations"][5, 1] += 1e-5  # within rounding: not equal bit for bit
    path = write_d4rl(tmp_path / "a.hdf5", columns, without)
    whole = read_d4rl(path, max_episode_steps=11)
    monkeypatch.setattr("lightning_pbrl.data.draft.WINDOW", 200)
    monkeypatch.setattr("lightning_pbrl.data.d4rl.WINDOW", 200)
    if chunks:
        compressed(path, chunks)
    parts = read_d4rl(path, max_episode_steps=11, cache_dir=tmp_path / "cache")
    assert parts.fingerprint == whole.fingerprint
    assert torch.equal(parts.packed.nan_to_num(-7), whole.packed.nan_to_num(-7))
    assert {**parts.about, "file": None} == {**whole.about, "file": None}


@pytest.mark.usefixtures("small_windows")
def test_a_file_that_marks_its_episodes_is_gone_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows are not read again, neither to be changed nor to be hashed; the incomplete episode at the end is no part of it."""
    monkeypatch.setattr(Draft, "read", lambda *_: pytest.fail("rows are read again"))
    columns = episodes(("timeout", "terminal", "timeout", "nothing"), (11, 9, 11, 2))
    table = read_d4rl(write_d4rl(tmp_path / "a.hdf5", columns), cache_dir=tmp_path / "cache")
    assert table.episodes.offsets.tolist() == [0, 11, 20, 31]
    ends = [int(table.column(name).nonzero().sum()) for name in ("terminated", "truncated")]
    assert ends == [19, 10 + 30] and bool(table.column("learned_reward").isnan().all())
    again = Transitions(table.packed, table.episodes.offsets, table.reward, None, 3, 2, {})
    assert again.fingerprint == table.fingerprint


@pytest.mark.usefixtures("small_windows")
def test_a_reset_without_a_mark_changes_rows_that_are_written_already(tmp_path: Path):
    columns = episodes(("timeout", "timeout"), (11, 9))
    columns["timeouts"][10] = False  # next_observations alone tell that an episode ends here
    with pytest.warns(UserWarning, match="1 reset"):
        table = read_d4rl(write_d4rl(tmp_path / "a.hdf5", columns), cache_dir=tmp_path / "cache")
    assert table.column("truncated").nonzero().tolist() == [[10], [19]] and not table.column("terminated").any()
    again = Transitions(table.packed, table.episodes.offsets, table.reward, None, 3, 2, {})
    assert again.fingerprint == table.fingerprint


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("behind", [0, 512])
def test_chunks_lie_where_the_file_says(tmp_path: Path, behind: int):
    """In a file with a user block, too, and where columns lie in chunks of their own."""
    columns = episodes(("timeout", "timeout"), (11, 9))
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w", userblock_size=behind) as file:
        for key, values in columns.items():
            chunks = {"chunks": (5, 1), "compression": "gzip"} if values.ndim == 2 else {}
            file.create_dataset(key, data=values, **chunks)
    table = read_d4rl(path)
    for name, key in (("obs", "observations"), ("action", "actions"), ("next_obs", "next_observations")):
        assert table.column(name).numpy() == pytest.approx(columns[key], abs=1e-4), name


@pytest.mark.usefixtures("small_windows")
def test_damage_in_a_later_window_names_its_key_and_leaves_no_copy(tmp_path: Path):
    columns = episodes(("timeout",) * 3, (10, 10, 10))
    path = write_d4rl(tmp_path / "a.hdf5", columns)
    compressed(path, (5, 1))
    with h5py.File(path) as file:
        place, size = file["actions"].id.get_chunk_info(7).byte_offset, file["actions"].id.get_chunk_info(7).size
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.hdf5 is truncated or damaged \(key 'actions': .*\): download it again"):
        read_d4rl(path, cache_dir=tmp_path / "cache")
    assert [each.suffix for each in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_first_bad_row_of_all_windows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lightning_pbrl.data.d4rl.WINDOW", 200)
    columns = episodes(("timeout",), (30,))
    columns["next_observations"][[17, 25]] = np.nan
    columns["actions"][28] = 2.0
    path = write_d4rl(tmp_path / "a.hdf5", columns)
    with pytest.raises(UserError, match=r"'next_observations' is NaN or infinite in 2 row\(s\), the first is row 17: drop"):
        read_d4rl(path)
    columns["next_observations"][17], columns["next_observations"][25] = columns["observations"][[18, 26]]
    columns["actions"][21] = -1.5
    with pytest.raises(UserError, match=r"in 2 row\(s\) by up to 1, the first is row 21 with 1.5"):
        read_d4rl(write_d4rl(tmp_path / "b.hdf5", columns))


def test_a_process_that_is_killed_leaves_no_copy_and_the_next_clears_up(tmp_path: Path):
    """SIGKILL when all rows are written and the header is not."""
    path, cache = write_d4rl(tmp_path / "a.hdf5", episodes(("timeout",), (30,))), tmp_path / "cache"
    program = f"""
        import os, signal
        from lightning_pbrl.data import d4rl, draft
        draft.Draft.finish = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
        d4rl.read_d4rl({str(path)!r}, cache_dir={str(cache)!r})
    """
    done = subprocess.run([sys.executable, "-c", dedent(program)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [each.suffix for each in sorted(cache.iterdir())] == [".part", ".lock"]
    assert len(read_d4rl(path, cache_dir=cache)) == 30
    assert [each.suffix for each in sorted(cache.iterdir())] == [".safetensors", ".lock"]
