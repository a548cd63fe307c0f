"""Why is a question clear? One fit to 300 answers, then every way to choose the next ones, judged by the teacher.

    LIRE_ROOT=<folder of LiRE data> python -m benchmarks.choosing [--seeds 0 1 2]

Takes apart what CLARIFY's choice consists of: an embedding (how well do distances tell clear from skipped pairs, on
the answers it was fitted to and on others), rejection sampling on its distances, and the final choice by disagreement. The
online runs (``conf/experiment/clarify/clear-ratio.yaml``) mix these with what each has asked before. Small encoder
(``conf/preset/clarify/small.yaml``), uniform answers of a teacher who skips with eps 0.5.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine
from lightning_pbrl.data.feedback import Answer, Labels, Query, Status
from lightning_pbrl.data.lire import read_lire
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.fitting.answers import hand_over
from lightning_pbrl.fitting.starting import attach
from lightning_pbrl.methods.clarify import CLARIFY
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.queries.embedding import EmbeddingQuery, distances, separation
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import derive, question_keys, stream
from lightning_pbrl.teachers.base import RoundStats
from lightning_pbrl.teachers.skip import SkipTeacher

TASK = "MetaWorld/button-press-topdown-v3"
LENGTH, ANSWERS, HELD_OUT, ROUND, ROUNDS, STEPS = 50, 300, 2_000, 50, 8, 1_000
SMALL = {"width": 64, "layers": 1, "heads": 2, "encoder_batch_size": 32, "encoder_lr": 1e-3, "warmup": 300}
ENCODERS: dict[str, dict[str, Any]] = {
    "start times true": {"start_times": "true"},
    "start times zero (paper)": {},
}
CHOICES: dict[str, QueryStrategy] = {
    "uniform": UniformQuery(),
    "disagreement": DisagreementQuery(),
    "rejection, then random": EmbeddingQuery(pick="random"),
    "rejection, then disagreement (paper)": EmbeddingQuery(),
    "exact rejection, then random": EmbeddingQuery(rejection="exact", large_batch=20, pick="random"),
    "exact rejection, then disagreement": EmbeddingQuery(rejection="exact", large_batch=20),
    "max ratio, then random": EmbeddingQuery(target="max_ratio", pick="random"),
    "max ratio, then disagreement": EmbeddingQuery(target="max_ratio"),
}


class Classroom:
    """The data and a teacher who skips."""

    def __init__(self, source: Transitions) -> None:
        self.source, self.teacher = source, SkipTeacher(0.5)
        self.teacher.start_round(RoundStats(0, float(source.reward.double().mean())))

    def answer(self, query: Query) -> Answer:
        """The teacher's answers, which do not depend on the keys."""
        return self.teacher.answer(query, self.source.clips(query), question_keys(0, 0, len(query)))

    def uniform(self, count: int, *name: Any) -> Labels:
        """Answers to ``count`` random questions."""
        query = self.source.pool(LENGTH).pairs(count, stream(*name))
        return Labels(query.start, LENGTH, *self.answer(query))


def fitted(
    room: Classroom,
    labels: Labels,
    seed: int,
    settings: dict[str, Any],
    watch: Callable[[CLARIFY, int], None] | None = None,
    every: int = STEPS,
) -> CLARIFY:
    """Reward members and encoder after one round on ``labels``; ``watch`` is shown the encoder after ``every`` steps of it."""
    source = room.source
    spec = {"obs_dim": source.obs_dim, "action_dim": source.action_dim, "horizon": 500}
    method = CLARIFY(spec, seed=seed, max_episode_steps=500, n_init=STEPS, **{**SMALL, **settings})
    method.configure_model()
    method.source, method.labels = source, labels
    hand_over(method)
    method.on_data()
    engine = UpdateEngine(method, method.groups(), method.programs(), [seed], compile=False)
    attach(method, engine)
    torch.manual_seed(seed)
    method.train()
    phases = method.plan(0)
    method.reward_model.begin_fit(method.reward_model.training_pairs())
    method.use_answers()
    for number, phase in enumerate(phases):
        engine.begin([derive(seed, number)])
        done, block = 0, phase.block or min(every, phase.updates)
        while done < phase.updates:
            metrics = {key: float(value) for key, value in engine.run(str(phase.program), block).items()}
            done += block
            if watch is not None and phase.program == "encoder":
                watch(method.eval(), done)
                method.train()
            if phase.done is not None and phase.done(metrics):
                break
    return method.eval()


def auc(method: CLARIFY, labels: Labels) -> float:
    """How well distances tell clear pairs from skipped ones."""
    distance = distances(method, Query("pair", labels.start, LENGTH))
    status = labels.status.numpy()
    return separation(distance[status == Status.ANSWERED], distance[status == Status.SKIPPED])


def study(room: Classroom, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One fit: separation, and per way to choose the share of clear answers and what was filled up."""
    labels = room.uniform(ANSWERS, seed, "answers")
    method = fitted(room, labels, seed, settings)
    others = room.uniform(HELD_OUT, seed, "held out")
    row: dict[str, Any] = {"auc_fitted": auc(method, labels), "auc_held_out": auc(method, others)}
    pool = room.source.pool(LENGTH)
    for name, strategy in CHOICES.items():
        rng, clear, counts = stream(seed, "choose"), 0, {"query/accepted": 0.0, "query/filled": 0.0}
        for _ in range(ROUNDS):
            answer = room.answer(strategy.propose(pool, ROUND, method, labels, rng))
            clear += int((answer.status == Status.ANSWERED).sum())
            metrics = strategy.metrics()
            counts = {key: value + metrics.get(key, 0.0) / ROUNDS for key, value in counts.items()}
        row[name] = {"clear_ratio": clear / (ROUND * ROUNDS), **counts}
    return row


def prepared(name: str, about: str | None) -> tuple[argparse.Namespace, Classroom]:
    """Read the command line of a benchmark on these data, and the data."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"{name}.json")
    torch.set_num_threads(1)
    folder = Path(os.environ.get("LIRE_ROOT", "data/lire")) / TASK
    return parser.parse_args(), Classroom(read_lire(folder, data_quality=1.0))


def main() -> int:
    options, room = prepared("choosing", __doc__)
    rows: dict[str, dict[str, Any]] = {}
    console = Console()
    for encoder, settings in ENCODERS.items():
        for seed in options.seeds:
            rows.setdefault(encoder, {})[f"seed{seed}"] = study(room, seed, settings)
            about = machine("python -m benchmarks.choosing")
            options.out.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
            console.log(encoder, seed)
    table = Table("", *rows, title="share of clear answers, mean over seeds")
    for name in ("auc_fitted", "auc_held_out", *CHOICES):
        values = [[run[name] for run in seeds.values()] for seeds in rows.values()]
        flat = [[v["clear_ratio"] if isinstance(v, dict) else v for v in group] for group in values]
        table.add_row(name, *(f"{sum(group) / len(group):.3f} ({min(group):.2f}..{max(group):.2f})" for group in flat))
    console.print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
