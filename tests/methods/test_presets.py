"""The files below conf/preset: named settings of the method whose name their folder has."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from toys import SPEC

from lightning_pbrl import registry
from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.settings import constructors

CONF = Path(packaged_config("model/laeo.yaml")).parents[1]
NAMES = sorted(str(path.relative_to(CONF / "preset")) for path in (CONF / "preset").rglob("*.yaml"))
PARTS = {"teacher": "teachers", "query": "queries"}


def read(name: str) -> Any:
    return yaml.safe_load((CONF / name).read_text())


def defaults(cls: type) -> dict[str, Any]:
    """Arguments of the constructor, with those that its ``**`` passes on to a base's."""
    found: dict[str, Any] = {}
    for constructor in constructors(cls):
        parameters = inspect.signature(constructor).parameters.values()
        found = {**{p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def holds(cls: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Every argument of a method as it holds with these; those of its reward model by name, too."""
    method = cls(SPEC, **settings)
    found = {key: plain(value) for key, value in method.hparams.items()}
    if "reward_model" in settings:  # a mapping, the rest of which are defaults of another class
        found["reward_model"] = {key: plain(value) for key, value in method.reward_model.hparams.items()}
    return found


def plain(value: Any) -> Any:
    """A value as YAML has it."""
    return list(value) if isinstance(value, tuple) else value


def assert_within(part: dict[str, Any], whole: dict[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, dict):
            assert_within(value, whole[key])
        else:
            assert whole[key] == value, key


@pytest.mark.parametrize("name", NAMES)
def test_presets_name_arguments_and_paper_ones_change_nothing(name: str) -> None:
    """Every key is an argument, and takes its value; what paper.yaml says is what holds without it."""
    folder, file = name.split("/")
    preset, model = read(f"preset/{name}"), read(f"model/{folder}.yaml")
    assert preset.keys() <= {"model", "ask"} and preset["model"].keys() == {"init_args"}
    cls = registry.classes("methods")[model["model"]["class_path"]]
    written, settings = model["model"]["init_args"], preset["model"]["init_args"]
    assert settings and settings.keys() <= defaults(cls).keys() - {"self", "spec"}
    assert_within(settings, holds(cls, {**written, **settings}))
    if file == "paper.yaml":
        assert_within(settings, holds(cls, written))
    ask = preset.get("ask", {})
    assert ask.keys() <= defaults(AskTeacher).keys()
    for part, kind in PARTS.items():
        if part in ask:
            known = {key: plain(value) for key, value in defaults(registry.classes(kind)[ask[part]["class_path"]]).items()}
            assert ask[part].keys() <= {"class_path", "init_args"} and ask[part].get("init_args", {}).keys() <= known.keys()
            if file == "paper.yaml":
                assert_within(ask[part].get("init_args", {}), known)
