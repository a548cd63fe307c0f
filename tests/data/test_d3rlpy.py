"""d3rlpy's replay buffers: rows against a slow loop, episodes by number, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from format_files import d3rlpy_episodes, write_d3rlpy

from lightning_pbrl.data.d3rlpy import read_d3rlpy, recognises
from lightning_pbrl.errors import UserError


@pytest.mark.parametrize("parts", [1, 2, 11])
def test_rows_are_those_of_a_slow_loop(parts: int, tmp_path: Path):
    lengths, ended = [3, 1, 4, 2, 5, 1, 2, 3, 1, 2, 4, 2], [True, False] * 6  # more than ten: 10 stands before 2 in the file
    episodes = d3rlpy_episodes(lengths, ended, parts)
    found = read_d3rlpy(write_d3rlpy(tmp_path / "a.h5", episodes), cache_dir=tmp_path / "cache")
    assert found.episodes.lengths.tolist() == lengths
    row, unknown = 0, []
    for episode, over in zip(episodes, ended, strict=True):
        obs = episode["observations"] if parts == 1 else np.concatenate(episode["observations"], axis=1)
        for step in range(len(obs)):
            last = step == len(obs) - 1
            assert found.column("obs")[row].tolist() == obs[step].tolist()
            assert found.column("next_obs")[row].tolist() == obs[step if last else step + 1].tolist()
            assert found.column("action")[row].numpy() == pytest.approx(episode["actions"][step], abs=2e-5)
            assert float(found.reward[row]) == episode["rewards"][step, 0]
            assert bool(found.column("terminated")[row]) == (last and over)
            assert bool(found.column("truncated")[row]) == (last and not over)
            unknown += [row] if last and not over else []
            row += 1
    assert found.drawable is not None
    assert found.drawable.tolist() == sorted(set(range(row)) - set(unknown))
    assert found.about["observation"] == ([2] if parts == 1 else [2 + j for j in range(parts)])


def changed(path: Path, key: str, values: Any) -> Path:
    """Replace an array of a file, or delete it."""
    with h5py.File(path, "r+") as file:
        del file[key]
        if values is not None:
            file[key] = values
    return path


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("actions_1", None, "no key 'actions_1'"),
        ("actions_1", np.zeros((2, 2), np.int64), "discrete"),
        ("actions_1", np.full((2, 2), 3.0), "leaves \\[-1, 1\\]"),
        ("observations_0", np.zeros((3, 1, 8, 8), np.uint8), "holds pictures"),
        ("observations_0", np.zeros((3, 5)), "one environment"),
        ("observations_1", np.full((2, 2), np.nan), "NaN or infinite"),
        ("rewards_0", np.zeros((2, 1)), "2 rows where 3 belong"),
        ("terminated_0", 2, "holds 2"),
        ("num_episodes", 1, "'num_episodes' is 1"),
        ("version", "2.0", "version 2.0"),
        ("columns", ["observations", "actions"], "no column 'rewards'"),
    ],
)
def test_refused_files(key: str, values: Any, said: str, tmp_path: Path):
    path = write_d3rlpy(tmp_path / "a.h5", d3rlpy_episodes([3, 2], [True, False]))
    with pytest.raises(UserError, match=said):
        read_d3rlpy(changed(path, key, values))


def test_bounds_and_recognition(tmp_path: Path):
    episodes = d3rlpy_episodes([3, 2], [True, False])
    episodes[0]["actions"] = np.array([[-2, 4], [0, 5], [2, 6]], np.float32)
    episodes[1]["actions"] = np.array([[1, 4], [1, 4]], np.float32)
    path = write_d3rlpy(tmp_path / "a.h5", episodes)
    found = read_d3rlpy(path, action_bounds=[[-2, 4], [2, 6]])
    assert found.column("action")[1].tolist() == [0, 0]
    assert found.column("action")[3].numpy() == pytest.approx([0.5, -1], abs=2e-5)
    assert recognises(path) and not recognises(tmp_path / "none.h5")


def test_a_group_in_place_of_observations(tmp_path: Path):
    path = write_d3rlpy(tmp_path / "a.h5", d3rlpy_episodes([4, 3], [True, False]))
    with h5py.File(path, "r+") as file:
        del file["observations_0"]
        file.create_group("observations_0")
    with pytest.raises(UserError, match="'observations_0' is a group"):
        read_d3rlpy(path)
