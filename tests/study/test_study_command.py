"""``lightning-pbrl sweep`` from a file to folders, tables and reports."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import NO_INK, QUIET, SWEPT_DATA, jobs_in_this_process, mistake
from rich.console import Console
from run_folders import write_policy_run

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.loading import read_checkpoint
from lightning_pbrl.reports.metrics import find_runs, group
from lightning_pbrl.study.command import _changes
from lightning_pbrl.study.file import read_study
from lightning_pbrl.study.plan import check_keys, distinct_values, plan
from lightning_pbrl.study.report import marginals, report_values

pytestmark = [QUIET, NO_INK]
CONF = Path(packaged_config("model/iql.yaml")).parents[1]
SWEEPS = sorted(str(path.relative_to(CONF)) for path in (CONF / "sweep").rglob("*.yaml"))
LR = "model.init_args.lr"


def small(folder: Path, **changes: Any) -> str:
    """BC and an experiment (a reward, then IQL on it), tiny; as a file in ``folder``."""
    stages = {
        "reward": {
            "config": ["data/metaworld.yaml", "model/reward_ensemble.yaml", "teacher/oracle.yaml"],
            "with": {"model": {"init_args": {"epochs": 2}}, "ask": {"budget": 10, "per_round": 10}},
        },
        "policy": {
            "config": ["data/metaworld.yaml", "model/iql.yaml"],
            "with": {
                "model": {"init_args": {"updates": 10, "eval_interval": 10}},
                "relabel": {"reward": "${stages.reward.checkpoint}"},
            },
        },
    }
    (folder / "two.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    short = {"updates": 10, "eval_interval": 5}
    bc = {"config": ["data/metaworld.yaml", "model/bc.yaml"], "with": {"model": {"init_args": short}}}
    content = {
        "base": {"bc": bc, "two": "two.yaml"},
        **SWEPT_DATA,
        "trainer.accelerator": ["cpu"],
        "model.init_args.hidden": [[8], [16, 16]],
        "seed": [3],
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return str(path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Jobs run in this process; the list names their last config files."""
    return jobs_in_this_process(monkeypatch)


