"""The benchmark of clips runs, and every clip is the film of its episode."""

from __future__ import annotations

import json

import pytest

from lightning_pbrl.envs.render import check_rendering
from lightning_pbrl.errors import UserError

pytest.importorskip("dm_control.suite")


def test_first_and_last_frames_are_those_of_the_films(monkeypatch, tmp_path, capsys):
    from benchmarks import clips

    try:
        check_rendering()
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(clips, "LENGTH", 6)
    monkeypatch.setattr(clips, "SIZE", 48)
    monkeypatch.setattr(clips, "EPISODES", 1)
    assert clips.main(["--questions", "1", "--out", str(tmp_path / "clips.json")]) == 0
    rows = json.loads((tmp_path / "clips.json").read_text())["rows"]
    assert [row["drawn from"] for row in rows] == ["seed and actions", "seed and actions", "rebuilt states", "stored states"]
    assert all(row["frames_compared"] == 4 and row["largest_share_of_pixels_apart"] == 0.0 for row in rows)
    assert all(row["draw_s_per_100"] > 0 and row["encode_cpu_s_per_100"] > 0 for row in rows)
    assert "Meta-World, collected" in capsys.readouterr().out
