"""A reward fit that a test kills: ``killable_run.py FOLDER``; it goes on from what FOLDER holds.

The teacher writes every question to FOLDER/calls.txt before it answers, on disk when it returns.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.methods.reward_ensemble import RewardEnsemble
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.train_cli import RoundCheckpoint

BUDGET, PER_ROUND, AT_ONCE = 48, 12, 4


class FewAtOnce(DisagreementQuery):
    """At most four questions per proposal: three commits a round."""

    sequential = True

    def propose(self, pool, n, model, labels, rng):  # type: ignore[no-untyped-def]
        return super().propose(pool, min(n, AT_ONCE), model, labels, rng)


class SlowTeacher(SimulatedTeacher):
    """Takes 10 ms a question and keeps a durable log of what it was asked."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        with open(self._log, "a") as file:
            for key in keys.tolist():
                time.sleep(0.01)
                file.write(f"{key}\n")
            file.flush()
            os.fsync(file.fileno())
        return super().answer(query, clips, keys)


def main(folder: Path) -> None:
    """One fit, resumed from ``last.ckpt`` when there is one."""
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    torch.set_num_threads(1)
    ask = AskTeacher(SlowTeacher(folder / "calls.txt"), FewAtOnce(), BUDGET, PER_ROUND, uniform_first=False)
    method = RewardEnsemble(SPEC, hidden=(16,), epochs=20, stop_accuracy=1.0, batch_size=8, seed=1)
    last = folder / "checkpoints" / "last.ckpt"
    trainer = make_trainer(folder, [RoundCheckpoint(), ask])
    trainer.fit(method, ToyData(), ckpt_path=last if last.exists() else None)
    engine = method.engines["reward"].state_dict()
    torch.save({"weights": dict(method.state_dict()), "engine": engine, "labels": tuple(method.labels)}, folder / "end.part")
    os.replace(folder / "end.part", folder / "end.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
