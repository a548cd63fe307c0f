"""SIGKILL at ten random moments of online runs: no answer lost, none asked twice, the budget spent, the same end bit for bit."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import torch
from kill_while_acting import main
from toys import assert_same
from warm import CONTEXT, PATIENCE, say_to

from lightning_pbrl.rng import question_keys

BUDGET, PER_ROUND, KILLS = 20, 4, 10
KEYS = question_keys(1, 0, BUDGET).tolist()


def committed(folder: Path) -> list[int]:
    with sqlite3.connect(folder / "labels.sqlite") as db:
        return [row[0] for row in db.execute("select number from pbrl_questions order by number")]


def kill(method: str, folder: Path) -> None:
    say_to(folder / "output.txt")
    main(method, folder, KILLS)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["QPA", "ActiveRLHF"])
def test_ten_kills(method: str, tmp_path: Path) -> None:
    process = CONTEXT.Process(target=kill, args=(method, tmp_path))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0, (tmp_path / "output.txt").read_text()[-3000:]
    end = torch.load(tmp_path / "straight" / "end.pt", weights_only=True)
    total, _, remaining, *_ = end["asked"]
    assert (total, remaining, end["env_steps"]) == (BUDGET, 0, 340)
    kinds = [len(start) for start, _, _ in end["labels"]]
    assert sum(kinds) == BUDGET and (method == "QPA" or min(kinds) > 0)
    assert method == "QPA" or end["weights"]["normalizer.count"] > 340  # statistics of every step that was acted on
    broken = sorted(tmp_path.glob("broken*"))
    kills = [(folder / "kills.txt").read_text().count("killed") if (folder / "kills.txt").exists() else 0 for folder in broken]
    assert sum(kills) == KILLS
    for folder, count in zip(broken, kills, strict=True):
        assert committed(folder) == list(range(BUDGET))
        heard = [int(line) for line in (folder / "calls.txt").read_text().split()]
        assert list(dict.fromkeys(heard)) == KEYS
        assert len(heard) - BUDGET <= PER_ROUND * count  # only a batch whose commit a kill prevented comes again
        assert_same(end, torch.load(folder / "end.pt", weights_only=True))
