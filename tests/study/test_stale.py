"""Results know what they were made from: a stage whose inputs are others is refused, finished or half-finished."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from lightning_pbrl.errors import UserError
from lightning_pbrl.job import Job, check
from lightning_pbrl.jobs import Slot, run_jobs
from lightning_pbrl.study.file import read_study
from lightning_pbrl.study.plan import Trial, plan

CURE_ONE = ": choose another --out, or remove that folder."
CURE = ": choose another --out, or remove those folders."


class Copy(Job):
    """Writes its key ``says`` and what the jobs before it have left to its checkpoint; fails after that when it is to."""

    def process_arguments(self, overlay: Path) -> list[str]:
        read = " ".join(str(job.folder / "checkpoints/last.ckpt") for job in self.after)
        write = f"echo '{self.own['says']}' | cat - {read} > checkpoints/last.ckpt"
        return ["sh", "-c", f"cd {self.folder}; mkdir -p checkpoints; {write}; exit {self.own.get('code', 0)}"]


def stages(folder: Path, first: str = "one", code: int = 0) -> list[Job]:
    """reward -> policy -> test, a chain."""
    reward = Copy("reward", 0, folder / "reward", "fit", [], {"says": first})
    policy = Copy("policy", 0, folder / "policy", "fit", [], {"says": "policy", "code": code}, [reward])
    return [reward, policy, Copy("test", 0, folder / "test", "fit", [], {"says": "test"}, [policy])]


def run(jobs: list[Job]) -> None:
    run_jobs(jobs, [Slot()], "test")


def refused(jobs: list[Job]) -> str:
    with pytest.raises(UserError) as error:
        run(jobs)
    return str(error.value)


def test_a_stage_made_anew_takes_those_that_follow_from_it_along(tmp_path: Path) -> None:
    run(stages(tmp_path))
    run(stages(tmp_path))  # nothing to do
    reward, policy, test = (tmp_path / name for name in ("reward", "policy", "test"))
    others = f"{policy} was made from {reward}, which is to be made anew; {test} was made from {policy}, which is to be made anew"
    changed = stages(tmp_path, first="two")
    assert refused(changed) == f"{reward} holds a finished run of another configuration; {others}{CURE}"
    shutil.rmtree(reward)  # which alone would leave a policy of the old reward
    assert refused(changed) == others + CURE
    assert not reward.exists()  # nothing was begun
    for folder in (policy, test):
        shutil.rmtree(folder)
    run(changed)
    assert (test / "checkpoints/last.ckpt").read_text() == "test\npolicy\ntwo\n"


def test_a_stage_that_was_made_anew_elsewhere(tmp_path: Path) -> None:
    """The first stage alone was run again, as another experiment or by hand."""
    run(stages(tmp_path))
    reward, policy, test = (tmp_path / name for name in ("reward", "policy", "test"))
    (reward / "checkpoints/last.ckpt").write_text("by hand\n")
    sentence = f"{policy} was made from {reward}/checkpoints/last.ckpt, which has changed since; {test} was made from {policy}, "
    assert refused(stages(tmp_path)) == f"{sentence}which is to be made anew{CURE}"


def test_a_half_finished_stage_goes_on_with_the_same_inputs_only(tmp_path: Path) -> None:
    run(stages(tmp_path, code=143))
    policy = tmp_path / "policy"
    assert json.loads((policy / "failed.json").read_text()) == {"exit_code": 143, "reason": "ended by SIGTERM"}
    assert not (policy / "done.json").exists() and not (tmp_path / "test").exists()
    check(stages(tmp_path, code=143))
    half = f"{policy} holds a half-finished run of another configuration"
    assert refused(stages(tmp_path, code=0)) == half + CURE_ONE
    (policy / "checkpoints/last.ckpt").unlink()  # nothing was learned yet: a mistake in its config may be mended
    run(stages(tmp_path, code=0))
    assert (tmp_path / "test/done.json").exists()


def test_files_and_variables_that_a_stage_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = tmp_path / "a.yaml", tmp_path / "data.npz"
    config.write_text("data: ${oc.env:PBRL_TEST_ROOT,data}\n")
    data.write_text("old")
    monkeypatch.setenv("PBRL_TEST_ROOT", "here")
    job = Copy("a", 0, tmp_path / "a", "fit", [str(config)], {"says": "x"})
    run([job])
    monkeypatch.setenv("PBRL_TEST_ROOT", "there")
    other = f"{job.folder} holds a finished run of another configuration{CURE_ONE}"
    assert refused([job]) == other
    monkeypatch.setenv("PBRL_TEST_ROOT", "here")
    check([job])
    from lightning_pbrl.run_folder import dumped, record

    (job.folder / "inputs.json").write_text(dumped(record([data])))  # as its fit would have written it
    check([job])
    data.write_text("new")
    assert refused([job]) == f"{job.folder} was made from {data}, which has changed since{CURE_ONE}"


def test_what_counts_is_what_was_read(tmp_path: Path) -> None:
    """A config file that is changed while a pool runs is another configuration for the stages that have begun before."""
    config = tmp_path / "a.yaml"
    config.write_text("old: 1\n")

    class Edits(Copy):
        def process_arguments(self, overlay: Path) -> list[str]:
            return ["sh", "-c", f"echo new: 1 > {config}; cd {self.folder}; mkdir checkpoints; touch checkpoints/last.ckpt"]

    job = Edits("a", 0, tmp_path / "a", "fit", [str(config)], {})
    run([job])
    with pytest.raises(UserError, match=f"^{re.escape(f'{job.folder} holds a finished run of another configuration')}"):
        check([job])
    config.write_text("old: 1\n")
    check([job])


def test_a_mark_that_was_cut_off_is_none(tmp_path: Path) -> None:
    (job, *_) = stages(tmp_path)
    run([job])
    (job.folder / "done.json").write_text("")
    assert not job.finished()
    run([job])
    assert job.finished()


def test_settings_count_and_not_where_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("model: {lr: 0.1, hidden: [4]}\n")
    (tmp_path / "two.yaml").write_text("# the same\nmodel: {hidden: [4]}\n")
    (tmp_path / "many.yaml").write_text("model: {hidden: [4]}\ntasks: {a: {model.lr: 0.1}, b: {model.lr: 0.2}}\n")
    one = Copy("a", 0, tmp_path / "a", "fit", [str(tmp_path / "one.yaml")], {"says": "x"})
    run([one])
    check([Copy("other name", 0, one.folder, "fit", [str(tmp_path / "two.yaml")], {"says": "x", "model": {"lr": 0.1}})])
    check([Copy("a", 0, one.folder, "fit", [str(tmp_path / "many/a.yaml")], {"says": "x"})])
    other = f"{one.folder} holds a finished run of another configuration{CURE_ONE}"
    for seed, command, file in ((0, "fit", "many/b.yaml"), (1, "fit", "one.yaml"), (0, "test", "one.yaml")):
        assert refused([Copy("a", seed, one.folder, command, [str(tmp_path / file)], {"says": "x"})]) == other


def test_marks_of_the_version_before_are_compared_with_the_resolved_config(tmp_path: Path) -> None:
    """They hashed the text of config files, which have been rearranged since."""
    own = {"model": {"class_path": "IQL", "init_args": {"lr": 0.1, "hidden": [4]}}, "data": {"root": "${oc.env:ROOT,x}/y"}}
    job = Job("a", 0, tmp_path / "a", "fit", [], own)
    job.folder.mkdir()
    (job.folder / "done.json").write_text('{"digest": "0123456789abcdef"}')
    assert job.stale() == f"{job.folder} holds a finished run of another configuration"
    resolved = {"class_path": "lightning_pbrl.methods.iql.IQL", "init_args": {"lr": 0.1, "hidden": [4], "discount": 0.99}}
    for model, same in ((resolved, True), ({**resolved, "init_args": {"lr": 0.2, "hidden": [4]}}, False)):
        (job.folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": {"root": "here/y"}}))
        assert (job.stale() is None) == same


def test_a_trial_of_a_grid_is_finished_for_its_own_values_and_inputs_only(tmp_path: Path) -> None:
    stages = {"first": {"with": {"says": "one"}}, "second": {"with": {"says": "two", "reads": "${stages.first.checkpoint}"}}}
    study = {"stages": stages, "model.lr": [1, 2]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(study, sort_keys=False))

    def trials() -> list[Trial]:
        found = plan(read_study(tmp_path / "grid.yaml"), tmp_path / "out")
        for trial in found:
            for job in trial.jobs:
                job.__class__ = Copy
        return found

    run([job for trial in trials() for job in trial.jobs])
    assert [trial.state for trial in trials()] == ["finished", "finished"]
    check(job for trial in trials() for job in trial.jobs)
    (tmp_path / "out/lr=1/first/seed0/checkpoints/last.ckpt").write_text("by hand\n")
    reasons = [[job.stale() for job in trial.jobs] for trial in trials()]
    assert reasons[1] == [None, None]
    assert reasons[0][0] is None and "lr=1/first/seed0/checkpoints/last.ckpt, which has changed since" in str(reasons[0][1])
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({**study, "stages.second.with.says": ["three"]}, sort_keys=False))
    finished = "holds a finished run of another configuration"
    assert [[finished in (job.stale() or "") for job in trial.jobs] for trial in trials()] == [[False, True], [False, True]]
