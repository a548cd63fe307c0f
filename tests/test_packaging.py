"""What is shipped: every file once, reachable under one name, from any directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINKED = ("callbacks", "datamodules", "conf")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, without a network."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools is in the dev extra")
    tmp = tmp_path_factory.mktemp("wheel")
    source = tmp / "source"
    source.mkdir()
    # A copy, so that no build folder is left behind and none of an earlier build is picked up; links stay links.
    shipped = ["pyproject.toml", "README.md", "LICENSE", "lightning_pbrl", *LINKED, "tests"]
    subprocess.run(["cp", "-a", *shipped, str(source)], cwd=ROOT, check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*build, "--wheel-dir", str(tmp), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = tmp.glob("lightning_pbrl-*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(archive: Path) -> list[str]:
    """The names of the files in the wheel, repeated ones included."""
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


def on_disk(folder: str, pattern: str) -> set[str]:
    return {p.relative_to(ROOT / folder).as_posix() for p in (ROOT / folder).rglob(pattern) if p.is_file()}


def test_wheel_holds_each_file_once(wheel: list[str]) -> None:
    assert [name for name, count in Counter(wheel).items() if count > 1] == []
    ours = {name for name in wheel if name.startswith("lightning_pbrl/")}
    expected = {"lightning_pbrl/py.typed", "lightning_pbrl/help_fit.txt"}
    expected |= {f"lightning_pbrl/{name}" for name in on_disk("lightning_pbrl", "*.py")}
    for folder in ("callbacks", "datamodules"):
        expected |= {f"lightning_pbrl/{folder}/{name}" for name in on_disk(folder, "*.py")}
    expected |= {f"lightning_pbrl/conf/{name}" for name in on_disk("conf", "*.yaml")}
    for folder in ("templates", "static"):  # of the labelling page
        expected |= {f"lightning_pbrl/labelling/{folder}/{name}" for name in on_disk(f"lightning_pbrl/labelling/{folder}", "*")}
    assert ours == expected
    for folder in LINKED:  # each folder arrives with something in it
        assert any(name.startswith(f"lightning_pbrl/{folder}/") for name in ours), folder


def test_wheel_holds_nothing_else(wheel: list[str]) -> None:
    assert {name.split("/")[0] for name in wheel} == {"lightning_pbrl", "lightning_pbrl-0.1.0.dist-info"}
    info = [name for name in wheel if ".dist-info/" in name]
    assert any(name.endswith("licenses/LICENSE") for name in info)
    assert any(name.endswith("entry_points.txt") for name in info)


def test_package_list_equals_disk() -> None:
    found = {"lightning_pbrl"}
    for path in (ROOT / "lightning_pbrl").iterdir():
        if path.is_dir() and path.name not in LINKED and any(path.glob("*.py")):
            found.add(f"lightning_pbrl.{path.name}")
            nested = [p for p in path.iterdir() if p.is_dir() and any(p.glob("*.py"))]
            found |= {f"lightning_pbrl.{path.name}.{p.name}" for p in nested}
    found |= {f"lightning_pbrl.{name}" for name in LINKED}
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == found


@pytest.mark.parametrize("name", LINKED)
def test_link_and_mapping_agree(name: str) -> None:
    link = ROOT / "lightning_pbrl" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert SETTINGS["tool"]["setuptools"]["package-dir"][f"lightning_pbrl.{name}"] == name


def test_version_is_one() -> None:
    import lightning_pbrl

    assert lightning_pbrl.__version__ == SETTINGS["project"]["version"]


IMPORTS = """
import sys, importlib.resources as resources
import lightning_pbrl.callbacks, lightning_pbrl.datamodules
assert "callbacks" not in sys.modules and "datamodules" not in sys.modules
conf = resources.files("lightning_pbrl").joinpath("conf")
assert any(entry.name.endswith(".yaml") or entry.is_dir() for entry in conf.iterdir())
print(lightning_pbrl.__file__)
"""


def run_python(code: str, cwd: Path, path: Path | None = None) -> str:
    """What ``code`` prints in a fresh interpreter that starts in ``cwd``, with ``path`` as its only PYTHONPATH."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PYTHONPATH": str(path)} if path else {}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_from_the_root() -> None:
    assert Path(run_python(IMPORTS, ROOT)).parent == ROOT / "lightning_pbrl"


def test_import_of_the_wheel_from_elsewhere(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "site")
    assert Path(run_python(IMPORTS, tmp_path, tmp_path / "site")).parent == tmp_path / "site" / "lightning_pbrl"


def test_import_of_the_installation_from_elsewhere(tmp_path: Path) -> None:
    probe = "import importlib.util as u; print(u.find_spec('lightning_pbrl') is not None)"
    if run_python(probe, tmp_path) == "False":
        pytest.skip("lightning-pbrl is not installed in this environment (make install does it)")
    run_python(IMPORTS, tmp_path)


def test_import_is_light() -> None:
    code = (
        "import sys, lightning_pbrl\n"
        "heavy = {'pytorch_lightning', 'metaworld', 'mujoco', 'gymnasium', 'dm_control', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run_python(code, ROOT) == "[]"


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("import callbacks\n", {"TID251"}),
        ("from datamodules.lire import LiREDataModule\n", {"TID251"}),
        ("import lightning.pytorch as pl\n", {"TID251"}),
        ("import lightning_pbrl.callbacks\n", set()),
    ],
)
def test_short_imports_are_refused(line: str, rules: set[str]) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID", "--output-format", "concise", "--no-cache"]
    command += ["--stdin-filename", "snippet.py", "-"]
    done = subprocess.run(command, cwd=ROOT, input=line, capture_output=True, text=True)
    assert done.returncode == (1 if rules else 0), done.stderr
    assert {word for word in done.stdout.split() if word.startswith("TID")} == rules


def test_every_extra_is_told() -> None:
    extras = set(SETTINGS["project"]["optional-dependencies"])
    (listed,) = re.findall(r"# extras: ([a-z0-9 \n#]+)\ndocker", (ROOT / "README.md").read_text())
    assert set(re.findall(r"[a-z0-9]+", listed)) == extras
    assert set(re.findall(r"^\| `([a-z0-9]+)` \|", (ROOT / "docs/quickstart.md").read_text(), re.M)) >= extras


def test_pins_satisfy_floors() -> None:
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if text := line.split("#")[0].strip():
            name, version = text.split("==")
            pins[name.lower().replace("_", "-")] = version
    project = SETTINGS["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower().replace("_", "-")
        if name in pins:
            assert requirement.specifier.contains(pins[name]), f"{requirement} against {pins[name]}"
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.name.lower() in pins, f"{requirement.name} has no pin"
    assert pins["torch"] == "2.13.0"
    assert pins["mujoco"] == "3.3.0"
