"""What commands import: those that train nothing need neither Lightning nor PyTorch."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml
from run_folders import write_policy_run

from benchmarks import startup
from lightning_pbrl import help_text
from lightning_pbrl.cli import main

POOL = """
from types import SimpleNamespace
from lightning_pbrl import jobs
class Done:
    pid = 2**30  # above every real one
    def __init__(self, *command, **settings): ...
    def poll(self): return 0
jobs.subprocess, jobs._pin = SimpleNamespace(Popen=Done, STDOUT=None), lambda *_: None
"""
"""Lets the stages of a pool end at once."""


HEAVY = ("torch", "pytorch_lightning", "torchmetrics", "scipy", "sympy", "matplotlib", "sqlalchemy", "fastapi")


def heavy(folder: Path, args: list[str], before: str = "") -> set[str]:
    """Return which heavy packages a command has imported when it ends."""
    code = f"""
import sys
{before}
from lightning_pbrl.cli import main
main({args!r})
print(*["heavy", *(name for name in {HEAVY} if name in sys.modules)])
"""
    environment = {**os.environ, "LIGHTNING_PBRL_FORK": "0"}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_list_and_version_import_nothing_heavy(tmp_path: Path) -> None:
    assert heavy(tmp_path, ["list"]) == heavy(tmp_path, ["--version"]) == set()


@pytest.mark.parametrize("flags", [[], ["--efficiency"]])
def test_plot_imports_what_draws(tmp_path: Path, flags: list[str]) -> None:
    for seed in (0, 1):
        write_policy_run(tmp_path / f"bc/seed{seed}", [0.1, 0.5], tested=0.5)
    assert heavy(tmp_path, ["plot", "bc", *flags]) == {"matplotlib"}
    assert (tmp_path / "plot.png").is_file()


def test_report_imports_what_draws_and_resamples(tmp_path: Path) -> None:
    for stage, seed in (("bc", 0), ("bc", 1), ("iql", 0), ("iql", 1)):
        write_policy_run(tmp_path / f"runs/{stage}/seed{seed}", [0.1, 0.5], tested=0.5)
    assert heavy(tmp_path, ["report", "runs"]) == {"matplotlib", "scipy"}
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_a_pool_imports_nothing_of_what_its_stages_need(tmp_path: Path, verb: str) -> None:
    stages = {name: {"config": ["model/bc.yaml"]} for name in ("first", "second")}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"stages": stages}))
    assert heavy(tmp_path, [verb, "study.yaml", "--jobs", "1"], POOL) == set()
    assert (tmp_path / "runs/study/second/seed0/done.json").is_file()
    assert heavy(tmp_path, [verb, "study.yaml"]) <= {"matplotlib"}  # nothing is left to do


def test_a_sweep_checks_its_keys_in_another_process(tmp_path: Path) -> None:
    data = "data: {class_path: D4RLDataModule, init_args: {path: absent.hdf5}}\n"
    (tmp_path / "policy.yaml").write_text("stages: {policy: {config: [model/bc.yaml, data.yaml]}}\n")
    (tmp_path / "data.yaml").write_text(data)
    (tmp_path / "grid.yaml").write_text("base: policy.yaml\nmodel.init_args.updates: [10, 20]\n")
    assert heavy(tmp_path, ["sweep", "grid.yaml", "--jobs", "1"], POOL) == set()
    assert len(list((tmp_path / "runs/grid").rglob("done.json"))) == 2
    (tmp_path / "grid.yaml").write_text("base: policy.yaml\nmodel.init_args.update: [10, 20]\n")
    command = [sys.executable, "-P", "-m", "lightning_pbrl", "sweep", "grid.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "has no key 'model.init_args.update'" in done.stderr and "Traceback" not in done.stderr


def test_help_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(verb: str) -> str:
        made.append(verb)
        return f"help of {verb}\n"

    monkeypatch.setattr(help_text, "_made", make)
    monkeypatch.setattr(help_text, "plugins", list)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for columns in ("80", "80", "100"):
        monkeypatch.setenv("COLUMNS", columns)
        with redirect_stdout(io.StringIO()) as printed:
            main(["test", "--help"])
        assert printed.getvalue() == "help of test\n"
    assert made == ["test", "test"]  # another width is another text
    (kept,) = (tmp_path / "lightning-pbrl").iterdir()
    assert kept.read_text() == "help of test\n"
    monkeypatch.setattr(help_text, "version", lambda name: "another")  # than that of the shipped text
    main(["fit", "-h"])
    assert made == ["test", "test", "fit"]
    monkeypatch.setattr(help_text, "plugins", lambda: ["a plugin"])
    main(["test", "--help"])
    assert len(made) == 4
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    texts = []
    for _ in range(2):
        with redirect_stdout(io.StringIO()) as printed:
            main(["test", "--help"])
        texts.append(printed.getvalue())
    assert texts[0] == texts[1] and "--ask.budget" in texts[0] and "--run_dir" in texts[0]
    assert heavy(tmp_path, ["fit", "--help"]) == set()


def test_the_shipped_help_is_what_the_parser_prints() -> None:
    """Written anew by ``python -m lightning_pbrl.help_text``."""
    key, _, text = help_text.SHIPPED.read_text().partition("\n")
    code = """
import os
from lightning_pbrl import help_text
for columns in (60, 80, 133, 100_000):
    os.environ["COLUMNS"] = str(columns)
    print(help_text._made("fit"), end="\\f")
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\f")
    assert text == made[3]
    assert [help_text.wrapped(text, columns) for columns in (60, 80, 133)] == made[:3]
    assert key == help_text.shipped_for()


def test_help_of_the_label_page_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys\nfrom lightning_pbrl.cli import main\ntry: main(['label', '--help'])\n"
    code += f"except SystemExit: print(*(name for name in {HEAVY} if name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.endswith(
        "default 2)\n\n"
    )


def test_the_label_page_imports_no_lightning() -> None:
    code = "import sys, lightning_pbrl.label_cli; print({'pytorch_lightning', 'lightning_fabric'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_benchmark_by_hand() -> None:
    before, after = ({key: [factor * 2.0, factor * 4.0] for key in ("list", "fit", "run5")} for factor in (1, 0.5))
    before["run15"], after["run15"], after["list"] = [102.0], [11.0], [1.0, 1.0]
    rows = {row["key"]: startup.cells(row) for row in startup.rows(before, after)}
    assert list(rows) == ["list", "fit", "run5", "run15", "stage"]
    assert rows["fit"] == ["a tiny `fit` by itself", "3.00", "1.50", "0.50", "0.50 .. 0.50", "2"]
    assert rows["list"] == ["`list`", "3.00", "1.00", "0.38", "0.25 .. 0.50", "2"]
    assert rows["stage"] == ["a further tiny stage of a `run`", "10.00", "1.00", "0.10", "0.10 .. 0.10", "1"]
