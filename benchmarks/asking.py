"""``python -m benchmarks.asking [--rounds 21]``: what a round of questions costs beside many and few stored answers, as JSON.

A session with a simulated teacher asks rounds of 50 uniform pairs in a run that has asked 100 questions before, or 10,000.
The two sessions take turns. Each round's cost is the CPU time of the process, so what the disk takes for a commit is not in it;
the wall time of the same rounds is told beside it. Reads are the SELECT statements that a round sends to its label store, the
check of a write included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import sqlalchemy as sa
import torch

from lightning_pbrl.asking.plan import AskingPlan
from lightning_pbrl.asking.schedule import Constant
from lightning_pbrl.asking.session import AskingSession
from lightning_pbrl.data.feedback import Answer, AskKey, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.teachers.simulated import SimulatedTeacher

EPISODES, STEPS, LENGTH, PER_ROUND = 200, 100, 25, 50
FEW, MANY = 100, 10_000
SEED = 0


class Learner:
    """Learns from pairs of logged data, and does not act."""

    kinds = frozenset({"pair"})
    context = env_steps = 0
    planned_env_steps = planned_round_steps = None
    hparams: ClassVar[dict[str, Any]] = {}

    def round_starts(self) -> None:
        """Return None: there are as many rounds as it takes."""


def transitions() -> Transitions:
    """Return random transitions with a true reward."""
    rng = torch.Generator().manual_seed(SEED)
    rows = EPISODES * STEPS
    obs, action, reward = (torch.randn(rows, *width, generator=rng) for width in ((11,), (3,), ()))
    return Transitions.from_columns(obs, action, obs, torch.arange(0, rows + 1, STEPS), reward)


def session_after(stored: int, rounds: int, folder: Path) -> AskingSession:
    """Return a session whose run has asked ``stored`` questions and has budget for ``rounds`` rounds more."""
    source, teacher, query = transitions(), SimulatedTeacher(), UniformQuery()
    store = LabelStore(folder / f"{stored}.sqlite", source.fingerprint, "run")
    who: dict[str, Any] = {"strategy": query.describe(), "teacher": teacher.describe(), "seed": SEED, "answered_by": "simulated"}
    for number in range(stored // PER_ROUND):
        pairs = source.pool(LENGTH).pairs(PER_ROUND, torch.Generator().manual_seed(number))
        answer = Answer(torch.ones(PER_ROUND), torch.full((PER_ROUND,), int(Status.ANSWERED)))
        store.put(AskKey("run", number, number * PER_ROUND), pairs, answer, **who)
    plan = AskingPlan(teacher, query, stored + rounds * PER_ROUND, Constant(PER_ROUND))
    session = AskingSession(Learner(), source, LENGTH, plan, seed=SEED)
    session.open(store)
    return session


class Reads:
    """Counts the SELECT statements of a store."""

    def __init__(self, store: LabelStore) -> None:
        self.count = 0
        sa.event.listen(store._engine, "before_cursor_execute", self._count)

    def _count(self, connection: object, cursor: object, statement: str, *rest: object) -> None:
        self.count += statement.lstrip().upper().startswith("SELECT")


def measure(rounds: int = 21, few: int = FEW, many: int = MANY) -> dict[str, Any]:
    """Ask ``rounds`` rounds beside few and beside many stored answers, in turns; plain JSON."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = {stored: session_after(stored, rounds, Path(folder)) for stored in (few, many)}
        reads = {stored: Reads(session.state.store) for stored, session in sessions.items() if session.state is not None}
        cpu: dict[int, list[float]] = {few: [], many: []}
        wall: dict[int, list[float]] = {few: [], many: []}
        most = 0
        for turn in range(rounds):
            for stored, session in sessions.items():
                before, began, used = reads[stored].count, time.perf_counter(), time.process_time()
                feedback = session.round(stored // PER_ROUND + turn)
                cpu[stored].append(time.process_time() - used)
                wall[stored].append(time.perf_counter() - began)
                most = max(most, reads[stored].count - before)
                assert feedback.asked.this_round == PER_ROUND, feedback.asked
    return {
        "questions": PER_ROUND,
        "stored": [few, many],
        "rounds": rounds,
        "reads_per_round": most,
        "cpu_ms": {stored: 1e3 * median(times) for stored, times in cpu.items()},
        "wall_ms": {stored: 1e3 * median(times) for stored, times in wall.items()},
        "ratio": median(cpu[many]) / median(cpu[few]),
        "wall_ratio": median(wall[many]) / median(wall[few]),
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=21, help="rounds of either session (default 21)")
    torch.set_num_threads(1)
    print(json.dumps(measure(arguments.parse_args().rounds), indent=2))
