"""What is read back from run folders."""

from __future__ import annotations

import numpy as np
import pytest
from run_folders import write_policy_run, write_version

from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.metrics import (
    Series,
    find_runs,
    group,
    over,
    read_metrics,
    read_results,
    replicas,
    run_at,
)


def test_sparse_rows_become_series(tmp_path):
    write_policy_run(tmp_path, [0.1, 0.5])
    metrics = read_metrics(tmp_path)
    assert metrics["eval/success_rate"].step.tolist() == [100, 200]
    assert metrics["eval/success_rate"].value.tolist() == [0.1, 0.5]
    assert metrics["train/q_loss"].value.tolist() == [1.0, 0.5]
    assert "step" not in metrics
    assert read_metrics(tmp_path / "nothing") == {}


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    """Killed after 300 updates, resumed from the checkpoint at 200: the first start counts up to 200."""
    first = [{"step": s, "train/q_loss": s / 100} for s in (100, 200, 300)]
    write_version(tmp_path, 0, [*first, {"step": 200, "eval/return_mean": 2.0}, {"step": 300, "eval/return_mean": 3.0}])
    write_version(tmp_path, 2, [{"step": 300, "train/q_loss": 33.0}, {"step": 400, "train/q_loss": 44.0}])
    write_version(tmp_path, 10, [{"step": 400, "train/q_loss": 4.5}])  # the tenth start comes after the second
    metrics = read_metrics(tmp_path)
    assert metrics["train/q_loss"].step.tolist() == [100, 200, 300, 400]
    assert metrics["train/q_loss"].value.tolist() == [1.0, 2.0, 33.0, 4.5]
    assert metrics["eval/return_mean"].step.tolist() == [200]  # the evaluation at 300 belongs to lost weights


def test_tests_and_validations_do_not_touch_the_curve(tmp_path):
    write_policy_run(tmp_path, [0.1, 0.5])
    write_version(tmp_path, 1, [{"step": 0, "test/success_rate": 0.9, "eval/success_rate": 0.9}])
    metrics = read_metrics(tmp_path)
    assert metrics["eval/success_rate"].value.tolist() == [0.1, 0.5]
    assert "test/success_rate" not in metrics


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    write_policy_run(tmp_path, [0.1, 0.5])
    file = tmp_path / "csv" / "version_0" / "metrics.csv"
    header = file.read_text().splitlines()[0].split(",")
    cut = ["0"] * len(header)
    cut[-1] = "0.x"
    file.write_text(file.read_text() + ",".join(cut) + "\n0.")
    assert read_metrics(tmp_path)["eval/success_rate"].value.tolist() == [0.1, 0.5]


def test_feedback_is_counted_in_labels():
    """Two rounds of 20 questions; a fit of 50 updates, then one that stopped after 30."""
    metrics = {
        "labels": Series(np.array([25.0, 50.0, 80.0]), np.array([20.0, 20.0, 40.0])),
        "pref/accuracy": Series(np.array([50.0, 80.0]), np.array([0.6, 0.9])),
        "teacher/clear_ratio": Series(np.array([0.0, 50.0]), np.array([1.0, 0.7])),  # logged where the round starts
        "train/x": Series(np.array([25.0, 50.0, 80.0]), np.array([1.0, 2.0, 3.0])),
    }
    for name, value in {"pref/accuracy": [0.6, 0.9], "teacher/clear_ratio": [1.0, 0.7], "train/x": [2.0, 3.0]}.items():
        series = over(metrics, name)
        assert series.step.tolist() == [20, 40]
        assert series.value.tolist() == value


def test_policies_that_act_are_counted_in_env_steps():
    metrics = {
        "env_steps": Series(np.array([0.0, 10.0, 20.0]), np.array([100.0, 110.0, 120.0])),  # 100 random steps, no update
        "eval/return_mean": Series(np.array([0.0, 20.0]), np.array([1.0, 5.0])),
        "teacher/clear_ratio": Series(np.array([0.0, 10.0]), np.array([1.0, 0.7])),
    }
    assert over(metrics, "eval/return_mean", "env_steps").step.tolist() == [100, 120]
    assert over(metrics, "teacher/clear_ratio", "env_steps").step.tolist() == [100, 110]


def test_runs_are_found_below_an_experiment_with_seeds_in_order(tmp_path):
    for place in ("demo/learned/seed10", "demo/learned/seed2", "demo/zero/seed0", "alone"):
        write_policy_run(tmp_path / place, [0.1], tested=0.1)
    (tmp_path / "demo" / "learned" / "seed3").mkdir()  # nothing in it yet
    runs = find_runs([tmp_path / "demo", tmp_path / "demo" / "zero"])
    assert [(run.experiment, run.stage, run.seed) for run in runs] == [
        ("demo", "learned", 2),
        ("demo", "learned", 10),
        ("demo", "zero", 0),
    ]
    assert run_at(tmp_path / "alone").stage == "alone"
    assert list(group(runs)) == ["learned", "zero"]
    write_policy_run(tmp_path / "other" / "learned" / "seed0", [0.1])
    both = find_runs([tmp_path / "demo", tmp_path / "other"])
    assert list(group(both)) == ["demo/learned", "demo/zero", "other/learned"]


def test_replicas_of_one_run():
    names = ["eval/return_mean", *(f"eval/return_mean/replica_{k}" for k in (10, 2, 0)), "eval/success_rate"]
    assert replicas(names, "eval/return_mean") == [f"eval/return_mean/replica_{k}" for k in (0, 2, 10)]
    assert replicas(names, "eval/success_rate") == ["eval/success_rate"]
    assert replicas(names, "pref/accuracy") == []


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match=r"There is no folder .*nowhere; give run folders"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"No run below .* has logged a metric or a result yet"):
        find_runs(tmp_path)
    assert read_results(tmp_path) is None
    for damaged in ('{"metrics": ', "[1]", '{"metrics": [1]}', '{"metrics": {"test/return_mean": "much"}}', "[" * 100_000):
        (tmp_path / "results.json").write_text(damaged)
        with pytest.raises(UserError, match=r"results\.json is damaged .*test the run again"):
            read_results(tmp_path)


def test_a_damaged_line_is_left_out(tmp_path):
    write_version(tmp_path, 0, [{"step": step, "train/loss": 1.0} for step in (1, 2, 3)])
    file = tmp_path / "csv/version_0/metrics.csv"
    file.write_bytes(file.read_bytes().replace(b"2,", b"\xff\x00,"))
    assert read_metrics(tmp_path)["train/loss"].step.tolist() == [1, 3]
