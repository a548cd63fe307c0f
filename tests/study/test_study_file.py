"""Sweep files: expansion, pairing, drawn values, filters, and what they say to a mistaken user."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_pbrl.errors import UserError
from lightning_pbrl.study.file import Study, read_studies, read_study

BASE = {"base": "model/bc.yaml"}
LR, TASK, PATH = "model.init_args.lr", "data.init_args.task", "data.init_args.path"


def spec(folder: Path, content: dict[str, Any], name: str = "spec.yaml") -> Study:
    path = folder / name
    path.write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content, sort_keys=False))
    return read_study(path)


def said(sweep: Study) -> list[tuple[Any, ...]]:
    """Base, values and seed of every point."""
    return [(point.base, *point.values.values(), point.seed) for point in sweep.points()]


def test_all_combinations_seeds_innermost(tmp_path: Path) -> None:
    sweep = spec(tmp_path, {**BASE, LR: [0.1, 0.2], "seed": [3, 1], "model.init_args.hidden": [[8], [8, 8]]})
    assert said(sweep) == [
        ("bc", 0.1, [8], 3),
        ("bc", 0.1, [8], 1),
        ("bc", 0.1, [8, 8], 3),
        ("bc", 0.1, [8, 8], 1),
        ("bc", 0.2, [8], 3),
        ("bc", 0.2, [8], 1),
        ("bc", 0.2, [8, 8], 3),
        ("bc", 0.2, [8, 8], 1),
    ]
    assert sweep.name == "spec"
    assert said(spec(tmp_path, BASE)) == [("bc", 0)]  # nothing varies: one trial with seed 0


def test_json_of_the_ipl_repository(tmp_path: Path) -> None:
    """Its schema: several base configs, dotted keys with lists, paired keys, seeds; a number such as 1e-4 is a number."""
    for name in ("iql.yaml", "awac.yaml"):
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / name).write_text("model: {class_path: BC}\n")
    (tmp_path / "grid.json").write_text(
        """{"base": ["configs/iql.yaml", "configs/awac.yaml"],
            "eval_env": ["mw_drawer-open-v2", "mw_sweep-into-v2"],
            "dataset_kwargs.path": ["datasets/drawer-open.npz", "datasets/sweep-into.npz"],
            "paired_keys": [["eval_env", "dataset_kwargs.path"]],
            "alg_kwargs.chi2_coeff": [1e-4],
            "seed": [1, 2]}"""
    )
    sweep = read_study(tmp_path / "grid.json")
    assert sweep.name == "grid"
    assert list(sweep.bases) == ["iql", "awac"]
    assert sweep.bases["awac"].stages == {"": {"config": [str(tmp_path / "configs/awac.yaml")]}}
    pairs = [("mw_drawer-open-v2", "datasets/drawer-open.npz"), ("mw_sweep-into-v2", "datasets/sweep-into.npz")]
    assert said(sweep) == [(base, *pair, 0.0001, seed) for base in ("iql", "awac") for pair in pairs for seed in (1, 2)]


def test_yaml_numbers_need_no_dot(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: model/bc.yaml\nmodel.init_args.lr: [1e-4, 3E-3, '1e-4x']\n")
    assert said(read_study(tmp_path / "a.yaml")) == [("bc", 1e-4, 0), ("bc", 3e-3, 0), ("bc", "1e-4x", 0)]


def test_bases(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("stages: {first: {config: []}, second: {config: []}}\n")
    stage = {"config": ["data/demo.yaml", "model/iql.yaml"], "with": {"then_test": True}}
    sweep = spec(tmp_path, {"base": {"a": stage, "b": ["data/demo.yaml", "model/bc.yaml"], "c": "two.yaml"}})
    assert sweep.bases["a"].stages == {"": stage}
    assert sweep.bases["b"].stages == {"": {"config": ["data/demo.yaml", "model/bc.yaml"]}}
    assert list(sweep.bases["c"].stages) == ["first", "second"]
    lists = spec(tmp_path, {"base": [["data/demo.yaml", "model/bc.yaml"], "two.yaml"]})
    assert list(lists.bases) == ["demo-bc", "two"]
    assert spec(tmp_path, {"base": stage}).bases["demo-iql"].stages == {"": stage}


def test_pairs_stand_where_their_first_key_does(tmp_path: Path) -> None:
    content = {**BASE, LR: [1, 2], TASK: ["a", "b"], PATH: ["x", "y"], "paired_keys": [[PATH, TASK]]}
    sweep = spec(tmp_path, content)
    assert [axis.keys for axis in sweep.axes] == [(LR,), (PATH, TASK)]
    assert said(sweep) == [("bc", 1, "x", "a", 0), ("bc", 1, "y", "b", 0), ("bc", 2, "x", "a", 0), ("bc", 2, "y", "b", 0)]


def test_stages_are_one_base_and_may_have_lists(tmp_path: Path) -> None:
    stages = {"first": {"config": ["data/demo.yaml"]}, "second": {}}
    study = spec(tmp_path, {"stages": stages, LR: [0.1, 0.2], "seeds": "0-1", "report": {"show": ["second"]}})
    assert [(*point.values.values(), point.seed) for point in study.points()] == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    assert study.bases["spec"].stages == stages
    assert study.report == {"show": ["second"]}
    assert [spec(tmp_path, {"stages": stages, "seeds": seeds}).seeds for seeds in (5, [3, 1], "2-3")] == [(5,), (3, 1), (2, 3)]


TASKS = {
    "name": "mine-${row}",
    "stages": {
        "reward": {"config": ["data/${task}.yaml"], "with": {"ask": {"budget": 10, "per_round": 5}}},
        "policy": {"with": {"data": {"path": "x/${task}"}}},
    },
    "tasks": {
        "a": {},
        "b-far": {"task": "b", LR: 0.5, "stages.reward.with.ask.budget": 20, "data": {"size": 3}},
    },
}


def test_a_study_for_each_row(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump(TASKS, sort_keys=False))
    a, b = read_studies(str(path))
    assert [(study.name, study.row) for study in (a, b)] == [("mine-a", "a"), ("mine-b-far", "b-far")]
    assert a.bases["many"].stages == {
        "reward": {"config": ["data/a.yaml"], "with": {"ask": {"budget": 10, "per_round": 5}}},
        "policy": {"with": {"data": {"path": "x/a"}}},
    }
    assert b.bases["many"].stages == {
        "reward": {
            "config": ["data/b.yaml"],
            "with": {"ask": {"budget": 20, "per_round": 5}, "model": {"init_args": {"lr": 0.5}}, "data": {"size": 3}},
        },
        "policy": {"with": {"data": {"path": "x/b", "size": 3}, "model": {"init_args": {"lr": 0.5}}}},
    }
    assert [study.row for study in read_studies(str(path), "b-far, a")] == ["b-far", "a"]
    path.write_text(yaml.safe_dump({key: value for key, value in TASKS.items() if key != "name"}))
    assert [study.name for study in read_studies(str(path))] == ["many-a", "many-b-far"]


@pytest.mark.parametrize(
    ("change", "tasks", "words"),
    [
        ({}, "c", "--task c: .*many.yaml has no such row, known: a, b-far"),
        ({"tasks": {}}, "a", "--task a: .*many.yaml has no tasks"),
        ({"tasks": ["a"]}, None, "tasks is .*give a row of keys for each task"),
        ({"tasks": {"a": {"stages.rewrd.with.ask.budget": 1}}}, None, "did you mean stages.reward.with.ask.budget"),
        ({"base": "model/bc.yaml"}, None, "it has stages and a base: give one of them"),
        ({"report": [1]}, None, "report is .*show: "),
        ({"report": {"show": ["nope"]}}, None, "report names 'nope': give the stages of the table"),
        ({"report": {"shows": []}}, None, "report names 'shows'"),
        ({"seds": 3}, None, r"unknown keys \['seds'\]"),
        ({"seeds": "3-1"}, None, "--seeds '3-1' is not understood"),
    ],
)
def test_mistakes_about_tasks(change: dict[str, Any], tasks: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump({**TASKS, **change}))
    with pytest.raises(UserError, match=words):
        read_studies(str(path), tasks)


def test_a_study_with_lists_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("stages: {first: {config: []}}\nask.budget: [1, 2]\n")
    with pytest.raises(UserError, match=r"base 'two' is .*two.yaml, which has \['ask.budget'\] of its own"):
        spec(tmp_path, {"base": "two.yaml"})


def test_drawn_values(tmp_path: Path) -> None:
    drawn = {
        **BASE,
        TASK: ["a", "b"],
        LR: {"log_uniform": [1e-4, 1e-2]},
        "model.init_args.dropout": {"uniform": [0, 0.5]},
        "model.init_args.hidden": {"choice": [[64], [256, 256]]},
        "random": {"samples": 200, "seed": 4},
    }
    sweep = spec(tmp_path, drawn)
    rates, dropouts, hidden = zip(*sweep.axes[1].values, strict=True)
    assert len(rates) == 200
    assert len(sweep.points()) == 400  # each with both tasks
    assert min(rates) >= 1e-4 and max(rates) <= 1e-2
    below = sum(rate < 1e-3 for rate in rates)  # the middle of the logarithms: 100 expected, standard deviation 7.1
    assert 100 - 22 < below < 100 + 22
    assert min(dropouts) >= 0 and max(dropouts) <= 0.5
    assert abs(sum(dropouts) / 200 - 0.25) < 3 * 0.5 / math.sqrt(12 * 200)
    assert [64] in hidden and [256, 256] in hidden
    assert all(float(f"{rate:.4g}") == rate for rate in rates)
    assert spec(tmp_path, drawn).axes == sweep.axes  # the same again
    fewer = {key: value for key, value in drawn.items() if "dropout" not in key}
    assert [point[0] for point in spec(tmp_path, fewer).axes[1].values][:50] == list(rates[:50])  # whatever else is drawn
    assert spec(tmp_path, {**drawn, "random": {"samples": 200, "seed": 5}}).axes != sweep.axes


def test_repeated_draws_count_once(tmp_path: Path) -> None:
    sweep = spec(tmp_path, {**BASE, LR: {"choice": [1, 2]}, "random": {"samples": 50, "seed": 0}})
    assert sorted(sweep.axes[0].values) == [(1,), (2,)]


def test_filters(tmp_path: Path) -> None:
    grid = {"base": {"a": "model/bc.yaml", "b": "model/iql.yaml"}, LR: [0.1, 0.2], "model.init_args.hidden": [[8], [16]]}
    every = said(spec(tmp_path, grid))
    assert len(every) == 8
    only = spec(tmp_path, {**grid, "include": [{"base": "a", LR: 0.1}, {LR: [0.2], "model.init_args.hidden": [8]}]})
    assert said(only) == [("a", 0.1, [8], 0), ("a", 0.1, [16], 0), ("a", 0.2, [8], 0), ("b", 0.2, [8], 0)]
    without = spec(tmp_path, {**grid, "exclude": {"base": "b", LR: [0.1, 0.2]}})
    assert said(without) == [row for row in every if row[0] == "a"]
    both = spec(tmp_path, {**grid, "include": [{"base": "a"}], "exclude": [{LR: 0.1}]})
    assert said(both) == [("a", 0.2, [8], 0), ("a", 0.2, [16], 0)]
    seeds = spec(tmp_path, {**BASE, "seed": [0, 1, 2], "exclude": [{"seed": [0, 2]}]})
    assert said(seeds) == [("bc", 1)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({LR: [1]}, "names no base"),
        ({"base": []}, "base is empty"),
        ({"base": "model/bcc.yaml"}, "no config file model/bcc.yaml: did you mean model/bc.yaml"),
        ({"base": ["model/bc.yaml", "model/bc.yaml"]}, "two bases are called 'bc'"),
        ({"base": {"a": {"confg": ["model/bc.yaml"]}}}, "base 'a' is .*give a config file"),
        ({**BASE, LR: 0.1}, r"lr is 0.1: give a list of values, such as \[0.1\]"),
        ({**BASE, LR: []}, "lr is .*give a list of values"),
        ({**BASE, LR: [0.1, 0.1]}, "lr has the value 0.1 twice"),
        ({**BASE, "seed": [0, -1]}, r"seed is \[0, -1\]"),
        ({**BASE, "seed": [1, 1]}, "seed has the value 1 twice"),
        ({**BASE, "seed_everything": [1]}, r"seed_everything is set by the study itself.*seed: \[0, 1\]"),
        ({**BASE, "stages.a.with.run_dir": ["x"]}, "run_dir is set by the study itself"),
        ({**BASE, LR: [1, 2], TASK: ["a"], "paired_keys": [[LR, TASK]]}, "lr has 2 values, data.init_args.task has 1 values"),
        ({**BASE, LR: [1], "paired_keys": [[LR, "model.init_args.l"]]}, "has no list of values: did you mean model.init_args.lr"),
        ({**BASE, LR: [1], TASK: ["a"], "paired_keys": [[LR, TASK], [TASK, LR]]}, "in two groups"),
        ({**BASE, LR: [1], "paired_keys": [LR]}, "paired_keys is .*groups of keys"),
        ({**BASE, LR: {"uniform": [0, 1]}}, "need `random: {samples: 10, seed: 0}`"),
        ({**BASE, LR: {"uniform": [0, 1]}, "random": {"samples": 0}}, "need `random"),
        ({**BASE, LR: [1], "random": {"samples": 3}}, "random draws no key"),
        ({**BASE, LR: {"unifrm": [0, 1]}, "random": {"samples": 3}}, "unifrm.*with low below high"),
        ({**BASE, LR: {"uniform": [1, 0]}, "random": {"samples": 3}}, "with low below high"),
        ({**BASE, LR: {"log_uniform": [0, 1]}, "random": {"samples": 3}}, "lower bound must be above 0"),
        ({**BASE, LR: [1, 2], "exclude": [{"model.init_args.l": 1}]}, "exclude names 'model.init_args.l'.*did you mean"),
        ({**BASE, LR: [1, 2], "include": [{LR: 3}]}, r"include names 3, which is no value of .*it has \[1, 2\]"),
        ({**BASE, LR: [1, 2], "include": [LR]}, "give mappings of key: value"),
    ],
)
def test_mistakes(content: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        spec(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_filters_that_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no trials: its include and exclude filters leave none"):
        spec(tmp_path, {**BASE, LR: [1], "exclude": [{LR: 1}]}).points()


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, text in {"a.json": '{"base": ', "a.yaml": "base: [1\nx: 2"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name} is not valid {name[2:].upper()}"):
            read_study(tmp_path / name)
    with pytest.raises(UserError, match="There is no file"):
        read_study(tmp_path / "nothing.yaml")
