"""The toy problem of ``lightning_pbrl.testing`` with CSV logs, for tests that train."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from lightning_pbrl.engine import Program
from lightning_pbrl.engine.draws import Streams, updates_of
from lightning_pbrl.testing import toys
from lightning_pbrl.testing.toys import SPEC, SeedPhysics, SeedSimulator, ToyData, callbacks_for, data_for

__all__ = ["SPEC", "SeedPhysics", "SeedSimulator", "ToyData", "callbacks_for", "data_for"]
"""Of the toys that ship with the library, for tests that import them from here."""


def make_trainer(folder: Path, callbacks: list[pl.Callback] | None = None, **settings: Any) -> pl.Trainer:
    """A quiet CPU trainer: CSV logs in ``folder/csv``, the checkpoint of every round in ``folder/checkpoints``."""
    return toys.make_trainer(folder, callbacks, **{"logger": CSVLogger(folder, name="csv"), **settings})


def read_csv(folder: Path) -> list[dict[str, float]]:
    """All rows that a run has logged, resumed parts in order; only the cells that hold a number."""
    rows: list[dict[str, float]] = []
    for version in sorted((folder / "csv").glob("version_*"), key=lambda p: int(p.name.split("_")[1])):
        metrics = version / "metrics.csv"  # absent when nothing was logged
        with open(metrics if metrics.exists() else "/dev/null") as file:
            rows += [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return rows


def drawn(program: Program, updates: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    """Random input of the first updates of a phase, as an engine of that seed draws it."""
    return updates_of(Streams(seed).block(program.draws, updates), updates)


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
