"""SIGKILL at any point, then resume: no label lost, none asked twice, the weights of an uninterrupted run."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toys import assert_same

from lightning_pbrl.rng import question_keys

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "killable_run.py"
BUDGET, AT_ONCE = 48, 4


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The run in a process group of its own."""
    folder.mkdir(exist_ok=True)
    with open(folder / "output.txt", "ab") as output:
        return subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], stdout=output, stderr=output)


def calls(folder: Path) -> list[int]:
    path = folder / "calls.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def committed(folder: Path) -> list[int]:
    """Numbers of the answered questions, read as another program would."""
    try:
        with sqlite3.connect(f"file:{folder / 'labels.sqlite'}?mode=ro", uri=True) as db:
            return [row[0] for row in db.execute("select number from pbrl_questions order by number")]
    except sqlite3.OperationalError:  # no store yet
        return []


def kill_when(folder: Path, process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """SIGKILL as soon as ``ready``; fails when the run ends first."""
    until = time.monotonic() + 60
    try:
        while not ready():
            assert process.poll() is None, (folder / "output.txt").read_text()[-2000:]
            assert time.monotonic() < until
            time.sleep(0.001)
    finally:
        process.kill()
        status = process.wait()
    assert status == -signal.SIGKILL


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_end(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    reference = start(straight)
    try:
        kill_and_compare(straight, broken, reference)
    finally:
        reference.kill()
        reference.wait()


def kill_and_compare(straight: Path, broken: Path, reference: subprocess.Popen[bytes]) -> None:
    """Kill three times, let the fourth start finish, and compare with the run that was left alone."""
    # 1: while the first answers are being committed (SQLite's journal is there from a commit's first write to its end)
    journal = broken / "labels.sqlite-journal"
    kill_when(broken, start(broken), lambda: len(calls(broken)) >= (AT_ONCE if journal.exists() else 12))
    first = committed(broken)
    assert len(first) % AT_ONCE == 0 and len(first) <= 12  # a batch is there wholly or not at all
    # 2: in round 2 of 4, after a question was asked and before it was committed
    kill_when(broken, start(broken), lambda: len(committed(broken)) >= 24 and len(set(calls(broken))) > 24)
    second = committed(broken)
    assert second == list(range(len(second))) and len(second) % AT_ONCE == 0
    assert set(question_keys(1, 0, len(second)).tolist()) <= set(calls(broken))
    checkpoint = torch.load(broken / "checkpoints" / "last.ckpt", weights_only=True)  # a whole file, never half of one
    assert checkpoint["lightning_pbrl"]["method"] == "RewardEnsemble"
    assert checkpoint["global_step"] > 0 and checkpoint["lightning_pbrl"]["engines"]["reward"]["updates"] > 0
    # 3: right after a commit, that is before or while training on it
    kill_when(broken, start(broken), lambda: len(committed(broken)) >= 36)
    last = start(broken)
    assert last.wait(timeout=60) == 0, (broken / "output.txt").read_text()[-2000:]
    assert reference.wait(timeout=60) == 0, (straight / "output.txt").read_text()[-2000:]

    keys = question_keys(1, 0, BUDGET).tolist()
    assert calls(straight) == keys  # uninterrupted: each once, in order
    assert committed(straight) == committed(broken) == list(range(BUDGET))
    seen = calls(broken)
    assert set(seen) == set(keys) and list(dict.fromkeys(seen)) == keys
    assert len(seen) - BUDGET <= 3 * AT_ONCE  # only a batch whose commit the kill prevented comes again
    assert all(seen.count(key) == 1 for key in keys[: len(first)])
    assert_same(torch.load(straight / "end.pt", weights_only=True), torch.load(broken / "end.pt", weights_only=True))
