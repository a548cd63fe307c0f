"""SIGKILL at any point, then resume: no label lost, none asked twice, the weights and numbers of an uninterrupted run."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import killable_run
import pytest
import torch
from toys import assert_same
from warm import CONTEXT, PATIENCE

from lightning_pbrl.rng import question_keys

BUDGET, PER_ROUND, FEW = 48, 12, 4
KEYS = question_keys(1, 0, BUDGET).tolist()


class Run:
    """A run in another process, as another program sees it.

    Args:
        method: name of the method that learns.
        folder: of the run.
    """

    def __init__(self, method: str, folder: Path) -> None:
        self.method, self.folder = method, folder
        folder.mkdir()

    def start(self, *steps: int) -> BaseProcess:
        process = CONTEXT.Process(target=killable_run.main, args=(self.method, self.folder, *steps))
        process.start()
        return process

    def finish(self, process: BaseProcess) -> Any:
        """Wait for the end of the run; what it has learnt."""
        process.join(PATIENCE)
        assert process.exitcode == 0, self.output()
        return torch.load(self.folder / "end.pt", weights_only=True)

    def kill_when(self, ready: Callable[[], bool], *steps: int) -> None:
        """Start, and SIGKILL as soon as ``ready``; fails when the run ends first.

        Args:
            ready: asked every millisecond.
            steps: encoder steps after which the run stands still, so that it is not past the point when the kill is late.
        """
        process, until = self.start(*steps), time.monotonic() + PATIENCE
        try:
            while not ready():
                assert process.exitcode is None, self.output()
                assert time.monotonic() < until
                time.sleep(0.001)
        finally:
            process.kill()
            process.join()
        assert process.exitcode == -signal.SIGKILL

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def output(self) -> str:
        return "\n".join(self.lines("output.txt")[-30:])

    def calls(self) -> list[int]:
        """Keys of the questions that the teacher has heard, in order."""
        return [int(line) for line in self.lines("calls.txt")]

    def committing(self) -> bool:
        """SQLite's journal is there from a commit's first write to its end."""
        return (self.folder / "labels.sqlite-journal").exists()

    def committed(self) -> list[int]:
        """Numbers of the answered questions."""
        try:
            with sqlite3.connect(f"file:{self.folder / 'labels.sqlite'}?mode=ro", uri=True) as db:
                return [row[0] for row in db.execute("select number from pbrl_questions order by number")]
        except sqlite3.OperationalError:  # no store yet
            return []

    def encoder_rows(self) -> list[dict[str, float]]:
        """What was logged of encoder steps."""
        return [json.loads(line) for line in self.lines("rows.jsonl") if "train/encoder_loss" in line]

    def checkpoint(self) -> Any:
        """What a resumed run starts from: a whole file, never half of one."""
        return torch.load(self.folder / "checkpoints" / "last.ckpt", weights_only=True)["lightning_pbrl"]


@contextmanager
def two_runs(method: str, folder: Path) -> Iterator[tuple[Run, Run, BaseProcess]]:
    """A run that is left alone, already started, and one to be killed."""
    straight, broken = Run(method, folder / "straight"), Run(method, folder / "broken")
    process = straight.start()
    try:
        yield straight, broken, process
    finally:
        process.kill()
        process.join()


def compare(straight: Run, reference: BaseProcess, broken: Run, kept: int, at_once: int) -> None:
    """Let both runs finish: equal questions, answers, weights, moments, logged and tested numbers.

    Args:
        straight: the run that was left alone.
        reference: its process.
        broken: the run that was killed.
        kept: answers that were on disk at the first kill.
        at_once: questions per commit.
    """
    end = broken.finish(broken.start())
    assert_same(straight.finish(reference), end)
    assert len(end["labels"][0]) == BUDGET and end["tested"][0]["pref/accuracy"] > 0.5

    assert straight.calls() == KEYS  # uninterrupted: each once, in order
    assert straight.committed() == broken.committed() == list(range(BUDGET))
    seen = broken.calls()
    assert list(dict.fromkeys(seen)) == KEYS
    assert len(seen) - BUDGET <= 3 * at_once  # only a batch whose commit the kill prevented comes again
    assert all(seen.count(key) == 1 for key in KEYS[:kept])

    assert set(straight.lines("rows.jsonl")) == set(broken.lines("rows.jsonl"))  # also those of rounds that were replayed


@pytest.mark.slow
def test_killed_ensemble_resumes_to_the_same_end(tmp_path: Path) -> None:
    """Four questions per commit, three commits per round."""
    with two_runs("RewardEnsemble", tmp_path) as (straight, broken, reference):
        # 1: while the first answers are being committed
        broken.kill_when(lambda: len(broken.calls()) >= (FEW if broken.committing() else PER_ROUND))
        first = broken.committed()
        assert len(first) % FEW == 0 and len(first) <= PER_ROUND  # a batch is there wholly or not at all
        # 2: in round 2 of 4, after a question was asked and before it was committed
        broken.kill_when(lambda: len(broken.committed()) >= 24 and len(set(broken.calls())) > 24)
        second = broken.committed()
        assert second == list(range(len(second))) and len(second) % FEW == 0
        assert set(KEYS[: len(second)]) <= set(broken.calls())
        checkpoint = broken.checkpoint()
        assert checkpoint["method"] == "RewardEnsemble" and checkpoint["engine"]["updates"]["reward"] > 0
        # 3: right after a commit, that is before or while training on it
        broken.kill_when(lambda: len(broken.committed()) >= 36)
        compare(straight, reference, broken, len(first), FEW)


@pytest.mark.slow
def test_killed_clarify_resumes_to_the_same_end(tmp_path: Path) -> None:
    """Questions of a whole round per commit, chosen by an encoder with dropout: 10 steps in round 0, 8 in each later one."""
    with two_runs("CLARIFY", tmp_path) as (straight, broken, reference):
        # 1: while the answers of round 1 are being committed, the first that the embedding chose
        broken.kill_when(lambda: len(broken.committed()) >= 12 and (broken.committing() or len(broken.calls()) >= 24), 11)
        first = broken.committed()
        assert len(first) in (12, 24)  # a round is there wholly or not at all
        assert broken.checkpoint()["engine"]["updates"]["encoder"] == 10
        # 2: right after the commit of round 2
        broken.kill_when(lambda: len(broken.committed()) >= 36, 9)
        before = len(broken.encoder_rows())
        # 3: between two encoder steps of round 2
        broken.kill_when(lambda: len(broken.encoder_rows()) >= before + 3, 3)
        assert [row["labels"] for row in broken.encoder_rows()[before:]] == [36, 36, 36]
        assert broken.checkpoint()["engine"]["updates"]["encoder"] == 18
        compare(straight, reference, broken, len(first), PER_ROUND)
    assert sum('"query/accepted"' in line and '"query/accepted": 0.0' not in line for line in straight.lines("rows.jsonl")) == 3