@pytest.mark.slow
def test_a_sweep_from_start_to_report(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = small(tmp_path, exclude=[{"base": "two", "model.init_args.hidden": [16, 16]}])
    main(["sweep", path])
    printed = capfd.readouterr().out
    assert re.search(r"3 trials, \d+ at a time, took .* CPU seconds on \d+ cores, \d+% of them in use", printed)
    runs = "runs/small"
    folders = [str(Path(overlay).parent) for overlay in started]
    assert folders == [
        f"{runs}/bc/hidden=8/seed3",
        f"{runs}/bc/hidden=16x16/seed3",
        f"{runs}/two/hidden=8/reward/seed3",
        f"{runs}/two/hidden=8/policy/seed3",
    ]
    for folder in folders:
        hyper = read_checkpoint(tmp_path / folder / "checkpoints/last.ckpt")["hyper_parameters"]
        assert hyper["hidden"] == ([16, 16] if "16x16" in folder else [8])
        assert hyper["seed"] == 3
    policy = yaml.safe_load((tmp_path / folders[3] / "config.yaml").read_text())
    assert policy["relabel"]["reward"] == f"{runs}/two/hidden=8/reward/seed3/checkpoints/last.ckpt"
    trials = json.loads((tmp_path / runs / "sweep.json").read_text())["trials"]
    assert [(t["folder"], t["base"], t["values"]["model.init_args.hidden"], t["seed"]) for t in trials] == [
        (f"{runs}/bc/hidden=8", "bc", [8], 3),
        (f"{runs}/bc/hidden=16x16", "bc", [16, 16], 3),
        (f"{runs}/two/hidden=8", "two", [8], 3),
    ]
    for file in ("results.csv", "learning_curve.png"):
        assert (tmp_path / runs / file).is_file()

    started.clear()
    main(["sweep", path])
    assert "3 of 3 trials have finished before\nNothing is left to do" in capfd.readouterr().out
    main(["sweep", path, "--seeds", "3-4", "--dry-run"])
    printed = capfd.readouterr().out
    lines = [line.split() for line in printed.splitlines()[:5]]
    assert lines[0] == ["base", "values", "stage", "seeds", "state", "after", "folder"]
    state = ["3-4", "1", "finished,", "1", "missing"]
    assert lines[1] == ["bc", "model.init_args.hidden=[8]", *state, f"{runs}/bc/hidden=8"]
    assert lines[4] == ["two", "model.init_args.hidden=[8]", "policy", *state, "reward", f"{runs}/two/hidden=8/policy"]
    assert "6 trials of 3 configurations (3 finished, 3 missing). 3 trials had to be built" in printed
    assert started == []

    main(["sweep", path, "--report"])
    printed = capfd.readouterr().out
    assert "success_rate: mean over all runs with a value" in printed
    rows = list(csv.DictReader((tmp_path / runs / "marginals.csv").read_text().splitlines()))
    assert [(row["stage"], row["key"], row["value"], row["runs"]) for row in rows] == [
        ("", "base", "bc", "2"),
        ("", "model.init_args.hidden", "8", "1"),
        ("", "model.init_args.hidden", "16x16", "1"),
        ("policy", "base", "two", "1"),
        ("policy", "model.init_args.hidden", "8", "1"),
    ]

    main(["plot", runs])
    names = list(group(find_runs(tmp_path / runs)))
    assert names == ["bc/hidden=16x16", "bc/hidden=8", "two/hidden=8/policy", "two/hidden=8/reward"]


def test_a_failed_trial_does_not_stop_the_others(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tasks = {"data.init_args.task": ["no-such-task", "drawer-close"]}
    path = small(tmp_path, include=[{"base": "bc", "model.init_args.hidden": [[8]]}], **tasks)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", path])
    printed = capfd.readouterr()
    assert stop.value.code == 2
    folder = tmp_path / "runs/small/bc"
    assert (folder / "drawer-close/hidden=8/seed3/done.json").is_file()
    assert json.loads((folder / "no-such-task/hidden=8/seed3/failed.json").read_text())["exit_code"] == 2
    listed = printed.err[printed.err.index("Failed:") :]
    assert "bc/no-such-task/hidden=8/seed3: exit code 2 (runs/small/bc/no-such-task/hidden=8/seed3/log.txt)" in listed
    assert "Meta-World has no task 'no-such-task'" in listed
    assert "1 of 2 jobs failed: bc/no-such-task/hidden=8/seed3; " in listed.splitlines()[-1]


def test_a_dry_run_finds_wrong_keys_and_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = mistake(capfd, "sweep", small(tmp_path, **{"model.init_args.hiden": [[8]]}), "--dry-run")
    assert "base 'bc' has no key 'model.init_args.hiden': did you mean model.init_args.hidden" in sentence
    both = {"model.init_args.updates": [10]}  # the reward's epochs are not updates
    sentence = mistake(capfd, "sweep", small(tmp_path, **both), "--dry-run")
    assert "stage 'reward' of base 'two' has no key 'model.init_args.updates'" in sentence
    stage = {"stages.polic.with.model.init_args.updates": [10], "base": {"two": "two.yaml"}}
    sentence = mistake(capfd, "sweep", small(tmp_path, **stage), "--dry-run")
    assert "did you mean stages.policy.with.model.init_args.updates" in sentence
    values = {"data.init_args.task": ["drawer-close", "drawer-clse"], "base": ["two.yaml"]}
    sentence = mistake(capfd, "sweep", small(tmp_path, **values), "--dry-run")
    assert sentence.startswith("Stage 'drawer-clse/hidden=8/reward': Meta-World has no task 'drawer-clse'")
    assert not (tmp_path / "runs").exists()


def test_keys_reach_every_stage_or_the_one_they_name(tmp_path: Path) -> None:
    keys = {"base": "two.yaml", "ask.budget": [20], "stages.policy.with.model.init_args.updates": [30, 40]}
    spec = read_study(small(tmp_path, **keys))
    check_keys(spec)
    trials = plan(spec, tmp_path / "out")
    assert [str(trial.folder.relative_to(tmp_path)) for trial in trials] == [
        f"out/hidden={size}_updates={n}" for size in ("8", "16x16") for n in (30, 40)
    ]
    reward, policy = trials[1].jobs
    assert (reward.label, policy.label) == ("hidden=8_updates=40/reward/seed3", "hidden=8_updates=40/policy/seed3")
    assert trials[1].label == "hidden=8_updates=40/seed3"
    assert policy.after == [reward]
    assert reward.own["ask"] == {"budget": 20, "per_round": 10}
    assert policy.own["ask"] == {"budget": 20}
    assert reward.own["model"]["init_args"] == {"epochs": 2, "hidden": [8]}
    assert policy.own["model"]["init_args"] == {"updates": 40, "eval_interval": 10, "hidden": [8]}


def test_every_value_is_built_once(tmp_path: Path) -> None:
    spec = read_study(small(tmp_path, **{LR: [1, 2, 3], "seed": [0, 1]}))
    built = distinct_values(plan(spec, tmp_path))
    # per base: (8, 1), (8, 2), (8, 3) and (16x16, 1), of 24 trials
    assert [(t.point.base, t.point.place[-2:], t.point.seed) for t in built] == [
        (base, place, 0) for base in ("bc", "two") for place in ((0, 0), (0, 1), (0, 2), (1, 0))
    ]


def test_marginal_means(tmp_path: Path) -> None:
    """lr 1: final .2 and .4; lr 2: .6 and .8, by hand; a run that was not tested waits until it has ended."""
    spec = read_study(small(tmp_path, **{LR: [1, 2], "base": ["model/bc.yaml"], "model.init_args.hidden": [[8], [9]]}))
    trials = plan(spec, tmp_path / "out")
    for trial, tested in zip(trials, (0.2, 0.6, 0.4, 0.8), strict=True):  # lr varies fastest
        curve = [0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0] if tested == 0.2 else [tested]
        write_policy_run(trial.jobs[0].folder, curve, tested=tested)
    rows = {(row.key, row.value): row for row in marginals(spec, trials, "success_rate")}
    assert [round(rows[LR, value].final, 9) for value in ("1", "2")] == [0.3, 0.7]
    assert [round(rows["model.init_args.hidden", value].final, 9) for value in ("8", "9")] == [0.4, 0.6]
    assert rows[LR, "1"].runs == 2
    assert rows[LR, "1"].spread == pytest.approx(0.1 * 2**0.5)
    assert rows[LR, "1"].best == pytest.approx((0.5 + 0.4) / 2)  # five neighbours of .5; one evaluation of .4
    (trials[0].jobs[0].folder / "results.json").unlink()
    rows = {(row.key, row.value): row for row in marginals(spec, trials, "success_rate")}
    assert (rows[LR, "1"].runs, rows[LR, "1"].final) == (1, 0.4)


def test_pruned_trials_enter_no_mean(tmp_path: Path) -> None:
    """lr 1: .2 finished and .8 pruned; lr 2: both pruned, one of them before its first evaluation; nothing is tested."""
    spec = read_study(small(tmp_path, **{LR: [1, 2], "base": ["model/bc.yaml"], "model.init_args.hidden": [[8], [9]]}))
    trials = plan(spec, tmp_path / "out")
    for trial, value in zip(trials, (0.2, 0.6, 0.8), strict=False):  # lr varies fastest
        write_policy_run(trial.jobs[0].folder, [value])
    trials[3].jobs[0].folder.mkdir(parents=True)
    for trial in trials[1:]:
        (trial.jobs[0].folder / "pruned.json").write_text("{}")
    console = Console(width=160, record=True)
    found = report_values(spec, trials, tmp_path / "out", console=console)
    rows = {(row.key, row.value): row for row in found}
    assert [(rows[LR, value].runs, rows[LR, value].pruned) for value in ("1", "2")] == [(1, 1), (0, 2)]
    assert (rows[LR, "1"].final, rows[LR, "1"].best) == (0.2, 0.2) and math.isnan(rows[LR, "2"].final)
    line = next(line for line in console.export_text().splitlines() if LR in line and " 2 " in line)
    assert [cell.strip() for cell in line.split("│")[2:-1]] == ["2", "0", "-", "-", "2"]
    (trials[0].jobs[0].folder / "pruned.json").write_text("{}")
    with pytest.raises(UserError, match=r"No run below .* has a value of success_rate"):
        report_values(spec, trials, tmp_path / "out", "success_rate")


def test_many_drawn_values_are_grouped(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "base: model/bc.yaml\nmodel.init_args.lr: {uniform: [0, 1]}\nrandom: {samples: 12, seed: 0}\n"
    )
    spec = read_study(tmp_path / "spec.yaml")
    trials = plan(spec, tmp_path / "out")
    for trial in trials:
        write_policy_run(trial.jobs[0].folder, [trial.point.values[LR]], tested=trial.point.values[LR])
    rows = marginals(spec, trials, "success_rate")
    assert [row.runs for row in rows] == [3, 3, 3, 3]
    drawn = sorted(trial.point.values[LR] for trial in trials)
    assert rows[0].value == f"{drawn[0]:g} to {drawn[2]:g}"
    assert rows[3].final == pytest.approx(sum(drawn[9:]) / 3)


def test_set_replaces_values_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = small(tmp_path, base=["two.yaml"])
    changes = ["model.init_args.hidden=[[4]]", f"{LR}=[1e-3, 0.1]", "then_test=true", "seed=[7]", "name=other"]
    spec = read_study(path, _changes(changes))
    assert [(p.values["model.init_args.hidden"], p.values[LR], p.values["then_test"], p.seed) for p in spec.points()] == [
        ([4], 0.001, True, 7),
        ([4], 0.1, True, 7),
    ]
    assert spec.name == "other"
    assert "--set 'ask.budget' is not understood: write KEY=" in mistake(capfd, "sweep", path, "--set", "ask.budget")
    assert "--set 'seed=[1': what follows the = is not valid YAML" in mistake(capfd, "sweep", path, "--set", "seed=[1")


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    path = small(tmp_path, base={"bc": ["data/metaworld.yaml", "model/bc.yaml"]})
    assert "no config file sweep/dem.yaml: did you mean sweep/demo.yaml" in mistake(capfd, "sweep", "sweep/dem.yaml")
    assert "There is no launcher 'torque'" in mistake(capfd, "sweep", path, "--launcher", "torque")
    assert "--jobs -1: give at least 1 job" in mistake(capfd, "sweep", path, "--jobs", "-1", "--dry-run")
    assert "--valid-cpus names the cores [4096]" in mistake(capfd, "sweep", path, "--valid-cpus", "4096")
    assert "--partition" in mistake(capfd, "sweep", path, "--partition", "debug")  # an option of another launcher
    assert "No run below runs/small has a value of success_rate" in mistake(capfd, "sweep", path, "--report")
    main(["sweep", path, "--seeds", "1", "--dry-run"])
    folder = tmp_path / "runs/small/hidden=8/seed1"
    folder.mkdir(parents=True)
    (folder / "done.json").write_text('{"digest": "of another configuration"}')
    assert "hidden=8/seed1 holds a finished run of another configuration" in mistake(capfd, "sweep", path, "--seeds", "1")


def test_help_shows_the_launchers_options(capfd: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for name in ("local", "slurm"):
        with pytest.raises(SystemExit):
            main(["sweep", "--launcher", name, "--help"])
        shown[name] = capfd.readouterr().out
    assert "--trials-per-gpu" in shown["local"] and "--partition" not in shown["local"]
    assert "--partition" in shown["slurm"] and "--scripts-per-job" in shown["slurm"]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_shipped_sweep_fits_its_configs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = read_study(CONF / name)
    assert len(plan(spec, tmp_path)) > 1
    check_keys(spec)
