"""imitation's trajectories: rows against a slow loop, infos that stay closed, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from format_files import imitation_row as row
from format_files import write_imitation

from lightning_pbrl.data import imitation
from lightning_pbrl.data.imitation import read_imitation, recognises
from lightning_pbrl.errors import UserError

arrow = pytest.mark.skipif("not __import__('importlib').util.find_spec('pyarrow')", reason="the extra arrow is not installed")


@arrow
@pytest.mark.parametrize(("complete", "steps_at_a_time"), [("truncated", 8_192), ("terminated", 4)])
def test_rows_are_those_of_a_slow_loop(complete: Any, steps_at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imitation, "STEPS", steps_at_a_time)
    rows = [row(3, 0), row(1, 100, terminal=False), row(2, 200), row(4, 300), row(2, 400)]
    found = read_imitation(write_imitation(tmp_path / "t", rows, files=2), complete, tmp_path / "cache")
    assert found.episodes.lengths.tolist() == [3, 1, 2, 4, 2]
    at = 0
    for each in rows:
        steps = len(each["acts"])
        for step in range(steps):
            over = step == steps - 1 and each["terminal"] and complete == "terminated"
            assert found.column("obs")[at].tolist() == each["obs"][step]
            assert found.column("next_obs")[at].tolist() == each["obs"][step + 1]
            assert found.column("action")[at].numpy() == pytest.approx(each["acts"][step], abs=2e-5)
            assert float(found.reward[at]) == each["rews"][step]
            assert bool(found.column("terminated")[at]) == over
            assert bool(found.column("truncated")[at]) == (step == steps - 1 and not over)
            at += 1
    assert found.drawable is None and found.about["incomplete"] == 1 and found.success is None


@arrow
def test_without_rewards_they_are_unknown(tmp_path: Path):
    rows = [{key: value for key, value in row(2, 0).items() if key != "rews"}]
    assert read_imitation(write_imitation(tmp_path / "t", rows)).reward.isnan().all()


@arrow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"acts": [0, 1]}, "actions must be continuous"),
        ({"acts": [[3.0, 0.0], [0.0, 0.0]]}, "leaves \\[-1, 1\\]"),
        ({"obs": [[0.0], [0.0]]}, "2 observations for 2 steps"),
        ({"obs": [[0.0], [0.0, 1.0], [0.0]]}, "vectors of different sizes"),
        ({"obs": [[0.0], [float("nan")], [0.0]]}, "NaN or infinite"),
        ({"rews": [0.0]}, "other numbers of rews"),
        ({"terminal": 1}, "true and false"),
    ],
)
def test_refused_columns(change: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(UserError, match=said):
        read_imitation(write_imitation(tmp_path / "t", [row(2, 0, **change)]))


@arrow
@pytest.mark.parametrize(
    ("change", "said"),
    [({"obs": []}, "trajectory 0 has 0 observations for 2 steps"), ({"obs": [[0.0]], "acts": [], "rews": []}, "has no step")],
)
def test_an_empty_trajectory_by_itself_is_refused(change: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imitation, "STEPS", 1)
    with pytest.raises(UserError, match=said):
        read_imitation(write_imitation(tmp_path / "t", [row(2, 0, **change), row(2, 100)]))


@arrow
def test_damaged_and_missing_files(tmp_path: Path):
    path = write_imitation(tmp_path / "t", [row(2, 0)])
    file = next(path.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match="truncated or not a stream"):
        read_imitation(path)
    file.unlink()
    with pytest.raises(UserError, match=f"has no file {file.name}"):
        read_imitation(path)


def test_files_elsewhere_are_refused(tmp_path: Path):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../a.arrow"}]}))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {"obs": 1, "acts": 1, "terminal": 1}}))
    assert recognises(tmp_path) and not recognises(tmp_path / "state.json")
    with pytest.raises(UserError, match="does not name the files"):
        read_imitation(tmp_path)


def test_the_package_is_named_when_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}]}))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"lightning-pbrl\[arrow\]"):
        read_imitation(tmp_path)


def test_rows_after_the_end_of_a_stream_are_not_lost(tmp_path: Path):
    """A batch whose length became 0 reads as the end."""
    folder = write_imitation(tmp_path / "a", [row(3, 0), row(4, 100), row(2, 200)])
    (file,) = folder.glob("*.arrow")
    whole = file.read_bytes()
    second = whole.rindex(b"\xff" * 4, 0, len(whole) - 8)  # the last 8 bytes are the true end
    file.write_bytes(whole[: second + 4] + bytes(4) + whole[second + 8 :])
    with pytest.raises(UserError, match="it ends at byte"):
        read_imitation(folder)
