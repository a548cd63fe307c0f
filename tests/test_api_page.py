"""docs/api.md documents every public class of the library."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_pbrl

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOT_ON_THE_PAGE = {
    "arguments": "the shell's side of the command line; docs/cli.md says what it does",
    "catalogue": "what `list` prints",
    "fork_server": "processes of the command line",
    "jobs": "processes of the command line",
    "label_cli": "the command `label`",
    "train_cli": "the subclass of LightningCLI",
    "job": "one stage of a study for one seed",
    "same_run": "the checks of a run folder",
    "study.ask_tell": "used through `optuna:` of a study",
    "study.file": "the file that docs/cli.md describes",
    "study.plan": "bookkeeping of a study",
    "study.ray": "used through `--launcher ray`",
    "study.report": "read through `sweep --report`",
    "study.search": "the part of the file that docs/cli.md describes",
    "study.slurm": "used through `--launcher slurm`",
    "study.values": "bookkeeping of a study",
    "data.hdf5_child": "runs in the process that reads HDF5",
    "data.hdf5_pieces": "runs in the process that reads HDF5",
    "data.hdf5_process": "starts the process that reads HDF5",
    "later": "stand-ins while Lightning is imported",
    "shared_scoring": "the ranks of a fit that score together",
    "signals": "private exception of the command line",
}
"""Module -> why its classes are not for users or authors."""


def documented() -> set[str]:
    """Full names of the modules whose members the page shows."""
    sys.path.insert(0, str(DOCS))
    try:
        modules_of = importlib.import_module("package_directive").modules_of
    finally:
        sys.path.remove(str(DOCS))
    page = (DOCS / "api.md").read_text()
    found = set(re.findall(r"\.\. automodule:: (\S+)", page))
    for package, without in re.findall(r"\.\. package:: (\S+)\n(?:   :without: ((?:.+\n)(?:      .+\n)*))?", page):
        names = modules_of(package, without)
        assert not found & set(names), f"{sorted(found & set(names))} twice on the page"
        found |= set(names)
    return found


def public_classes() -> Iterator[tuple[str, str]]:
    for module in pkgutil.walk_packages(lightning_pbrl.__path__, "lightning_pbrl."):
        old = module.name.startswith("lightning_pbrl.sweep")  # an alias, which warns
        if old or module.name.startswith("lightning_pbrl.conf.") or module.name.endswith(".__main__"):
            continue
        for name, member in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(member) and member.__module__ == module.name and not name.startswith("_"):
                yield module.name, name


def test_every_public_class_is_on_the_page() -> None:
    shown = documented()
    excluded = {f"lightning_pbrl.{name}" for name in NOT_ON_THE_PAGE}
    assert not shown & excluded
    missing = [f"{module}.{name}" for module, name in public_classes() if module not in shown | excluded]
    assert missing == []
    assert {"lightning_pbrl.methods.iql", "lightning_pbrl.losses.preference", "lightning_pbrl.nn.mlp"} <= shown


def test_exclusions_name_modules_with_public_classes() -> None:
    modules = {module for module, _ in public_classes()}
    assert {f"lightning_pbrl.{name}" for name in NOT_ON_THE_PAGE} <= modules


def test_a_module_that_does_not_exist_cannot_be_left_out() -> None:
    documented()  # makes the directive importable
    with pytest.raises(ValueError, match=r"lightning_pbrl.queries has no module albums"):
        sys.modules["package_directive"].modules_of("lightning_pbrl.queries", "base albums")
