"""SIGKILL at ten random moments of online runs: no answer lost, none asked twice, the budget spent, the same end bit for bit."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toys import assert_same

from lightning_pbrl.rng import question_keys

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "kill_while_acting.py"
BUDGET, PER_ROUND, KILLS = 20, 4, 10
KEYS = question_keys(1, 0, BUDGET).tolist()


def committed(folder: Path) -> list[int]:
    with sqlite3.connect(folder / "labels.sqlite") as db:
        return [row[0] for row in db.execute("select number from pbrl_questions order by number")]


@pytest.mark.slow
def test_ten_kills_of_qpa(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path), str(KILLS)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    end = torch.load(tmp_path / "straight" / "end.pt", weights_only=True)
    assert end["asked"] == [BUDGET, 0, 0] and end["env_steps"] == 340
    broken = sorted(tmp_path.glob("broken*"))
    kills = [(folder / "kills.txt").read_text().count("killed") if (folder / "kills.txt").exists() else 0 for folder in broken]
    assert sum(kills) == KILLS
    for folder, count in zip(broken, kills, strict=True):
        assert committed(folder) == list(range(BUDGET))
        heard = [int(line) for line in (folder / "calls.txt").read_text().split()]
        assert list(dict.fromkeys(heard)) == KEYS
        assert len(heard) - BUDGET <= PER_ROUND * count  # only a batch whose commit a kill prevented comes again
        assert_same(end, torch.load(folder / "end.pt", weights_only=True))
