"""Stages in the file of an experiment: seeds, references to other stages, configs beside it, and mistakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from command_line import QUIET, main, mistake
from tiny_study import tiny, write

from lightning_pbrl.configs import packaged_config
from lightning_pbrl.errors import UserError
from lightning_pbrl.study.file import parse_seeds, read_studies, read_study
from lightning_pbrl.study.plan import only, plan, plan_jobs

pytestmark = QUIET


def test_seeds() -> None:
    assert parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert parse_seeds("3, 0") == [0, 3]
    assert parse_seeds("7") == [7]
    assert parse_seeds("1-2,2-3") == [1, 2, 3]
    for text in ("", "a", "0-", "-1", "4-2", "0:3"):
        with pytest.raises(UserError, match="write 0-4"):
            parse_seeds(text)


def test_references_are_paths_of_the_same_seed(tmp_path: Path) -> None:
    experiment = tiny(tmp_path)
    experiment["stages"]["zero"]["with"]["ask"] = {"store": "${stages.reward.run_dir}/labels.sqlite"}
    study = dataclasses.replace(read_study(write(tmp_path, experiment)), seeds=(0, 5))
    jobs = {job.label: job for trial in plan(study, Path("out")) for job in trial.jobs}
    assert jobs["learned/seed5"].own["relabel"]["reward"] == "out/reward/seed5/checkpoints/last.ckpt"
    assert [need.label for need in jobs["learned/seed5"].after] == ["reward/seed5"]
    assert jobs["zero/seed0"].own["ask"]["store"] == "out/reward/seed0/labels.sqlite"
    assert jobs["reward/seed0"].after == []
    assert jobs["reward/seed0"].digest != jobs["reward/seed5"].digest
    assert jobs["reward/seed0"].arguments(Path("o.yaml"))[-1] == "--resume"


def test_config_files_beside_the_experiment_come_first(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/bc.yaml").write_text("model: BC\n")
    (job,) = plan_jobs({"bc": {"config": ["model/bc.yaml", "model/iql.yaml"]}}, 0, Path("out"), tmp_path / "x.yaml")
    assert job.files == [str(tmp_path / "model/bc.yaml"), packaged_config("model/iql.yaml")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": None}, ["stages"]),
        ({"stags": {}}, ["'stags'", "'report'"]),
        ({"stages": {"a": {"confg": []}}}, ["'a'", "'confg'"]),
        ({"stages": {"a": ["x"]}}, ["'a'"]),
        ({"stages": {"a": None}}, ["'a'"]),
        ({"stages": {"a": {"command": "ftt"}}}, ["'ftt'", "fit"]),
        ({"report": {}, "stages": {"a": {"config": ["model/iqll.yaml"]}}}, ["model/iqll.yaml", "model/iql.yaml"]),
        ({"report": {}, "stages": {"a": {"with": {"ckpt_path": "${stages.b.checkpoint}"}}, "b": {}}}, ["'a'", "'b'", "before"]),
    ],
)
def test_mistakes_in_the_file(
    change: dict[str, Any], words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sentence = mistake(capfd, "run", write(tmp_path, {**tiny(tmp_path), **change}), "--dry-run")
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--seeds", "0:3"], ["0:3", "0-4"]),
        (["--jobs", "0"], ["--jobs"]),
        (["--jobs", "two"], ["--jobs", "two"]),
        (["--replicas", "-1"], ["--replicas"]),
        (["--sedes", "1"], ["--sedes"]),
    ],
)
def test_mistakes_on_the_command_line(
    args: list[str], words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sentence = mistake(capfd, "run", write(tmp_path, tiny(tmp_path)), *args)
    for word in words:
        assert word in sentence


def test_broken_yaml(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("stages: [1\nname: x")
    with pytest.raises(UserError, match="not valid YAML"):
        read_study(tmp_path / "broken.yaml")


def test_some_stages_and_those_that_they_need(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, tiny(tmp_path))
    main(["run", path, "--dry-run", "--seeds", "0,1", "--stages", "learned", "--out", str(tmp_path / "out")])
    printed = capfd.readouterr().out
    assert "4 jobs in 2 trials" in printed and "learned" in printed and "reward" in printed and "zero" not in printed
    (study,) = read_studies(path)
    alone = only(study, ["zero"])
    assert list(alone.bases["tiny"].stages) == ["zero"] and alone.report == {"show": ["zero"]}
    whole = {job.folder for trial in plan(study, Path("out")) for job in trial.jobs}
    assert {job.folder for trial in plan(alone, Path("out")) for job in trial.jobs} < whole  # so that the rest may follow
    with pytest.raises(UserError, match=r"--stages lerned: .*tiny.yaml has no such stage.*learned"):
        only(study, ["lerned"])


def test_a_chain_of_stages_is_kept_whole(tmp_path: Path) -> None:
    experiment = tiny(tmp_path)
    experiment["stages"]["again"] = {"config": "model/iql.yaml", "with": {"start": "${stages.learned.run_dir}"}}
    (study,) = read_studies(write(tmp_path, experiment))
    assert list(only(study, ["again"]).bases["tiny"].stages) == ["reward", "learned", "again"]
