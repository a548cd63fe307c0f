"""Small fits by a source tree's own classes; a program of its own: ``PYTHONPATH=TREE python -P benchmarks/house_toys.py KIND``.

It imports what an author may import, so that it runs on trees of different ages: methods, bases of data, callbacks. It answers
each line on its standard input by a line of JSON with what one fit took.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning_pbrl  # before Lightning: what that imports and few processes need is put off

# isort: split
import numpy as np
import pytorch_lightning as pl
import torch
from sqlalchemy import event
from sqlalchemy.engine import Engine
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules import base as datamodules
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.registry import classes
from lightning_pbrl.teachers.simulated import SimulatedTeacher

SPEC = {"obs_dim": 17, "action_dim": 6, "horizon": 50}
EPISODES, LENGTH = 200, 50
ROUND, ROUNDS = 50, 6
"""Questions of a round that is timed, and how many rounds are."""
REPLICAS = 16
WIDE = {"hidden": [256, 256], "batch_size": 256}

FITS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "IQL": ("IQL", {**WIDE, "updates": 128, "eval_interval": 128}, {}),
    "SAC": ("SAC", {**WIDE, "env_steps": 228, "seed_steps": 100, "round_steps": 64}, {}),
    "IPL": (
        "IPL",
        {"hidden": [256, 256], "batch_size": 8, "window": 16, "replay_batch_size": 256, "updates": 64, "eval_interval": 64},
        {"budget": 50, "per_round": 50},
    ),
    "reward": (
        "RewardEnsemble",
        {"hidden": [256, 256, 256], "batch_size": 64, "epochs": 2, "stop_accuracy": 1.0},
        {"budget": 400, "per_round": 200},
    ),
}
"""Kind of fit -> method, its settings, how many questions it asks."""


class Physics:
    """Pays nothing and moves nowhere, so that acting costs next to nothing."""

    camera: str | int = -1
    model = data = None

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        return np.zeros(SPEC["obs_dim"]), {}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        return np.full(SPEC["obs_dim"], 0.1), 0.0, False, {}


class Still(Simulator):
    """Episodes of :class:`Physics`."""

    name = "still-v0"
    obs_dim, action_dim, horizon = SPEC["obs_dim"], SPEC["action_dim"], SPEC["horizon"]

    def make(self, render: bool = False) -> Any:
        from lightning_pbrl.envs.episodic import Episodic

        return Episodic(self, Physics())

    def describe(self) -> dict[str, Any]:
        return {"class": "Still"}


class Logged(getattr(datamodules, "FeedbackDataModule", None) or datamodules.OfflineDataModule):
    """Random transitions in episodes of 50 steps."""

    def __init__(self) -> None:
        super().__init__(simulator=Still(), segment_length=20, eval_episodes=1, num_envs=1, held_out_pairs=20)

    def load(self) -> Transitions:
        rng, rows = torch.Generator().manual_seed(0), EPISODES * LENGTH
        obs, next_obs = (torch.randn(rows, SPEC["obs_dim"], generator=rng) for _ in range(2))
        action = torch.rand(rows, SPEC["action_dim"], generator=rng) * 2 - 1
        offsets = torch.arange(EPISODES + 1) * LENGTH
        return Transitions.from_columns(obs, action, next_obs, offsets, reward=torch.randn(rows, generator=rng))


def trainer(*callbacks: pl.Callback) -> pl.Trainer:
    """Return a quiet CPU trainer that writes to a new folder below the working folder."""
    return pl.Trainer(
        default_root_dir=tempfile.mkdtemp(dir="."),
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class Clock(pl.Callback):
    """CPU seconds of the blocks of updates; asking, relabelling and evaluation are between them."""

    seconds = began = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.began = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds += time.process_time() - self.began


def updates(kind: str) -> dict[str, Any]:
    """Return the CPU seconds that the updates of a fit take; SAC's include its env steps."""
    name, settings, ask = FITS[kind]
    cls, clock = classes("methods")[name], Clock()
    around: list[pl.Callback] = [AskTeacher(SimulatedTeacher(), **ask)] if ask else []
    around += [RelabelRewards("true")] if "learned_reward" in cls.needs else []
    data = OnlineDataModule(Still(), num_envs=1, segment_length=20, eval_episodes=1) if "env" in cls.needs else Logged()
    trainer(clock, *around).fit(cls(SPEC, **settings), data)
    return {"seconds": clock.seconds}


