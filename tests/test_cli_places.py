"""A run of the command line in a folder with an odd name, with a seed that it has chosen itself."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest
import yaml
from command_line import ASK, NO_INK, QUIET, REWARD, labels, mistake

from lightning_pbrl.cli import main
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.run_folder import opened
from lightning_pbrl.study.file import parse_seeds
from lightning_pbrl.train_cli import run_seed

ODD = ["q?mark", "my%20run", "a#b", "Zürich ☃", "x:y", "file:memory", "?mode=memory", "[a]*", "~", "100%"]


@NO_INK
@QUIET
def test_a_chosen_seed_is_told_and_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a folder that a URL would read otherwise; the label store lies in it, and a run of the saved config repeats all."""
    monkeypatch.chdir(tmp_path)
    first = Path("q?m %20#☃:[x]")
    main(["fit", *REWARD, *ASK, "--seed_everything=true", f"--run_dir={first}", "--then_test"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([first.name, *({"data"} & set(os.listdir()))])
    seed = yaml.safe_load((first / "config.yaml").read_text())["seed_everything"]
    results = json.loads((first / "results.json").read_text())
    assert type(seed) is int and results["seed"] == seed
    assert len(labels(first / "labels.sqlite")) == 20
    main(["fit", "-c", str(first / "config.yaml"), "--run_dir=again"])
    assert json.loads(Path("again/results.json").read_text())["metrics"] == results["metrics"]


@pytest.mark.parametrize("name", ODD)
def test_a_label_store_lies_where_it_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / name / "labels.sqlite", Path(name) / "relative.sqlite", f"{name}.sqlite"):
        LabelStore(place, "print")
        with sqlite3.connect(tmp_path / place) as there:
            assert there.execute("select count(*) from pbrl_questions").fetchone() == (0,)
    assert sorted(os.listdir()) == sorted([name, f"{name}.sqlite"])


def test_a_run_folder_is_one_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opened("~/runs/a:b?c%20d") == tmp_path / "runs/a:b?c%20d"
    for address in ("s3://bucket/run", "memory://run", "simplecache::run"):
        with pytest.raises(UserError) as refused:
            opened(address)
        assert str(refused.value) == f"run_dir is {address}: give a folder of this machine, without :// and ::."


@pytest.mark.parametrize("given", [0, 7, "7", 4294967295, "4294967295"])
def test_seeds(given: int | str) -> None:
    assert run_seed(given) == int(given)


@pytest.mark.parametrize("wrong", [-1, 2**32, 2**63, 2**64, False, "false", 1.0, "1.5", "1e3", "seven", "", None, "nan"])
def test_what_is_no_seed(wrong: object) -> None:
    with pytest.raises(UserError) as refused:
        run_seed(wrong)
    sentence = f"seed_everything is {wrong}: give a whole number between 0 and 4294967295, or true to have one chosen."
    assert str(refused.value) == sentence


def test_a_seed_is_chosen_once_for_all_processes_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning hands it to the processes it starts; those that others start would each choose."""
    assert len({run_seed(True), run_seed("True"), run_seed("true")}) == 3
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    assert run_seed("true") != 77
    monkeypatch.setenv("RANK", "1")
    assert run_seed("true") == 77
    monkeypatch.delenv("PL_GLOBAL_SEED")
    with pytest.raises(UserError, match=r"^seed_everything=true would give each process a seed of its own: give a number\.$"):
        run_seed("true")


@pytest.mark.parametrize("text", ["0-4294967296", "9223372036854775808", "0-9999999", "4294967296"])
def test_seeds_of_an_experiment_are_seeds(text: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_seeds(text)
    assert str(refused.value) == f"--seeds '{text}': give at most 10,000 whole numbers between 0 and 4294967295."


def test_the_largest_seeds_of_an_experiment() -> None:
    assert parse_seeds("4294967294-4294967295") == [4294967294, 4294967295]


@QUIET
def test_no_seed_on_the_command_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = mistake(capfd, "fit", *REWARD, f"--run_dir={tmp_path}", "--seed_everything=-1")
    assert found == "seed_everything is -1: give a whole number between 0 and 4294967295, or true to have one chosen."
