"""Measure whether it pays not to wait for people: ``HumanTeacher(wait=none)`` against ``wait=all`` on plate-slide.

    python -m benchmarks.people_wait [--seeds 3] [--data data] [--folder DIR] [--out FILE]

All time is simulated, so that neither people nor load on the machine are measured. One person needs 4 s for an answer, prefers
the larger true return, and takes the oldest open question next. A round asks twenty questions and trains for ``--train``
seconds, 80 unless told otherwise: as long as its answers take, where not to wait can gain most. With ``wait=all`` a round waits
for its answers and then trains; with ``wait=none`` the person answers while the method trains, and a round sees what has been
answered by then. Evaluation stops the clock of both. Everything else is equal: data, seeds, questions per round, rounds, updates.

The learner is IQL on the reward of an ensemble, which each round fits to all answers so far: the two stages of
``experiment/people/plate-slide.yaml`` in turns, so that a policy can be learned while answers are still missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor

from benchmarks.measure import machine
from lightning_pbrl import Trainer
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Query, Status
from lightning_pbrl.data.reward_scaling import rescale
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.metaworld import MetaWorldDataModule
from lightning_pbrl.engine import Group, Part, Program
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.interface import Key
from lightning_pbrl.methods.base import Phase, Spec
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.rewards.base import chosen, held
from lightning_pbrl.rewards.ensemble import RewardEnsemble
from lightning_pbrl.teachers.human import HumanTeacher

ARMS: tuple[Literal["all", "none"], ...] = ("all", "none")
LEVELS = (0.5, 0.8)
"""Success rates whose time is compared."""
RESULT = Path(__file__).parent / "results" / "people-wait.json"
DEMO = Path(__file__).parents[1] / "conf" / "data" / "demo.yaml"


@dataclass(frozen=True)
class Size:
    """Size of a run.

    Attributes:
        seconds: simulated seconds that a person needs for an answer.
        train: simulated seconds that a round trains.
        questions: in total; ``per_round`` of them in each of the first rounds.
        rounds: in total; those after the last question see the answers that are late.
        updates: of IQL in a round.
        hidden: hidden layers of all networks.
        eval_episodes: episodes after each round.
        data: settings of the data module in which they differ from ``conf/data/demo.yaml``.
    """

    seconds: float = 4.0
    train: float = 80.0
    questions: int = 200
    per_round: int = 20
    rounds: int = 14
    updates: int = 1_000
    hidden: tuple[int, ...] = (256, 256)
    eval_episodes: int = 10
    data: dict[str, Any] | None = None


QUICK = Size(4.0, 8.0, 4, 2, 4, 20, (16,), 1, {"episodes": 6, "horizon": 40, "segment_length": 10})


class TaughtIQL(IQL):
    """IQL on a reward that each round fits to all answers so far; before the first answer the reward is 0 everywhere.

    The learning rate of the actor stays, because answers that come late must be able to act.
    """

    needs = frozenset({"labels"})
    kinds: ClassVar[Any] = RewardEnsemble.kinds
    reward_model: RewardEnsemble

    def __init__(self, spec: Spec, hidden: tuple[int, ...] = (256, 256), **iql: Any) -> None:
        super().__init__(spec, hidden=hidden, **iql)
        model: Any = chosen(RewardEnsemble(hidden=(128, 128, 128)), self.spec, self.seed)
        self.reward_model = model

    def build(self) -> None:
        super().build()
        self.reward_model.build()

    def on_data(self) -> None:
        super().on_data()
        self.reward_model.on_data()

    def groups(self) -> dict[str, Part]:
        return {**held(self.reward_model.groups()), **super().groups(), "actor": Group(self.hparams.lr)}

    def programs(self) -> dict[str, Program]:
        return {**self.reward_model.programs(), **super().programs()}

    @property
    def updates_done(self) -> int:
        return self.running.updates["policy"]

    def plan(self, round_number: int) -> list[Phase]:
        fit: list[Phase] = []
        if not round_number:
            fit = [Phase("no reward", start=self.no_reward)]
        if self.reward_model.usable() != (self.learned_from or 0):
            fit = [*self.reward_model.plan(round_number), Phase("relabel", start=self.use_reward)]
        return [*fit, *super().plan(round_number)]

    def no_reward(self) -> None:
        self.source.write("learned_reward", torch.zeros(len(self.source)))

    def use_reward(self) -> None:
        self.source.write("learned_reward", rescale(self.reward_model.relabel(self.source), self.source, "min_max"))

    def returns(self, query: Query) -> Tensor:
        return self.reward_model.returns(query)


class Person:
    """Somebody who answers the oldest open question, then the next, each in ``seconds`` of simulated time.

    Args:
        source: what the questions are about, with its true rewards.
        seconds: that an answer takes.

    Attributes:
        free: time at which the answer given last was finished.
        given: number of answers.
    """

    def __init__(self, source: Transitions, seconds: float) -> None:
        self.source, self.seconds, self.free, self.given = source, seconds, 0.0, 0
        self._asked: dict[Key, float] = {}

    def work(self, store: Path, now: float, until: float) -> None:
        """Give the answers that are finished by ``until``; questions that are new were asked ``now``."""
        desk = Desk(store)
        for question in desk.next("person", 10**6):
            asked = self._asked.setdefault(question.key, now)
            done = max(self.free, asked) + self.seconds
            if done > until:
                continue  # the later ones are only noted as asked
            first, second = self.source.true_returns(Query("pair", torch.tensor([question.start]), question.length))[0].tolist()
            value, status = (0.5, Status.EQUAL) if first == second else (float(second > first), Status.ANSWERED)
            desk.answer("person", question.key, value, status, seconds=self.seconds)
            self.free, self.given = done, self.given + 1


class Clock(pl.Callback):
    """Simulated time: ``train`` seconds for a round's updates, and what it has waited for answers.

    Attributes:
        now: seconds since the start.
        waited: seconds of these in which nothing was trained.
        curve: after each round: seconds, questions answered by then, answers learned from, updates, success rate.
    """

    def __init__(self, name: str, person: Person, store: Path, train: float) -> None:
        self.name, self.person, self.store, self.train = name, person, store, train
        self.now = self.waited = 0.0
        self.curve: list[dict[str, float]] = []

    def wait_for(self, answers: int) -> None:
        """Let time pass until so many more answers are given."""
        wanted, before = self.person.given + answers, self.now
        self.person.work(self.store, self.now, max(self.now, self.person.free) + answers * self.person.seconds)
        assert self.person.given >= wanted, "there are fewer open questions than answers are waited for"
        self.now = max(self.now, self.person.free)
        self.waited += self.now - before

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # type: ignore[override]
        """Let the round's training time pass, in which the person has answered; evaluation takes none."""
        self.now += self.train
        self.person.work(self.store, self.now, self.now)
        success = float(trainer.callback_metrics["eval/success_rate"])
        row = {"seconds": round(self.now, 2), "answered": self.person.given, "learned_from": pl_module.learned_from or 0}
        self.curve.append({**row, "updates": pl_module.updates_done, "success": round(success, 3)})
        print(f"{self.name}: {self.curve[-1]}", flush=True)


