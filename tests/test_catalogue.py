"""The catalogue, read from the source, names the classes that importing everything finds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lightning_pbrl.catalogue import catalogue
from lightning_pbrl.registry import PACKAGES, classes, first_line


@pytest.mark.parametrize("kind", PACKAGES)
def test_it_names_what_importing_finds(kind: str) -> None:
    imported = {name: first_line(cls) for name, cls in classes(kind).items() if cls.__module__.startswith("lightning_pbrl.")}
    assert catalogue(kind) == imported and len(imported) > 1


def test_it_imports_nothing_of_what_it_names() -> None:
    code = "import sys; from lightning_pbrl.catalogue import catalogue; catalogue('methods'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
