"""Readers of other libraries' files take them part by part: no column lies in memory whole."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from format_files import d3rlpy_episodes, imitation_row, trajectories, write_d3rlpy, write_imitation, write_ogbench

from lightning_pbrl.data import imitation, ogbench
from lightning_pbrl.data.d3rlpy import read_d3rlpy
from lightning_pbrl.data.draft import Draft
from lightning_pbrl.data.imitation import read_imitation
from lightning_pbrl.data.npz import NPZ
from lightning_pbrl.data.ogbench import read_ogbench

arrow = pytest.mark.skipif("not __import__('importlib').util.find_spec('pyarrow')", reason="the extra arrow is not installed")
LENGTHS = [3, 4] * 20


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows that are appended to a draft at a time."""
    seen: list[int] = []
    append = Draft.append

    def spy(draft: Draft, rows: np.ndarray, final: int = 0) -> None:
        seen.append(len(rows))
        append(draft, rows, final)

    monkeypatch.setattr(Draft, "append", spy)
    return seen


def test_a_npz_file_is_read_by_windows(parts: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole: list[str] = []
    read = NPZ.read

    def spy(file: NPZ, key: str) -> np.ndarray:
        whole.append(key)
        return read(file, key)

    monkeypatch.setattr(NPZ, "read", spy)
    monkeypatch.setattr(ogbench, "WINDOW", 800)
    read_ogbench(write_ogbench(tmp_path / "a.npz", trajectories(LENGTHS)), "pointmaze-medium-navigate-singletask-v0")
    assert whole == ["terminals"] and max(parts) < 40 and sum(parts) == sum(LENGTHS)


def test_d3rlpy_is_read_by_episodes(parts: list[int], tmp_path: Path):
    read_d3rlpy(write_d3rlpy(tmp_path / "a.h5", d3rlpy_episodes(LENGTHS, [True] * len(LENGTHS))))
    assert parts == LENGTHS


@arrow
def test_imitation_is_read_by_trajectories(parts: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imitation, "STEPS", 8)
    read_imitation(write_imitation(tmp_path / "t", [imitation_row(steps, 0) for steps in LENGTHS]))
    assert max(parts) <= 8 and sum(parts) == sum(LENGTHS)


@arrow
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="counts resident pages as Linux does")
def test_pages_of_arrow_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imitation, "STEPS", 500)
    wide = {"obs": np.zeros((501, 500), np.float32).tolist(), "acts": np.zeros((500, 2), np.float32).tolist()}
    path = write_imitation(tmp_path / "t", [imitation_row(500, 0, **wide)] * 6)
    file = path / "data-00000-of-00001.arrow"

    def resident() -> int:
        """Bytes of the file that are in this process's memory."""
        _, _, mapping = Path("/proc/self/smaps").read_text().partition(f"{file}\n")
        return 1024 * int(re.search(r"^Rss: +(\d+) kB", mapping, re.MULTILINE)[1])  # type: ignore[index]

    seen = [resident() for _ in imitation._batches(path)]
    assert len(seen) == 6 and 0 < max(seen) < file.stat().st_size / 2