def asking(answers: int) -> dict[str, Any]:
    """Return CPU seconds and reads of the label store of each round of 50 questions after a first one of ``answers``."""
    budget = answers + ROUND * ROUNDS
    ask = AskTeacher(SimulatedTeacher(), budget=budget, per_round=ROUND, initial=answers / budget)
    rounds: list[tuple[float, int]] = []
    reads: list[str] = []
    hook = ask.on_train_epoch_start

    def heard(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        reads.append(statement.lstrip().upper())

    def measured(*args: Any) -> None:
        reads.clear()
        began = time.process_time()
        hook(*args)
        rounds.append((time.process_time() - began, sum(each.startswith("SELECT") for each in reads)))

    ask.on_train_epoch_start = measured  # type: ignore[method-assign]
    method = classes("methods")["RewardEnsemble"](SPEC, hidden=[8], ensemble_size=1, epochs=1, batch_size=100_000, tile=None)
    event.listen(Engine, "before_cursor_execute", heard)
    trainer(ask).fit(method, Logged())
    event.remove(Engine, "before_cursor_execute", heard)
    return {"seconds": [seconds for seconds, _ in rounds[1:]], "reads": [count for _, count in rounds[1:]]}


class Calls(TorchDispatchMode):
    """Counts calls of aten operators, except those made inside the functions that it has wrapped."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.inside = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace == "aten" and not self.inside
        return func(*args, **(kwargs or {}))

    def outside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, whose calls do not count."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.inside = True
            try:
                return function(*args, **kwargs)
            finally:
                self.inside = False

        return call


def aten() -> dict[str, Any]:
    """Return the aten calls per update of 16 batched replicas of IQL outside the gradient functions."""
    settings: dict[str, Any] = {"hidden": [32, 32], "batch_size": 32, "updates": 64, "eval_interval": 64}
    method = classes("methods")["IQL"](SPEC, **settings, replicas=REPLICAS, layout="batched", compile=False)
    trainer(RelabelRewards("true")).fit(method, Logged())
    engine, programs = (method.engine, ("policy",)) if hasattr(method, "engine") else (*method.engines.values(), ())
    found, kept = [], engine._gradients
    for size in (64, 128):  # what a block costs however long it is drops out of the difference
        calls = Calls()
        if callable(kept):  # of a program; before, a list
            engine._gradients = lambda program, calls=calls: [calls.outside(each) for each in kept(program)]
        else:
            engine._gradients = [calls.outside(each) for each in kept]
        with calls:
            engine.run(*programs, size)
        engine._gradients = kept
        found.append(calls.count)
    return {"per_update": (found[1] - found[0]) / 64, "per_update_of_a_block": found[0] / 64, "replicas": REPLICAS}


def measure(kind: str) -> dict[str, Any]:
    """Return one measurement of ``IQL``, ``SAC``, ``IPL``, ``reward``, ``aten`` or ``asking-N``."""
    if kind == "aten":
        return aten()
    name, _, count = kind.partition("-")
    return asking(int(count)) if name == "asking" else updates(kind)


def main(kind: str) -> None:
    """Answer every line on standard input by a measurement."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(json.dumps({"package": str(Path(lightning_pbrl.__file__).resolve().parent)}), flush=True)
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory(prefix="house-") as folder:
            os.chdir(folder)
            print(json.dumps(measure(kind)), flush=True)
            os.chdir("/")


if __name__ == "__main__":
    main(sys.argv[1])