class ClockedTeacher(HumanTeacher):
    """Human teacher whose rounds wait by the clock; a new question is noted when a round has asked it."""

    clock: Clock

    def enough(self, asked: int, answered: int, usable: int) -> bool:
        self.clock.person.work(self.clock.store, self.clock.now, self.clock.now)
        if super().enough(asked, answered, usable):
            return True
        self.clock.wait_for(1 if self.wait == "none" else asked - answered)
        return False  # the session looks at the store again


def data(size: Size, folder: Path) -> MetaWorldDataModule:
    """Return the demo's data, collected into ``folder`` on first use."""
    settings = yaml.safe_load(DEMO.read_text())["data"]["init_args"]
    settings["mixture"] = [Behaviour(**each) for each in settings["mixture"]]
    changed = {"cache_dir": str(folder), "eval_episodes": size.eval_episodes, "test_episodes": 1, **(size.data or {})}
    return MetaWorldDataModule(**{**settings, **changed})


def fit(arm: Literal["all", "none"], seed: int, size: Size, cache: Path, run: Path) -> dict[str, Any]:
    """Train one run; plain JSON: its curve, and how the time was spent."""
    began = time.process_time()
    module = data(size, cache)
    module.prepare_data()
    module.setup("fit")
    teacher = ClockedTeacher(wait=arm)
    teacher.clock = clock = Clock(f"{arm} {seed}", Person(module.source, size.seconds), run / "labels.sqlite", size.train)
    ask = AskTeacher(teacher, DisagreementQuery(), budget=size.questions, per_round=size.per_round)
    short = {"lr": 1e-3, "polyak": 0.02, "discount": 0.97, "temperature": 10.0}  # as in experiment/people/plate-slide.yaml
    method = TaughtIQL(
        module.spec,
        size.hidden,
        updates=size.rounds * size.updates,
        eval_interval=size.updates,
        seed=seed,
        compile=False,
        **short,
    )
    trainer = Trainer(run, callbacks=[ask, clock], accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(method, module)
    spent = {"seconds": round(clock.now, 1), "waited_s": round(clock.waited, 1), "cpu_s": round(time.process_time() - began, 1)}
    return {"arm": arm, "seed": seed, **spent, "answered": clock.person.given, "curve": clock.curve}


def reached(curve: list[dict[str, float]], level: float) -> float | None:
    """Return the simulated seconds to the first of two evaluations in a row with at least this success; None without."""
    for one, next_ in pairwise(curve):
        if min(one["success"], next_["success"]) >= level:
            return one["seconds"]
    return None


def final(curve: list[dict[str, float]]) -> float:
    """Return the mean success of the last three evaluations."""
    last = [row["success"] for row in curve[-3:]]
    return sum(last) / len(last)


def compared(runs: list[dict[str, Any]], levels: tuple[float, ...]) -> list[dict[str, Any]]:
    """Return a row per seed and level: seconds of each arm, and how many times faster it is not to wait."""
    rows: list[dict[str, Any]] = []
    for seed in sorted({run["seed"] for run in runs}):
        curves = {run["arm"]: run["curve"] for run in runs if run["seed"] == seed}
        ends = {arm: final(curve) for arm, curve in curves.items()}
        for level in (*levels, min(ends.values())):
            took = {arm: reached(curve, level) for arm, curve in curves.items()}
            ratio = took["all"] / took["none"] if took["all"] and took["none"] else None
            rows.append({"seed": seed, "level": round(level, 3), "lower_end": level not in levels, **took, "times_faster": ratio})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run both arms of every seed; print and write how many times faster it is not to wait."""
    parser = argparse.ArgumentParser("python -m benchmarks.people_wait", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N - 1 (default 3)")
    parser.add_argument("--train", type=float, help="simulated seconds that a round trains (default 80)")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which changes no number (default 1)")
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where collected data are kept (default data)")
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder, removed at the end)")
    parser.add_argument("--out", type=Path, help="default: results/people-wait.json, of --quick results/quick/people-wait.json")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else Size()
    size = replace(size, train=options.train or size.train)
    with tempfile.TemporaryDirectory() if options.folder is None else contextlib.nullcontext(options.folder) as name:
        cache, home = options.data.resolve(), Path(name).resolve()
        data(size, cache).prepare_data()
        with ProcessPoolExecutor(options.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            tasks = [(arm, seed) for seed in range(options.seeds) for arm in ARMS]
            waiting = [pool.submit(fit, arm, seed, size, cache, home / f"{arm}-{seed}") for arm, seed in tasks]
            runs = [each.result() for each in waiting]
    rows = compared(runs, LEVELS)
    for row in rows:
        print(row)
    medians = {}
    for level in LEVELS:
        if found := [row["times_faster"] for row in rows if row["level"] == level and row["times_faster"]]:
            medians[str(level)] = round(median(found), 2)
    result = {"machine": machine("python -m benchmarks.people_wait"), "size": asdict(size), "runs": runs, "levels": rows}
    out = options.out or (RESULT.parent / "quick" / RESULT.name if options.quick else RESULT)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**result, "median_times_faster": medians}, indent=1) + "\n")
    print(f"times faster without waiting, median over seeds, by level: {medians}: {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
