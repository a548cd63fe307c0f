"""A toy simulator, a data module and a Trainer for tests that train; the data are ``synthetic_transitions``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from synthetic import synthetic_transitions

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.examples import Examples
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.methods.base import Method
from lightning_pbrl.queries.mixed import uniformly
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher

SPEC = {"obs_dim": 5, "action_dim": 2, "horizon": 3}


class SeedPhysics:
    """Every step pays ``seed % 97`` and succeeds when the seed is odd, whatever is done."""

    camera: str | int = -1
    model = data = None

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        self.seed = seed
        return np.zeros(5), {}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        return np.full(5, 0.1), float(self.seed % 97), False, {"success": float(self.seed % 2)}


class SeedSimulator(Simulator):
    """Returns that depend on the seed alone: three steps, 3 * (seed % 97)."""

    name = "seed-v0"
    obs_dim, action_dim, horizon = 5, 2, 3

    def make(self, render: bool = False) -> Any:
        from lightning_pbrl.envs.episodic import Episodic

        return Episodic(self, SeedPhysics())

    def describe(self) -> dict[str, Any]:
        return {"class": "SeedSimulator"}


class ToyData(FeedbackDataModule):
    """The synthetic data set with the toy simulator; where the first entry is largest are the examples of success, if wanted."""

    examples: Examples | None = None
    held_out_source: Transitions | None = None

    def __init__(self, true_reward: bool = True, episodes: int = 20, examples: int = 0, **settings: Any) -> None:
        settings = {"segment_length": 10, "eval_episodes": 4, "num_envs": 2, "held_out_pairs": 50, **settings}
        super().__init__(simulator=SeedSimulator(), **settings)
        self.true_reward, self.episodes, self.wanted = true_reward, episodes, examples

    def load(self) -> Transitions:
        data = synthetic_transitions(episodes=self.episodes)
        if self.wanted:
            best = data.column("obs")[:, 0].argsort(descending=True)[: self.wanted]
            self.examples = Examples(data.column("obs")[best].clone(), {"from": "synthetic"}, "synthetic")
            self.held_out_source = synthetic_transitions(episodes=5, seed=1)
        if not self.true_reward:
            data.reward.fill_(float("nan"))
        return data


def data_for(method: type[Method]) -> FeedbackDataModule:
    """What a method learns from: logged data, or the toy simulator with two environments to act in."""
    if "env" in method.needs:
        return OnlineDataModule(SeedSimulator(), num_envs=2, segment_length=3, eval_episodes=4, eval_envs=2)
    return ToyData(examples=12 if "examples" in method.needs else 0)


def make_trainer(folder: Path, callbacks: list[pl.Callback] | None = None, **settings: Any) -> pl.Trainer:
    """A quiet CPU trainer: CSV logs in ``folder/csv``, the checkpoint of every round in ``folder/checkpoints``."""
    callbacks = callbacks or []
    if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        callbacks = [
            ModelCheckpoint(folder / "checkpoints", filename="{epoch}", save_top_k=-1, save_last=True),
            *callbacks,
        ]
    return pl.Trainer(
        **{
            "default_root_dir": folder,
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": -1,
            "logger": CSVLogger(folder, name="csv"),
            "callbacks": callbacks,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **settings,
        }
    )


def callbacks_for(method: type[Method], **ask: Any) -> list[pl.Callback]:
    """What a method needs around it: a teacher, a reward, or nothing."""
    found: list[pl.Callback] = []
    if "labels" in method.needs:
        first = int("env" in method.needs)  # round 0 makes what questions are about
        who = {"teacher": MixedTeacher(), "query": uniformly(method.kinds)} if "rating" in method.kinds else {}
        usual = {"teacher": SimulatedTeacher(), "budget": 30 - 10 * first, "per_round": 10, "first_round": first}
        found.append(AskTeacher(**{**usual, **who, **ask}))
    if "learned_reward" in method.needs:
        found.append(RelabelRewards("true"))
    return found


def read_csv(folder: Path) -> list[dict[str, float]]:
    """All rows that a run has logged, resumed parts in order; only the cells that hold a number."""
    rows: list[dict[str, float]] = []
    for version in sorted((folder / "csv").glob("version_*"), key=lambda p: int(p.name.split("_")[1])):
        metrics = version / "metrics.csv"  # absent when nothing was logged
        with open(metrics if metrics.exists() else "/dev/null") as file:
            rows += [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return rows


def leaves(tree: Any, at: str = "") -> dict[str, Any]:
    """The entries of nested dicts and lists by path."""
    if isinstance(tree, dict | list | tuple):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {path: leaf for key, part in pairs for path, leaf in leaves(part, f"{at}/{key}").items()}
    return {at: tree}


def assert_same(first: Any, second: Any) -> None:
    """Two nested states are equal, tensors bit for bit."""
    one, two = leaves(first), leaves(second)
    assert one.keys() == two.keys()
    for path, value in one.items():
        same = torch.equal(value, two[path]) if torch.is_tensor(value) else value == two[path]
        assert same, f"{path}: {value} != {two[path]}"
