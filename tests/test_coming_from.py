"""Every name of ours on the pages docs/coming-from/ exists: classes, settings, choices, configs, commands, options, files."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml

import lightning_pbrl
from lightning_pbrl import registry
from lightning_pbrl.configs import packaged_config, read_config
from lightning_pbrl.errors import UserError
from lightning_pbrl.settings import kinds_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "coming-from").glob("*.md"))
VERBS = {"fit", "validate", "test", "predict", "run", "sweep", "collect", "data", "list", "labels", "plot", "report"}
KEYS = {"seed_everything", "labels"}
"""Keys of a stage, and columns of a log, that belong to no class."""


def tables(page: str) -> Iterator[list[dict[str, str]]]:
    """Yield the rows of each table of a page by column name."""
    for block in re.findall(r"(?:^\|.*\|\n)+", page, re.M):
        lines = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in block.splitlines()]
        names = [name.strip() for name in lines[0]]
        yield [dict(zip(names, (cell.strip() for cell in line), strict=True)) for line in lines[2:]]


def names_in(page: Path) -> list[str]:
    """Code in the columns *here* and *meaning* of a page: what is ours."""
    rows = [row for table in tables(page.read_text()) for row in table if "here" in row]
    return [code for row in rows for column in ("here", "meaning") for code in re.findall(r"`([^`]+)`", row.get(column, ""))]


def public_classes() -> dict[str, type]:
    registry.import_all()
    found: dict[str, type] = {}
    for module in pkgutil.walk_packages(lightning_pbrl.__path__, "lightning_pbrl."):
        if not module.name.startswith(("lightning_pbrl.conf.", "lightning_pbrl.sweep")) and not module.name.endswith("__main__"):
            members = vars(importlib.import_module(module.name)).values()
            found |= {member.__name__: member for member in members if inspect.isclass(member)}
    return found | {name: cls for kind in registry.PACKAGES for name, cls in registry.classes(kind).items()}


CLASSES = public_classes()


def sources() -> str:
    folders = (ROOT / "lightning_pbrl", ROOT / "callbacks", ROOT / "datamodules")
    return "\n".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))


def is_setting(code: str) -> bool:
    cls, setting, choice = re.fullmatch(r"(\w+)\.(\w+)(?:=(\w+))?", code).groups()  # type: ignore[union-attr]
    kinds: dict[str, Any] = kinds_of(CLASSES[cls]) if cls in CLASSES else {}
    choices = [c for kind in kinds.get(setting, ()) if get_origin(kind) is Literal for c in get_args(kind)]
    single = [kind for kind in kinds.get(setting, ()) if isinstance(kind, str)]
    return setting in kinds and (choice is None or choice in [*choices, *single])


def is_object(path: str) -> bool:
    parts = path.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def is_config(path: str) -> bool:
    try:
        found = Path(packaged_config(path))
        return bool(yaml.safe_load(found.read_text()) if found.is_file() else read_config(str(found)))  # a file, or a row of one
    except (UserError, OSError):
        return False


def is_command(line: str) -> bool:
    words = shlex.split(line)
    return words[1] in VERBS and all(is_config(word) for word in words if word.endswith(".yaml"))


def exists(code: str, text: str, folder_page: str) -> bool:
    """Say whether a name of ours exists; ``text`` is the source, ``folder_page`` describes the files of a run."""
    if code.startswith("lightning-pbrl "):
        return is_command(code)
    if code.startswith("lightning_pbrl."):
        return is_object(code)
    if code.endswith(".yaml") and "/" in code:
        return is_config(code)
    if re.fullmatch(r"[A-Z]\w+\.\w+(=\w+)?", code):
        return is_setting(code)
    if re.fullmatch(r"[A-Z]\w+", code):
        return code in CLASSES
    if re.fullmatch(r"--[\w-]+", code):
        return f'"{code}"' in text or re.search(rf"\b{code[2:]}\b", folder_page) is not None
    if re.fullmatch(r"(train|eval|test|pref|query|teacher|labels)/\w+", code):
        return code.split("/")[1].rsplit("_", 1)[-1] in text
    return code in KEYS or f"`{code}`" in folder_page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_of_ours_exist(page: Path) -> None:
    text, folder_page = sources(), (ROOT / "docs" / "cli.md").read_text()
    named = names_in(page)
    missing = [code for code in dict.fromkeys(named) if not exists(code, text, folder_page)]
    assert missing == []
    assert len(named) >= 10


def test_ten_pages_and_an_index() -> None:
    index = (ROOT / "docs" / "coming-from" / "index.md").read_text()
    pages = {page.stem for page in PAGES} - {"index"}
    assert pages == {"clarify", "lire", "ipl", "qpa", "laeo", "rlhf_mujoco", "b-pref", "imitation", "d3rlpy", "corl"}
    assert all(f"({name}.md)" in index for name in pages)


@pytest.mark.parametrize(
    "wrong",
    ["IQL.tau", "CLARIFY.readout=last", "NoSuchClass", "experiment/iql/nowhere.yaml", "lightning-pbrl train", "--gpu-number",
     "lightning_pbrl.data.lire.read_nothing", "reward.pth"],
)  # fmt: skip
def test_a_wrong_name_is_found(wrong: str) -> None:
    assert not exists(wrong, sources(), (ROOT / "docs" / "cli.md").read_text())
