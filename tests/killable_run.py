"""A fit that a test kills, in a process of its own; it goes on from what its folder holds.

The teacher writes every question to folder/calls.txt before it answers, and the logger every row to folder/rows.jsonl; both are
on disk when the run goes on. folder/end.pt holds what a finished run has learnt. With ``steps`` the run stands still after so
many encoder steps, until it is killed.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from clarify_toys import SkippableData, tiny
from pytorch_lightning.loggers import Logger
from toys import SPEC, ToyData, make_trainer
from warm import say_to

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.queries.embedding import EmbeddingQuery
from lightning_pbrl.teachers.base import Teacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.teachers.skip import SkipTeacher
from lightning_pbrl.trainer import RoundCheckpoint

BUDGET, PER_ROUND, AT_ONCE = 48, 12, 4


def append(path: Path, line: str) -> None:
    """Add a line to a file, on disk when this returns."""
    with open(path, "a") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())


class FewAtOnce(DisagreementQuery):
    """At most four questions per proposal: three commits a round."""

    sequential = True

    def propose(self, pool, n, model, labels, rng):  # type: ignore[no-untyped-def]
        return super().propose(pool, min(n, AT_ONCE), model, labels, rng)


class Slow(Teacher):
    """Mixed into a teacher: takes 10 ms a question and keeps a durable log of what it was asked."""

    log: Path

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        for key in keys.tolist():
            time.sleep(0.01)
            append(self.log, str(key))
        return super().answer(query, clips, keys)  # type: ignore[safe-super]


class SlowTeacher(Slow, SimulatedTeacher):
    """Answers everything."""


class SlowSkipTeacher(Slow, SkipTeacher):
    """Skips what it cannot compare."""


class Rows(Logger):
    """Keeps every logged row in a durable file, and stands still after ``steps`` encoder steps (never when 0)."""

    name = version = "rows"

    def __init__(self, path: Path, steps: int) -> None:
        super().__init__()
        self.path, self.left = path, steps
        self.step: int | None = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        append(self.path, json.dumps({**metrics, "step": step}, sort_keys=True))
        if "train/encoder_loss" in metrics and step != self.step:  # the block that closes a round repeats the last row
            self.left, self.step = self.left - 1, step
            if self.left == 0:
                time.sleep(600)

    def log_hyperparams(self, *settings: Any, **more: Any) -> None:
        """Not kept."""


class Case(NamedTuple):
    """What is trained on what, and who asks and answers."""

    method: Method
    data: ToyData
    teacher: Slow
    query: QueryStrategy
    uniform_first: bool


def case(name: str) -> Case:
    """By method name; CLARIFY asks a round's 12 questions at once, the ensemble four at a time."""
    if name == "CLARIFY":
        sizes: dict[str, Any] = {"n_init": 10, "n_emb": 8, "width": 8, "dropout": 0.1, "epochs": 10, "batch_size": 8}
        return Case(tiny(**sizes, block=1, seed=1), SkippableData(), SlowSkipTeacher(0.5), EmbeddingQuery(), True)
    method = RewardEnsemble(SPEC, hidden=(16,), epochs=20, stop_accuracy=1.0, batch_size=8, seed=1)
    return Case(method, ToyData(), SlowTeacher(), FewAtOnce(), False)


def main(name: str, folder: Path, steps: int = 0) -> None:
    """One fit, resumed from ``last.ckpt`` when there is one, and one test."""
    say_to(folder / "output.txt")
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    torch.set_num_threads(1)
    method, data, teacher, query, uniform_first = case(name)
    teacher.log = folder / "calls.txt"
    ask = AskTeacher(teacher, query, BUDGET, PER_ROUND, uniform_first)
    last = folder / "checkpoints" / "last.ckpt"
    trainer = make_trainer(folder, [RoundCheckpoint(), ask], logger=Rows(folder / "rows.jsonl", steps))
    trainer.fit(method, data, ckpt_path=last if last.exists() else None)
    end = {
        "weights": {key: value.clone() for key, value in method.state_dict().items()},
        "engine": method.running.state_dict(),
        "labels": [method.labels.start, method.labels.value.nan_to_num(-1.0), method.labels.status],  # NaN equals nothing
        "tested": trainer.test(method, data, verbose=False),
    }
    torch.save(end, folder / "end.part")
    os.replace(folder / "end.part", folder / "end.pt")
