"""A method, a teacher, a strategy and a data set of an outside package, used by ``class_path`` alone.

The parts are the examples of docs/extending.md as printed, written to a package that this library has never heard of.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ASK, CPU, DATA, NO_INK, QUIET, REWARD, SMALL_REWARD, labels, mistake, package
from safetensors.torch import load_file
from synthetic import synthetic_transitions

from lightning_pbrl import load_method
from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method

pytestmark = [QUIET, NO_INK]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
UPDATES = ["--model.init_args.updates=20"]


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package ``stranger``, importable but imported by nobody; commands run in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "class " in block]
    assert len(blocks) == 5
    with package(tmp_path, "stranger", "\n\n".join(blocks)):
        yield


def npz(path: Path) -> None:
    """Four synthetic episodes of 60 steps as one file."""
    data = synthetic_transitions(episodes=4, length=60)
    np.savez(path, **{name: data.column(name).numpy() for name in ("obs", "action", "next_obs")}, reward=data.reward.numpy())


def test_method(stranger: None, tmp_path: Path) -> None:
    main(["fit", *DATA, "--model=stranger.MeanSquaredBC", *UPDATES, "--run_dir=run", "--then_test"])
    method = load_method("run/checkpoints/last.ckpt")
    assert type(method).__name__ == "MeanSquaredBC"
    assert method.act(torch.zeros(3, 39)).shape == (3, 4)
    fresh = type(method)(**method.hparams)
    fresh.configure_model()
    obs = torch.ones(3, 39)
    assert not torch.equal(fresh.act(obs), method.act(obs))  # it has been trained
    main(["test", "-c", "run/config.yaml", "--ckpt_path=run/checkpoints/last.ckpt", "--run_dir=tested"])
    assert (tmp_path / "tested/results.json").is_file()


def test_a_checkpoint_of_a_method_that_nobody_has_imported(stranger: None) -> None:
    main(["fit", *DATA, "--model=stranger.MeanSquaredBC", *UPDATES, "--run_dir=run"])
    del Method.registry["MeanSquaredBC"]  # a new session that has not imported the package
    with pytest.raises(UserError, match=r"'MeanSquaredBC', which no imported module defines .*: import the one that does first"):
        load_method("run/checkpoints/last.ckpt")


def test_teacher(stranger: None, tmp_path: Path) -> None:
    teacher = ["--ask.teacher=stranger.LazyTeacher", "--ask.teacher.init_args.laziness=1.0"]
    main(["fit", *REWARD, *teacher, "--ask.budget=20", "--ask.per_round=10", "--run_dir=run"])
    equal = {status for _, _, status in labels(tmp_path / "run/labels.sqlite")}
    assert len(equal) == 1  # it never looks: every answer is "equal"
    with sqlite3.connect(tmp_path / "run/labels.sqlite") as store:
        found = store.execute("select distinct value, teacher, answered_by from pbrl_questions").fetchall()
    ((value, settings, answered_by),) = found
    assert (value, answered_by) == (0.5, "LazyTeacher")
    assert '"laziness": 1.0' in settings


def test_query_strategy(stranger: None, tmp_path: Path) -> None:
    main(["fit", *REWARD, *ASK, "--ask.query=stranger.BoldQuery", "--run_dir=run"])
    with sqlite3.connect(tmp_path / "run/labels.sqlite") as store:
        (strategies,) = [set(row) for row in store.execute("select group_concat(distinct strategy) from pbrl_questions")]
    assert "BoldQuery" in next(iter(strategies))
    assert len(labels(tmp_path / "run/labels.sqlite")) == 20


def test_data_module(stranger: None, tmp_path: Path) -> None:
    npz(tmp_path / "a.npz")
    data = ["--data=stranger.NpzDataModule", "--data.init_args.path=a.npz", "--data.init_args.episode_length=60", *CPU]
    main(["fit", *data, "-c", "model/bc.yaml", *UPDATES, "--run_dir=run"])
    method = load_method("run/checkpoints/last.ckpt")
    assert (method.spec["obs_dim"], method.spec["action_dim"]) == (5, 2)  # read from the file: there is no simulator
    main(["predict", "-c", "run/config.yaml", "--ckpt_path=run/checkpoints/last.ckpt"])
    assert load_file("run/predictions.safetensors")["action"].shape == (240, 2)


def test_three_together_from_a_config_file(stranger: None, tmp_path: Path) -> None:
    npz(tmp_path / "a.npz")
    (tmp_path / "mine.yaml").write_text(
        "ask: {teacher: {class_path: stranger.LazyTeacher}, query: {class_path: stranger.BoldQuery}, budget: 10, per_round: 5}\n"
        "data: {class_path: stranger.NpzDataModule, init_args: {path: a.npz, episode_length: 60}}\n"
    )
    main(["fit", "-c", "model/reward_ensemble.yaml", "-c", "mine.yaml", *SMALL_REWARD, *CPU, "--run_dir=reward"])
    assert load_method("reward/checkpoints/last.ckpt").reward(torch.zeros(4, 7)).shape == (3, 4)


def test_an_unknown_package_is_a_sentence(stranger: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert "strangr" in mistake(capfd, "fit", *REWARD, *ASK, "--ask.query=strangr.BoldQuery")
    assert "BoldQery" in mistake(capfd, "fit", *REWARD, *ASK, "--ask.query=stranger.BoldQery")
