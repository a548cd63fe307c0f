"""Searches with Optuna: what a study may say, draws, values, pruning, kills and a real one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import QUIET, SWEPT_DATA, mistake

from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.job import Job
from lightning_pbrl.study.file import read_study
from lightning_pbrl.study.values import Distribution

pytestmark = QUIET
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
LR = "model.init_args.lr"


def study(folder: Path, search: dict[str, Any] | None = None, **changes: Any) -> str:
    """BC with a searched learning rate; as a file in ``folder``."""
    content = {
        "name": "small",
        "base": [["data/metaworld.yaml", "model/bc.yaml"]],
        "model.init_args.updates": [10],
        LR: {"choice": [1e-2, 1e-3, 1e-4]},
        "optuna": {"n_trials": 3, "window": 1, "sampler": "BruteForceSampler", **(search or {})},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return str(path)


@pytest.fixture
def by_formula(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Jobs are ``fit_by_formula.py``, the working folder is the test's; returns the study's folder."""
    pytest.importorskip("optuna", reason="the extra `optuna` is not installed")
    monkeypatch.setattr(
        Job, "process_arguments", lambda _, overlay: [sys.executable, f"{SCRIPTS}/fit_by_formula.py", str(overlay)]
    )
    monkeypatch.setattr("lightning_pbrl.study.command.check_keys", lambda _: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/small"


def stored(runs: Path) -> list[Any]:
    """Return the draws as Optuna has stored them."""
    import optuna

    return optuna.load_study(study_name="small", storage=f"sqlite:///{runs}/optuna.sqlite").trials


def states(runs: Path) -> list[str]:
    return [trial.state.name for trial in stored(runs)]


def starts(runs: Path, trial: int, seed: int = 0) -> int:
    return len((runs / f"trial{trial}/seed{seed}/starts").read_text().splitlines())


# Draws and values -----------------------------------------------------------------------------------------------------


def test_a_search_from_start_to_report(by_formula: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = study(by_formula.parents[1], {"pruner": "NopPruner"}, seeds=[0, 1])
    main(["sweep", path])
    printed = capfd.readouterr().out
    found = {trial.params[LR]: trial.value for trial in stored(by_formula)}
    assert found == pytest.approx(
        {1e-2: 0.45, 1e-3: 0.95, 1e-4: 0.45}
    )  # 1 - |log10(lr) + 3| / 2, and 0.1 less of one of two seeds
    best = next(trial for trial in stored(by_formula) if trial.params[LR] == 1e-3)
    assert best.intermediate_values == pytest.approx({k: 0.95 * (k + 1) / 10 for k in range(10)})
    assert f"3 draws have a value, 0 were pruned; the best is trial{best.number}: success_rate 0.95 with {LR}=0.001" in printed
    rows = json.loads((by_formula / "sweep.json").read_text())["trials"]
    assert [(row["folder"], row["seed"]) for row in rows[:2]] == [("runs/small/trial0", 0), ("runs/small/trial0", 1)]
    assert rows[2 * best.number]["values"][LR] == 1e-3

    main(["sweep", path, "--report"])
    assert re.search(r"lr +│ 0\.001 +│ +2 │", capfd.readouterr().out)
    main(["sweep", path])
    assert "3 draws have a value" in capfd.readouterr().out
    assert [starts(by_formula, k, seed) for k in range(3) for seed in (0, 1)] == [1] * 6  # nothing was run again
    assert len(stored(by_formula)) == 3


def test_more_draws_later(by_formula: Path) -> None:
    """Every draw has a seed of its own, so that a second call does not repeat the first one's."""
    folder = by_formula.parents[1]
    ranges = {LR: {"log_uniform": [1e-5, 1e-1]}}
    main(["sweep", study(folder, {"n_trials": 2, "sampler": "RandomSampler"}, **ranges)])
    main(["sweep", study(folder, {"n_trials": 4, "sampler": "RandomSampler"}, **ranges)])
    values = [row["values"][LR] for row in json.loads((by_formula / "sweep.json").read_text())["trials"]]
    assert len(set(values)) == 4 and all(value == float(f"{value:.4g}") for value in values)
    main(["sweep", study(folder, {"n_trials": 4, "sampler": "RandomSampler"}, **ranges), "--out", "again", "--jobs", "1"])
    assert [row["values"][LR] for row in json.loads(Path("again/sweep.json").read_text())["trials"]] == values
    other = {"n_trials": 1, "sampler": "RandomSampler", "seed": 1}
    main(["sweep", study(folder, other, **ranges), "--out", "other"])
    assert json.loads(Path("other/sweep.json").read_text())["trials"][0]["values"][LR] not in values


def test_a_window_of_evaluations(by_formula: Path) -> None:
    main(
        ["sweep", study(by_formula.parents[1], {"n_trials": 1, "window": 3, "direction": "minimize"}, **{LR: {"choice": [1e-3]}})]
    )
    (trial,) = stored(by_formula)
    assert trial.value == pytest.approx((0.8 + 0.9 + 1.0) / 3)
    assert [trial.intermediate_values[k] for k in range(3)] == pytest.approx([0.1, 0.15, 0.2])


# Pruning --------------------------------------------------------------------------------------------------------------


def test_a_draw_without_prospects_is_ended(
    by_formula: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A job that would take an hour is ended at its sixth evaluation, when it is below the bound."""
    monkeypatch.setenv("PBRL_TEST_EVERY", "0.02")
    pruner = {"class_path": "ThresholdPruner", "init_args": {"lower": 0.4, "n_warmup_steps": 5}}
    changes = {"model.init_args.updates": [180_000], LR: {"choice": [1e-4]}}
    path = study(by_formula.parents[1], {"n_trials": 1, "pruner": pruner}, **changes)
    main(["sweep", path])
    printed = capfd.readouterr().out
    assert "trial0: pruned after 6 evaluations" in printed
    assert "0 draws have a value, 1 were pruned." in printed
    run = by_formula / "trial0/seed0"
    assert json.loads((run / "pruned.json").read_text()) == {"evaluation": 6, "value": pytest.approx(0.3)}
    assert not (run / "failed.json").exists() and not (run / "done.json").exists()
    assert not Path(f"/proc/{(run / 'starts').read_text().strip()}").exists()
    (trial,) = stored(by_formula)
    assert (trial.state.name, trial.value) == ("PRUNED", pytest.approx(0.3))


def test_a_draw_is_compared_with_those_before(by_formula: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The median of earlier draws, at the same evaluation: of 1e-3, 1e-4 and 1e-2 those after 1e-3 are worse, none before it."""
    monkeypatch.setenv("PBRL_TEST_EVERY", "0.02")
    pruner = {"class_path": "MedianPruner", "init_args": {"n_startup_trials": 1, "n_min_trials": 1}}
    path = study(by_formula.parents[1], {"pruner": pruner, "seed": 3}, **{"model.init_args.updates": [60]})
    main(["sweep", path, "--jobs", "1"])
    order = [trial.params[LR] for trial in stored(by_formula)]
    expected, seen = [], list[float]()
    for rate in order:
        worse = any(abs(rate - other) > 0 and other == 1e-3 for other in seen)
        expected.append("PRUNED" if worse else "COMPLETE")
        seen.append(rate)
    assert states(by_formula) == expected and "PRUNED" in expected


def test_stages_after_a_pruned_one_are_not_run(by_formula: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBRL_TEST_EVERY", "0.02")
    bc = ["data/metaworld.yaml", "model/bc.yaml"]
    stages = {"first": {"config": bc}, "second": {"config": bc, "with": {"ckpt_path": "${stages.first.checkpoint}"}}}
    content = yaml.safe_load(Path(study(by_formula.parents[1])).read_text())
    del content["base"]
    content |= {"stages": stages, LR: {"choice": [1e-4]}, "model.init_args.updates": [180_000]}
    content["optuna"] |= {
        "n_trials": 1,
        "stage": "first",
        "pruner": {"class_path": "ThresholdPruner", "init_args": {"lower": 0.2}},
    }
    Path("two.yaml").write_text(yaml.safe_dump(content))
    main(["sweep", "two.yaml"])
    assert states(by_formula) == ["PRUNED"]
    assert (by_formula / "trial0/first/seed0/starts").is_file() and (by_formula / "trial0/second/seed0/pruned.json").is_file()
    assert not (by_formula / "trial0/second/seed0/starts").exists()


# Kills and failures ---------------------------------------------------------------------------------------------------


def test_a_killed_search_goes_on(by_formula: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in its second draw, it runs the first no more, the second from where it was, and draws as if nothing had been."""
    folder = by_formula.parents[1]
    search = {"n_trials": 3, "sampler": {"class_path": "TPESampler", "init_args": {"n_startup_trials": 1}}, "pruner": "NopPruner"}
    path = study(folder, search, **{LR: {"log_uniform": [1e-5, 1e-1]}})
    main(["sweep", path, "--out", "whole", "--jobs", "1"])
    environment = {**os.environ, "PBRL_TEST_EVERY": "0.2", "PYTHONPATH": str(SCRIPTS.parents[1])}
    command = [sys.executable, str(SCRIPTS / "search_by_formula.py"), "sweep", path, "--jobs", "1"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as parent:
        until = time.monotonic() + 60
        second = by_formula / "trial1/seed0/csv/version_0/metrics.csv"
        while not (second.is_file() and second.read_text().count("\n") > 4):
            assert time.monotonic() < until and parent.poll() is None
            time.sleep(0.05)
        job = int((by_formula / "trial1/seed0/starts").read_text())
        os.kill(parent.pid, signal.SIGKILL)
        os.kill(job, signal.SIGKILL)
    assert states(by_formula) == ["COMPLETE", "RUNNING"]
    main(["sweep", path, "--jobs", "1"])
    assert states(by_formula) == ["COMPLETE"] * 3
    assert [starts(by_formula, k) for k in range(3)] == [1, 2, 1]
    for one, other in zip(stored(by_formula), _trials("whole"), strict=True):
        assert (one.params, one.value, one.intermediate_values) == (other.params, other.value, other.intermediate_values)


def _trials(out: str) -> list[Any]:
    import optuna

    return optuna.load_study(study_name="small", storage=f"sqlite:///{out}/optuna.sqlite").trials


def test_what_has_ended_while_nobody_looked_is_told(by_formula: Path) -> None:
    """The process of the search was killed between the end of a draw and what it tells Optuna of it."""
    path = study(by_formula.parents[1], {"pruner": "NopPruner"})
    main(["sweep", path])
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{by_formula}/optuna.sqlite")
    with storage.engine.begin() as database:
        database.exec_driver_sql("update trials set state = 'RUNNING' where number < 2")
    (by_formula / "trial1/seed0/done.json").unlink()
    (by_formula / "trial1/seed0/pruned.json").write_text("{}")
    main(["sweep", path])
    assert states(by_formula) == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert [starts(by_formula, k) for k in range(3)] == [1, 1, 1]


def test_a_failed_draw_is_repeated(by_formula: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    trouble = by_formula.parents[1] / "trouble"
    trouble.touch()
    monkeypatch.setenv("PBRL_TEST_FAIL", str(trouble))
    path = study(by_formula.parents[1], {"n_trials": 2})
    with pytest.raises(SystemExit):
        main(["sweep", path])
    assert "2 of 2 jobs failed: trial0/seed0, trial1/seed0" in capfd.readouterr().err
    assert states(by_formula) == ["RUNNING"] * 2
    trouble.unlink()
    main(["sweep", path])
    assert states(by_formula) == ["COMPLETE"] * 2


def test_two_searches_in_one_folder(by_formula: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from lightning_pbrl import run_folder

    path = study(by_formula.parents[1])
    with run_folder.held(run_folder.opened(by_formula), "search"):
        assert "is in use by a search (process" in mistake(capfd, "sweep", path)


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"n_trials": None}, "optuna's n_trials is None: give a whole number of at least 1"),
        ({"n_trials": 0}, "optuna's n_trials is 0: give a whole number of at least 1"),
        ({"trials": 3}, r"optuna has unknown keys \['trials'\]: did you mean n_trials"),
        ({"direction": "up"}, "optuna's direction is 'up': give maximize or minimize"),
        ({"stage": "reward"}, "optuna's stage is 'reward', and the study has none of that name"),
        ({"metric": 3}, "optuna's metric is 3: give a text"),
    ],
)
def test_what_a_study_may_not_say(tmp_path: Path, search: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_study(study(tmp_path, search))


def test_keys_of_a_search(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="optuna draws no key: give one a distribution"):
        read_study(study(tmp_path, **{LR: [1e-3]}))
    with pytest.raises(UserError, match=r"model\.init_args\.lr is .*'uniform': \[2, 1\].*with low below high"):
        read_study(study(tmp_path, **{LR: {"uniform": [2, 1]}}))
    with pytest.raises(UserError, match="run_dir is set by the study itself"):
        read_study(study(tmp_path, **{"stages..with.run_dir": {"choice": ["a"]}}))
    with pytest.raises(UserError, match="give a mapping with at least n_trials"):
        read_study(study(tmp_path, optuna=3))
    found = read_study(
        study(tmp_path, **{LR: {"uniform": [1e-4, 1e-2]}, "model.init_args.hidden": {"choice": [[8], [16], [32]]}})
    )
    assert found.search is not None
    assert found.search.corners() == {"corner0": [1e-4, [8]], "corner1": [1e-2, [16]], "corner2": [1e-2, [32]]}
    assert Distribution("log_uniform", (1e-4, 1e-2)).rounded(0.00123456) == 0.001235


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"sampler": "TPE"}, "optuna's sampler is TPE, which is no BaseSampler: did you mean TPESampler"),
        ({"pruner": "TPESampler"}, "optuna's pruner is TPESampler, which is no BasePruner"),
        ({"pruner": "no_such.Pruner"}, "optuna's pruner is no_such.Pruner, which is no BasePruner"),
        ({"pruner": {"class_path": "ThresholdPruner"}}, "optuna's pruner ThresholdPruner cannot be built"),
        ({"sampler": {"class_path": "TPESampler", "init_args": {"seed": 1}}}, "write it beside sampler"),
        ({"sampler": 3}, "optuna's sampler is 3: give a class"),
        ({"metric": "accuracy"}, "has finished without accuracy, optuna's metric: did you mean eval/success_rate"),
    ],
)
def test_what_optuna_does_not_have(
    by_formula: Path, search: dict[str, Any], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert words in mistake(capfd, "sweep", study(by_formula.parents[1], search))


def test_a_search_of_another_meaning(by_formula: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = by_formula.parents[1]
    main(["sweep", study(folder, {"n_trials": 1})])
    capfd.readouterr()
    assert "was begun with another direction maximize; set it back" in mistake(
        capfd, "sweep", study(folder, {"direction": "minimize"})
    )
    assert "was begun with another keys" in mistake(capfd, "sweep", study(folder, **{LR: {"choice": [1.0]}}))


def test_without_optuna_and_where_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = study(tmp_path)
    assert "--replicas: optuna ends the runs of a draw one by one" in mistake(capfd, "sweep", path, "--replicas", "2")
    main(["sweep", path, "--dry-run"])  # the ends of all ranges, without Optuna
    assert "3 jobs in 3 trials" in capfd.readouterr().out
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert mistake(capfd, "sweep", path) == "A search needs Optuna: pip install 'lightning-pbrl[optuna]'."


def test_a_launcher_that_cannot_search(by_formula: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = mistake(capfd, "sweep", study(by_formula.parents[1]), "--launcher", "slurm")
    assert said == "The launcher Slurm cannot search: give --launcher local or ray, or `random` in place of `optuna`."


# The real thing -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Two draws of BC, of which each has been evaluated four times."""
    pytest.importorskip("optuna", reason="the extra `optuna` is not installed")
    monkeypatch.chdir(tmp_path)
    short = {"model.init_args.updates": [20], "model.init_args.eval_interval": [5], "model.init_args.hidden": [[16, 16]]}
    search = {"n_trials": 2, "metric": "eval/return_mean", "pruner": "NopPruner", "sampler": "TPESampler"}
    space = {LR: {"log_uniform": [1e-4, 1e-2]}}
    main(["sweep", study(tmp_path, search, **SWEPT_DATA, **short, **space, **{"trainer.accelerator": ["cpu"]}), "--jobs", "1"])
    trials = stored(tmp_path / "runs/small")
    assert [len(trial.intermediate_values) for trial in trials] == [4, 4]
    assert trials[0].params != trials[1].params
    assert "2 draws have a value, 0 were pruned; the best is trial" in capfd.readouterr().out
    assert json.loads((tmp_path / "runs/small/trial1/seed0/done.json").read_text())["digest"]
