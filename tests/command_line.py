"""Drive the command line as a user does, inside this process (starting one costs seconds): shipped configs, tiny sizes."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import yaml

from lightning_pbrl import jobs, registry
from lightning_pbrl.cli import main
from lightning_pbrl.methods.base import Method

NO_INK = pytest.mark.usefixtures("no_ink")
QUIET = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
"""pytorch-lightning 2.6.6 calls jsonargparse the old way; hidden from users, because it is a DeprecationWarning."""

DATA_ARGS = {
    "horizon": 30,
    "episodes": 6,
    "segment_length": 10,
    "eval_episodes": 2,
    "test_episodes": 3,
    "num_envs": 2,
    "held_out_pairs": 40,
}
"""Sizes of the data; 6 episodes of 30 steps are 180 rows."""
SWEPT_DATA = {f"data.init_args.{key}": [value] for key, value in {**DATA_ARGS, "cache_dir": "data"}.items()}
"""The same, as a sweep says it."""

ROWS = 180
CPU = ["--trainer.accelerator=cpu"]
DATA = ["-c", "data/metaworld.yaml", *(f"--data.init_args.{key}={value}" for key, value in DATA_ARGS.items()), *CPU]
SHORT = ["--model.init_args.updates=20", "--model.init_args.eval_interval=10", "--model.init_args.hidden=[16, 16]"]
BC = [*DATA, "-c", "model/bc.yaml", *SHORT]
IQL = [*DATA, "-c", "model/iql.yaml", *SHORT]
SMALL_REWARD = ["--model.init_args.hidden=[16, 16]", "--model.init_args.epochs=3"]
REWARD = [*DATA, "-c", "model/reward_ensemble.yaml", *SMALL_REWARD]
ASK = ["-c", "teacher/oracle.yaml", "--ask.budget=20", "--ask.per_round=10"]


def mistake(capfd: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must end with exit code 2 and one line on stderr; returns the line without "error: "."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    err = capfd.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err.removeprefix("error: ").strip()


def write_two_tasks(path: Path, updates: int, **more: Any) -> None:
    """Write a sweep of a small behaviour cloning: two seeds of a task, and two of one that does not exist."""
    content = {
        "name": "small",
        "base": [["data/metaworld.yaml", "model/bc.yaml"]],
        **SWEPT_DATA,
        "data.init_args.task": ["drawer-close", "no-such-task"],
        "model.init_args.hidden": [[16, 16]],
        "model.init_args.updates": [updates],
        "model.init_args.eval_interval": [500],
        "trainer.accelerator": ["cpu"],
        **more,
        "seed": [0, 1],
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def labels(path: Path) -> list[Any]:
    """All questions of a label store in order: (round, number, status)."""
    with sqlite3.connect(path) as store:
        return store.execute("select round, number, status from pbrl_questions order by number").fetchall()


class InProcess:
    """Stands for the process of a job (``lightning_pbrl.jobs``), without the seconds that a new interpreter takes."""

    pid = 2**30  # above every real one
    started: ClassVar[list[str]] = []

    def __init__(self, command: list[str], stdout: Any, **_: Any) -> None:
        InProcess.started.append(command[-2])
        self.code = 0
        with redirect_stdout(stdout), redirect_stderr(stdout):
            try:
                main(command[4:])  # python -P -m lightning_pbrl
            except SystemExit as stop:
                self.code = stop.code

    def poll(self) -> int:
        return self.code


def jobs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let jobs run here, one after the other; returns the list that will name the last config file of each."""
    InProcess.started = []
    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(Popen=InProcess, STDOUT=None))
    monkeypatch.setattr(jobs, "_pin", lambda *_: None)
    monkeypatch.setenv("LIGHTNING_PBRL_FORK", "0")
    return InProcess.started


@contextmanager
def package(folder: Path, name: str, source: str) -> Iterator[None]:
    """An importable module ``name`` in ``folder``; forgotten afterwards, with the methods it has registered."""
    (folder / f"{name}.py").write_text(source)
    registry.import_all()
    before = dict(Method.registry)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)
        Method.registry.clear()
        Method.registry.update(before)
