"""What an experiment leaves, found from a relative folder as the command line gives it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from run_folders import write_policy_run

from lightning_pbrl.reports.experiment import report


def test_report_of_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("runs/mine")
    for seed, success in ((0, 0.25), (1, 0.75)):
        write_policy_run(out / "learned" / f"seed{seed}", [0.0, success], tested=success)
    console = Console(record=True, width=100)
    report(out, {"show": ["learned"]}, "lightning-pbrl run mine.yaml", console)
    assert "0.500" in console.export_text()
    evidence = json.loads((out / "experiment.json").read_text())
    assert evidence["command"] == "lightning-pbrl run mine.yaml"
    assert evidence["runs"]["learned/seed1"]["metrics"]["test/success_rate"] == 0.75
    assert (out / "learning_curve.png").is_file() and (out / "results.csv").is_file()


def test_an_experiment_without_policies(tmp_path: Path) -> None:
    folder = write_policy_run(tmp_path / "mr" / "seed0", [0.5])
    (folder / "results.json").write_text(json.dumps({"metrics": {"pref/accuracy": 0.8125}, "replicas": 1}))
    console = Console(record=True, width=100)
    report(tmp_path, {}, "lightning-pbrl run mine.yaml", console)
    assert "0.812" in console.export_text()
    assert json.loads((tmp_path / "experiment.json").read_text())["runs"]["mr/seed0"]["metrics"] == {"pref/accuracy": 0.8125}
