"""Folder names of trials, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_pbrl.errors import UserError
from lightning_pbrl.study.file import read_study
from lightning_pbrl.study.naming import group_folders, short_keys, value_names

TASK, PATH = "data.init_args.simulator.init_args.task", "data.init_args.path"


def folders(tmp_path: Path, content: dict[str, Any]) -> list[str]:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    spec = read_study(path)
    return list(dict.fromkeys(map(str, group_folders(spec, spec.points()))))


def test_base_task_and_values(tmp_path: Path) -> None:
    content = {
        "base": {"ipl": "model/bc.yaml", "mr": "model/iql.yaml"},
        TASK: ["drawer-open", "sweep-into"],
        "model.init_args.lr": [0.0003, 0.001],
        "ask.budget": [500],  # one value: left out
        "model.init_args.hidden": [[64, 64], [256, 256, 256]],
        "seed": [0, 1],
    }
    names = folders(tmp_path, content)
    assert len(names) == 16
    assert names[:3] == [
        "ipl/drawer-open/lr=0.0003_hidden=64x64",
        "ipl/drawer-open/lr=0.0003_hidden=256x256x256",
        "ipl/drawer-open/lr=0.001_hidden=64x64",
    ]
    assert names[-1] == "mr/sweep-into/lr=0.001_hidden=256x256x256"


def test_nothing_to_tell_apart(tmp_path: Path) -> None:
    assert folders(tmp_path, {"base": "model/bc.yaml", "seed": [0, 1]}) == ["."]
    assert folders(tmp_path, {"base": "model/bc.yaml", TASK: ["a"], "model.init_args.lr": [1, 2]}) == ["lr=1", "lr=2"]


def test_paired_keys_are_shown_once(tmp_path: Path) -> None:
    content = {
        "base": "model/bc.yaml",
        PATH: ["datasets/mw/drawer-open.npz", "datasets/mw/sweep-into.npz"],
        TASK: ["drawer-open", "sweep-into"],
        "model.init_args.lr": [1, 2],
        "paired_keys": [[PATH, TASK]],
    }
    assert folders(tmp_path, content) == [f"{task}/lr={lr}" for task in ("drawer-open", "sweep-into") for lr in (1, 2)]
    content[PATH] = ["datasets/first.npz", "datasets/second.npz"]  # other names: shown too
    assert folders(tmp_path, content)[0] == "drawer-open/path=first_lr=1"
    stages = {f"stages.{name}.with.data.init_args.size": [500, 4000] for name in ("reward", "policy")}
    two = {"base": "model/bc.yaml", **stages, "paired_keys": [list(stages)]}
    assert folders(tmp_path, two) == ["size=500", "size=4000"]


def test_a_paired_value_may_repeat(tmp_path: Path) -> None:
    content = {"base": "model/bc.yaml", TASK: ["a", "a", "b"], "ask.budget": [1, 2, 1], "paired_keys": [[TASK, "ask.budget"]]}
    assert folders(tmp_path, content) == ["a/budget=1", "a/budget=2", "b/budget=1"]
    content["ask.budget"] = [1, 1, 1]
    with pytest.raises(UserError, match=r"task with ask.budget has the value \('a', 1\) twice; remove one"):
        folders(tmp_path, content)


def test_keys_are_shortened_as_far_as_they_stay_apart() -> None:
    assert short_keys(["model.init_args.lr"]) == {"model.init_args.lr": "lr"}
    keys = ["model.init_args.lr", "data.init_args.lr", "ask.budget", "model.class_path", "stages.a.with.ask.per_round"]
    assert list(short_keys(keys).values()) == ["model.lr", "data.lr", "budget", "model", "per_round"]
    stages = ["stages.reward.with.model.init_args.lr", "stages.policy.with.model.init_args.lr"]
    assert list(short_keys(stages).values()) == ["reward.model.lr", "policy.model.lr"]
    assert list(short_keys(["lr", "model.lr"]).values()) == ["lr", "model.lr"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["data/a/x.npz", "data/b/x.npz"], ["a", "b"]),
        (["data/a.npz", "data/b.hdf5"], ["a.npz", "b.hdf5"]),
        (["a", "a/b"], ["a", "a-b"]),
        (["true", "zero"], ["true", "zero"]),
        (["walker walk", "hopper:hop"], ["walker-walk", "hopper-hop"]),
        (["../secret", ".."], ["-secret", "empty"]),
        ([1e-05, 0.1, 1.0], ["1e-05", "0.1", "1"]),
        ([0.1234567, 0.12345678], ["0.1234567", "0.12345678"]),
        ([-1, 1], ["-1", "1"]),
        ([True, False, None], ["true", "false", "null"]),
        ([[256, 256], [35]], ["256x256", "35"]),
        ([{"class_path": "a.UniformQuery"}, {"class_path": "KCenter", "init_args": {"n": 3}}], ["UniformQuery", "KCenter-3"]),
        ([[1, 2], "1x2"], ["1x2-0", "1x2-1"]),
        (["a b", "a-b"], ["a-b-0", "a-b-1"]),
    ],
)
def test_values(values: list[Any], names: list[str]) -> None:
    assert value_names(values) == names


def test_a_shared_folder_is_refused(tmp_path: Path) -> None:
    content = {"base": {"a b": "model/bc.yaml", "a-b": "model/iql.yaml"}}
    with pytest.raises(UserError, match="two configurations share the folder a-b; rename a base or a value"):
        folders(tmp_path, content)
