"""Experiments from their file to the table: order, skipping, failure, dry runs, replicas, interruption."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import NO_INK, QUIET, jobs_in_this_process, mistake
from tiny_study import tiny, write

from lightning_pbrl.cli import main
from lightning_pbrl.configs import names, packaged_config, read_config, rows_of, split_row
from lightning_pbrl.methods.loading import read_checkpoint
from lightning_pbrl.study import command
from lightning_pbrl.study.file import read_studies
from lightning_pbrl.study.plan import plan

pytestmark = [QUIET, NO_INK]
EXPERIMENTS: dict[str, list[str]] = {}
"""Every row of every study by its file."""
for _name in (name for name in names() if name.startswith("experiment/")):
    EXPERIMENTS.setdefault(str(split_row(Path(packaged_config(_name)))[0]), []).append(_name)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return jobs_in_this_process(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the tiny experiment has run with seed 0, and what it printed."""
    folder = tmp_path_factory.mktemp("experiment")
    write(folder, tiny(folder))
    command = [sys.executable, "-m", "lightning_pbrl", "run", "tiny.yaml", "--jobs", "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_an_experiment_from_start_to_table(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    runs = folder / "runs/tiny"
    for stage in ("reward", "learned", "zero"):
        run = runs / stage / "seed0"
        assert json.loads((run / "done.json").read_text())["digest"]
        assert read_checkpoint(run / "checkpoints/last.ckpt")["hyper_parameters"]["seed"] == 0
    for file in ("learned/seed0/results.json", "zero/seed0/results.json", "results.csv", "learning_curve.png"):
        assert (runs / file).is_file()
    assert not (runs / "reward/seed0/results.json").exists()  # it was not asked to be tested
    named = [word for word in printed.split() if word in ("learned", "zero")]
    assert named[-2:] == ["learned", "zero"]  # the table's rows, in the order of report.show


@pytest.mark.slow
def test_more_seeds_later_run_only_what_is_missing(
    finished: tuple[Path, str], in_process: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = finished[0]
    monkeypatch.chdir(folder)
    main(["run", "tiny.yaml", "--seeds", "0-1", "--jobs", "2"])
    assert "1 of 2 trials have finished before" in capfd.readouterr().out
    stages = [Path(overlay).parts[-3] for overlay in in_process]
    assert sorted(stages) == ["learned", "reward", "zero"]
    assert stages.index("reward") < stages.index("learned")  # it waits for the reward of its seed
    learned = yaml.safe_load((folder / "runs/tiny/learned/seed1/config.yaml").read_text())
    assert learned["relabel"]["reward"] == "runs/tiny/reward/seed1/checkpoints/last.ckpt"
    assert read_checkpoint(folder / "runs/tiny/zero/seed1/checkpoints/last.ckpt")["hyper_parameters"]["seed"] == 1
    in_process.clear()
    main(["run", "tiny.yaml", "--seeds", "0-1"])
    printed = capfd.readouterr().out
    assert "2 of 2 trials have finished before\nNothing is left to do" in printed
    assert "learned" in printed  # the table again
    assert in_process == []


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_is_refused(
    finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = finished[0]
    monkeypatch.chdir(folder)
    changed = tiny(folder)
    changed["stages"]["zero"]["with"]["model"] = {"init_args": {"updates": 30, "eval_interval": 10, "hidden": [16, 16]}}
    (folder / "changed.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    sentence = mistake(capfd, "run", "changed.yaml")
    assert "zero/seed0" in sentence
    assert "--out" in sentence


def test_each_row_has_a_folder_and_a_table_of_its_own(
    tmp_path: Path, in_process: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = tiny(tmp_path)
    study |= {"name": "tiny-${row}", "stages": {"zero": study["stages"]["zero"]}, "seeds": [1], "report": {"show": ["zero"]}}
    study["tasks"] = {"short": {"model.init_args.updates": 10}, "long": {"data.init_args.task": "reach"}}
    path = write(tmp_path, study)
    main(["run", path, "--jobs", "1"])
    for row, updates, task in (("short", 10, "drawer-open"), ("long", 20, "reach")):
        run = tmp_path / f"runs/tiny-{row}/zero/seed1"
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert (config["model"]["init_args"]["updates"], config["data"]["init_args"]["task"]) == (updates, task)
        assert (run / "done.json").is_file() and (tmp_path / f"runs/tiny-{row}/results.csv").is_file()
    assert len(in_process) == 2
    main(["run", path, "--task", "long"])
    assert "1 of 1 trials have finished before\nNothing is left to do" in capfd.readouterr().out
    assert "--report compares values, and no key of" in mistake(capfd, "run", path, "--task", "long", "--report")
    main(["run", path, "--out", "other", "--dry-run"])
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["other/short/zero", "other/long/zero"]
    assert len(in_process) == 2


def test_a_failing_stage_shows_its_log_and_stops_those_that_need_it(
    tmp_path: Path, in_process: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = tiny(tmp_path)
    del broken["stages"]["zero"], broken["report"]
    broken["stages"]["reward"]["with"]["data"] = {"init_args": {"task": "drawer-opn"}}
    with pytest.raises(SystemExit) as stop:
        main(["run", write(tmp_path, broken)])
    printed = capfd.readouterr()
    assert stop.value.code == 2
    assert "reward/seed0 failed" in printed.out
    assert "Meta-World has no task 'drawer-opn'" in printed.out  # the tail of its log
    assert "learned/seed0: not run, because a stage it needs has failed" in printed.out
    assert printed.err.splitlines()[-1].startswith("error: 2 of 2 jobs failed: reward/seed0, learned/seed0")
    assert not (tmp_path / "runs/tiny/learned").exists()


def test_interrupting_leaves_no_process(tmp_path: Path) -> None:
    experiment = tiny(tmp_path)
    experiment |= {"stages": {"zero": experiment["stages"]["zero"]}, "report": {"show": ["zero"]}}
    experiment["stages"]["zero"]["with"]["model"] = {"init_args": {"updates": 10**7, "eval_interval": 10**7}}
    command = [sys.executable, "-m", "lightning_pbrl", "run", write(tmp_path, experiment), "--out", str(tmp_path / "out")]
    parent = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def family() -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(tmp_path).encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:  # it has just ended
                continue
        return found

    beat = tmp_path / "out/zero/seed0/progress.json"
    until = time.monotonic() + 90
    while not beat.is_file() and time.monotonic() < until and parent.poll() is None:
        time.sleep(0.1)
    assert beat.is_file(), (tmp_path / "out/zero/seed0/log.txt").read_text()
    assert len(family()) == 2  # the runner and the stage
    os.kill(parent.pid, signal.SIGINT)
    err = parent.communicate(timeout=30)[1]
    assert parent.returncode == 130
    assert "Traceback" not in err
    assert family() == []


@pytest.mark.parametrize(("flags", "filmed"), [([], [3]), (["--films", "all"], [3, 4, 5])])
def test_films_are_made_of_the_first_seed(tmp_path: Path, flags: list[str], filmed: list[int]) -> None:
    stage = {"config": ["model/bc.yaml"], "with": {"video": {"every": 0, "size": 64}}}
    args = [write(tmp_path, {"name": "tiny", "stages": {"bc": stage}}), "--seeds", "3-5"]
    (planned,), (all_filmed,) = (
        command._plans(command._options([*args, *more], "run")[0]) for more in (flags, ["--films", "all"])
    )
    videos = {trial.point.seed: trial.jobs[0].overlay["video"] for trial in planned.trials}
    assert [seed for seed, video in videos.items() if video == {"every": 0, "size": 64}] == filmed
    assert all(video["every"] is None for seed, video in videos.items() if seed not in filmed)
    digests = [[trial.jobs[0].digest for trial in each.trials] for each in (planned, all_filmed)]
    assert digests[0] == digests[1]  # a film is no part of a result


# Dry runs --------------------------------------------------------------------------------------------------------------


def form(name: str) -> str:
    """What a row sets without its name and task, and of the data what they consist of: test_cli_configs.py builds them."""

    def parts(value: Any) -> Any:
        return {key: told if key == "class_path" else parts(told) for key, told in value.items()} if type(value) is dict else None

    path = Path(packaged_config(name))
    file, row = split_row(path)
    stages = read_config(path)["stages"]
    said = json.dumps(stages)
    if row:
        said = said.replace(row, "a row").replace(rows_of(file)[row].get("task", row), "a task")
    files = [each for stage in stages.values() for each in stage["config"] if each.startswith("data/")]
    return said + json.dumps([parts(read_config(packaged_config(each))) for each in files])


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: Path(file).stem)
def test_every_shipped_experiment_is_valid(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every row can be planned, and one of each form is built."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIRE_ROOT", str(tmp_path))
    seen = set()
    for name in EXPERIMENTS[file]:
        path = Path(packaged_config(name))
        row, stages = split_row(path)[1], read_config(path)["stages"]
        (study,) = read_studies(name)
        (trial,) = plan(dataclasses.replace(study, seeds=(0,)), Path("runs"))
        assert [job.label.partition("/")[0] for job in trial.jobs] == list(stages)
        if form(name) in seen:
            continue
        seen.add(form(name))
        main(["run", file, *(["--task", row] if row else []), "--dry-run"])
        printed = capfd.readouterr().out
        assert "in 1 trial of 1 configuration (1 missing). 1 trial had to be built" in printed
        assert printed.count("${row}") == printed.count("${task}") == 0
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_accepts_a_checkpoint_that_will_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = tiny(tmp_path)
    path = write(tmp_path, experiment)
    main(["run", path, "--dry-run", "--seeds", "0,3"])
    printed = capfd.readouterr().out
    assert [line.split() for line in printed.splitlines()[:4]] == [
        ["stage", "seeds", "state", "after", "folder"],
        ["reward", "0,3", "2", "missing", "runs/tiny/reward"],
        ["learned", "0,3", "2", "missing", "reward", "runs/tiny/learned"],
        ["zero", "0,3", "2", "missing", "runs/tiny/zero"],
    ]
    assert "6 jobs in 2 trials" in printed
    assert printed.count("20 in 2 rounds: 10; 10") == 1  # the plan of the questions, of the one stage that asks
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tiny.yaml"]
    experiment["stages"]["learned"]["with"]["relabel"]["reward"] = "elsewhere/last.ckpt"
    sentence = mistake(capfd, "run", write(tmp_path, experiment), "--dry-run")
    assert "'learned'" in sentence
    assert "elsewhere/last.ckpt" in sentence


def test_a_dry_run_finds_the_stage_with_the_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = tiny(tmp_path)
    experiment["stages"]["zero"]["with"]["model"] = {"init_args": {"updats": 20}}
    sentence = mistake(capfd, "run", write(tmp_path, experiment), "--dry-run")
    assert sentence.startswith("Stage 'zero'")
    assert "updats" in sentence


# Replicas --------------------------------------------------------------------------------------------------------------


def test_replicas_share_a_process_where_the_method_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, tiny(tmp_path))
    main(["run", path, "--dry-run", "--replicas", "2"])
    printed = capfd.readouterr()
    assert "5 jobs in 2 trials" in printed.out  # reward and learned twice, zero once
    assert "replicas: 2" in printed.out
    assert printed.err.splitlines() == [
        "reward: runs its seeds as processes, because it asks or acts while it trains.",
        "learned: runs its seeds as processes, because it waits for another stage's seed.",
    ]


def test_replicas_of_a_control_are_tested_one_by_one(
    tmp_path: Path, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = tiny(tmp_path)
    experiment |= {"stages": {"zero": experiment["stages"]["zero"]}, "report": {"show": ["zero"]}}
    main(["run", write(tmp_path, experiment), "--replicas", "2"])
    assert len(in_process) == 1
    results = json.loads((tmp_path / "runs/tiny/zero/seed0/results.json").read_text())
    assert results["replicas"] == 2
    means = [results["metrics"][f"test/return_mean/replica_{k}"] for k in (0, 1)]
    assert results["metrics"]["test/return_mean"] == pytest.approx(sum(means) / 2)
