"""Tables over seeds."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from rich.console import Console
from run_folders import write_policy_run, write_version

from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.metrics import find_runs, group, whole
from lightning_pbrl.reports.tables import (
    number_text,
    print_comparison,
    summary,
    summary_table,
    write_csv,
)


def text(table) -> str:
    console = Console(file=io.StringIO(), width=150)
    console.print(table)
    return console.file.getvalue()


def test_test_results_come_first(tmp_path):
    for seed, tested in enumerate((0.5, 0.7, 0.9)):
        write_policy_run(tmp_path / "demo" / "learned" / f"seed{seed}", [0.0], tested=tested)
    success, returns = summary(tmp_path / "demo")
    assert success[:3] == ("learned", "success_rate", "test")
    assert returns[:3] == ("learned", "return_mean", "test")
    assert success.summary.n == 3
    assert success.summary.mean == pytest.approx(0.7)
    assert success.summary.std == pytest.approx(0.2)
    assert success.summary.standard_error == pytest.approx(0.2 / math.sqrt(3))
    assert (success.summary.low, success.summary.high) == pytest.approx((0.5, 0.9))
    shown = text(summary_table(tmp_path / "demo"))
    assert "0.700" in shown and "[0.500, 0.900]" in shown and "700.0" in shown


def test_without_tests_the_last_evaluations_count(tmp_path):
    write_policy_run(tmp_path / "run", [0.9, 0.0, 0.1, 0.2, 0.3, 0.4])
    averaged, final = summary(tmp_path / "run", ["eval/success_rate"])
    assert (averaged.source, averaged.summary.mean) == ("last 5 evals", pytest.approx(0.2))
    assert (final.source, final.summary.mean) == ("final eval", pytest.approx(0.4))


def test_a_pruned_run_is_in_no_mean(tmp_path):
    """Of trial1 one of two seeds was pruned, of trial2 the only one; a finished run stays, whatever a search wrote late."""
    for place, value in (("trial0/seed0", 0.8), ("trial1/seed0", 0.6), ("trial1/seed1", 0.2), ("trial2/seed0", 0.1)):
        write_policy_run(tmp_path / "search" / place, [value])
    for place in ("trial0/seed0", "trial1/seed1", "trial2/seed0"):
        (tmp_path / "search" / place / "pruned.json").write_text("{}")
    (tmp_path / "search/trial0/seed0/done.json").write_text('{"digest": "settings-1"}')
    rows = [row for row in summary(tmp_path / "search", ["success_rate"]) if row.source == "final eval"]
    found = {row.stage: (row.summary.n, row.summary.mean) for row in rows}
    assert found == {"trial0": (1, 0.8), "trial1": (1, 0.6)}
    lines = [line.split() for line in text(summary_table(tmp_path / "search")).splitlines()]
    pruned = [[cell for cell in line if cell.isalnum()] for line in lines if "pruned" in line]
    assert pruned == [["trial1", "pruned", "1"], ["trial2", "pruned", "1"]]
    drawn = {name: [run.seed for run in runs] for name, runs in whole(group(find_runs(tmp_path / "search"))).items()}
    assert drawn == {"trial0": [0], "trial1": [0], "trial2 (pruned)": [0]}
    (tmp_path / "search/trial0/seed0/done.json").unlink()
    (tmp_path / "search/trial1/seed0/pruned.json").write_text("{}")
    with pytest.raises(UserError, match=r"None of these runs \(the 4 pruned ones aside\) has a value of success_rate"):
        summary(tmp_path / "search", ["success_rate"])


def test_a_comparison_names_pruned_runs(tmp_path):
    write_policy_run(tmp_path / "x" / "trial0" / "seed0", [0.2], tested=0.9)
    write_policy_run(tmp_path / "x" / "trial1" / "seed0", [0.4])
    (tmp_path / "x/trial1/seed0/pruned.json").write_text("{}")
    console = Console(width=120, record=True)
    rows = print_comparison(tmp_path / "x", console=console)
    assert {row.stage for row in rows} == {"trial0"}
    assert [line.split()[1:6:2] for line in console.export_text().splitlines() if "pruned" in line] == [["trial1", "1", "pruned"]]


def test_one_untested_seed_makes_the_stage_untested(tmp_path):
    write_policy_run(tmp_path / "x" / "learned" / "seed0", [0.2], tested=0.9)
    write_policy_run(tmp_path / "x" / "learned" / "seed1", [0.4])
    rows = summary(tmp_path / "x", ["success_rate"])
    assert [(row.source, row.summary.n) for row in rows] == [("last 5 evals", 2), ("final eval", 2)]
    assert rows[0].summary.mean == pytest.approx(0.3)


def test_a_first_part_is_part_of_the_name(tmp_path):
    rows = [{"step": 1, "train/q_loss": 1.0, "train/return_mean": 3.0, "eval/return_mean": 5.0, "query/score_pair": 0.5}]
    write_version(tmp_path / "run", 0, rows)
    (tmp_path / "run" / "results.json").write_text(json.dumps({"metrics": {"test/return_mean": 7.0, "pref/accuracy": 0.9}}))
    names = ("return_mean", "eval/return_mean", "train/return_mean", "pref/accuracy", "query/score_pair")
    found = [(row.metric, row.source, row.summary.mean) for row in summary(tmp_path / "run", names)]
    sources = ("test", "test", "last logged", "test", "last logged")
    assert found == list(zip(names, sources, (7.0, 7.0, 3.0, 0.9, 0.5), strict=True))


def test_replicas_of_a_tested_run_are_seeds(tmp_path):
    write_version(tmp_path / "run", 0, [{"step": 1, "train/q_loss": 1.0}])
    values = {"test/success_rate": 0.5, "test/success_rate/replica_0": 0.4, "test/success_rate/replica_1": 0.6}
    (tmp_path / "run" / "results.json").write_text(json.dumps({"metrics": values}))
    (row,) = summary(tmp_path / "run")
    assert row.summary.n == 2
    assert row.summary.std == pytest.approx(math.sqrt(0.02))


def test_csv_keeps_all_digits(tmp_path):
    write_policy_run(tmp_path / "run", [0.0], tested=1 / 3)
    rows = summary(tmp_path / "run", ["success_rate"])
    with write_csv(rows, tmp_path / "out" / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["mean"]) == 1 / 3
    assert (row["stage"], row["seeds"], row["std"]) == ("run", "1", "nan")


def test_numbers_fit_their_size():
    values = (0.12345, -12.345, 999.96, 1234.56, float("nan"))
    assert [number_text(value) for value in values] == ["0.123", "-12.3", "1,000.0", "1,235", "-"]


def test_comparison_has_one_line_per_policy_in_the_order_asked_for(tmp_path):
    for stage, tested in {"bc": (0.1, 0.3), "learned": (0.8, 0.9), "true": (1.0, 1.0)}.items():
        for seed, value in enumerate(tested):
            write_policy_run(tmp_path / "demo" / stage / f"seed{seed}", [0.0], tested=value)
    write_version(tmp_path / "demo" / "reward" / "seed0", 0, [{"step": 1, "pref/accuracy": 1.0, "train/members_loss": 1}])
    console = Console(file=io.StringIO(), width=100)
    print_comparison(tmp_path / "demo", ("learned", "true", "bc", "missing"), console=console)
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    assert cells == [
        ["learned", "2", "0.850 ± 0.050", "[0.800, 0.900]", "850.0 ± 50.0"],
        ["true", "2", "1.000 ± 0.000", "[1.000, 1.000]", "1,000 ± 0.000"],
        ["bc", "2", "0.200 ± 0.100", "[0.100, 0.300]", "200.0 ± 100.0"],
    ]


def test_mistakes_are_named(tmp_path):
    write_policy_run(tmp_path / "run", [0.5])
    with pytest.raises(UserError, match="None of these runs has a value of accuracy yet"):
        summary(tmp_path / "run", ["accuracy"])
    with pytest.raises(UserError, match=r"No policy below .* has been tested"):
        print_comparison(tmp_path / "run")
