"""The catalogue, read from the source, names the classes that importing everything finds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toys import SPEC

from lightning_pbrl.catalogue import catalogue, constants
from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods import base
from lightning_pbrl.registry import PACKAGES, classes, first_line


@pytest.mark.parametrize("kind", PACKAGES)
def test_it_names_what_importing_finds(kind: str) -> None:
    imported = {name: first_line(cls) for name, cls in classes(kind).items() if cls.__module__.startswith("lightning_pbrl.")}
    assert catalogue(kind) == imported and len(imported) > 1


def test_devices_in_source_list_and_docs(capfd: pytest.CaptureFixture[str]) -> None:
    """One declaration, which a fit's refusal reads: the source, what is imported, `list` and the table say the same."""
    own = {name: cls for name, cls in classes("methods").items() if cls.__module__.startswith("lightning_pbrl.")}
    declared = {name: cls.ddp for name, cls in own.items()}  # type: ignore[attr-defined]
    assert constants("methods", "ddp") == declared and set(declared.values()) == {True, False}
    assert declared == {name: "env" not in cls.needs for name, cls in own.items()}  # type: ignore[attr-defined]
    main(["list", "methods"])
    listed = dict(re.findall(r"^ +(\w+) +(many|one) ", capfd.readouterr().out, flags=re.MULTILINE))
    assert {name: listed[name] for name in own} == {name: "many" if ddp else "one" for name, ddp in declared.items()}
    table = (Path(__file__).parents[1] / "docs/concepts.md").read_text().partition("| several devices |")[2]
    for line in table.splitlines()[2:5]:
        _, methods, devices, _ = line.split("|")
        for name in own.keys() & set(re.findall(r"\w+", methods)):
            assert devices.strip().startswith("many" if declared.pop(name) else "one"), name
    assert declared == {}


@pytest.mark.parametrize("name", ["SAC", "PEBBLE", "IQL"])
def test_a_fit_on_several_devices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls: Any = classes("methods")[name]
    method = cls(SPEC)
    monkeypatch.setattr(base, "check_trainer", lambda _: None)
    two = {"world_size": 2, "num_devices": 2, "num_nodes": 1}
    for verb in ("fit", "test"):
        method._trainer = SimpleNamespace(**two, state=SimpleNamespace(fn=verb))
        if verb == "fit" and not cls.ddp:
            with pytest.raises(
                UserError, match=f"{name} acts while it learns, which takes one device, and the Trainer has 2: set"
            ):
                method.configure_callbacks()
        else:
            assert method.configure_callbacks() == []


def test_it_imports_nothing_of_what_it_names() -> None:
    code = "import sys; from lightning_pbrl.catalogue import catalogue; catalogue('methods'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
