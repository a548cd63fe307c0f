"""Find config files by name, and read the rows of a file's table of tasks.

A file may end in a table, whose rows set keys of it:

    data: {class_path: OnlineDataModule, init_args: {simulator: {class_path: MetaWorld, init_args: {task: "${task}"}}}}
    tasks:
      hammer: {}
      hammer-long: {task: hammer, data.init_args.simulator.init_args.horizon: 500}

It then stands for a folder of files: ``data/online/hammer.yaml`` is ``data/online.yaml`` with the row ``hammer``. In its texts
``${row}`` is the row's name, and ``${task}`` the row's key ``task``, or else the row's name too.
"""

from __future__ import annotations

import copy
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_pbrl.data.guard import reading
from lightning_pbrl.errors import UserError, nearest

SHIPPED = Path(__file__).parent / "conf"

MOVED = {
    "experiment/clarify/clear-ratio-*.yaml": "experiment/clarify/clear-ratio/*.yaml",
    "experiment/lire/*-controls.yaml": "experiment/lire/controls/*.yaml",
    "experiment/lire/*.yaml": "experiment/lire/rewards/*.yaml",
    "experiment/laeo/small-*.yaml": "experiment/laeo/small/*.yaml",
    "experiment/oril/small-*.yaml": "experiment/oril/small/*.yaml",
    "experiment/purl/small-*.yaml": "experiment/purl/small/*.yaml",
    "experiment/vice/small-*.yaml": "experiment/vice/small/*.yaml",
    "experiment/qpa/fast-*.yaml": "experiment/qpa/fast/*.yaml",
    "experiment/qpa/small-*.yaml": "experiment/qpa/small/*.yaml",
}
"""Former name -> present one, below ``conf/``; ``*`` stands for the same text in both. They work until the next version."""


def packaged_config(name: str) -> str:
    """Return the path of a config file, or of a row, given that path or its name below the package's ``conf/``.

    Raises:
        UserError: when there is none.
    """
    short = name.removeprefix("conf/")
    for path in (Path(name), SHIPPED / name, SHIPPED / short):
        if path.is_file() or split_row(path)[1]:
            return str(path)
    for old, new in MOVED.items():
        match = re.fullmatch(re.escape(old).replace(r"\*", "([^/]+)"), short)
        if match and split_row(path := SHIPPED / new.replace("*", match[1]))[1]:
            return str(path)
    shown = name if name.isprintable() else ascii(name)
    raise UserError(f"There is no config file {shown}: {nearest(short, names())}")


def tell_moved(name: str, path: Path) -> None:
    """Say how a former name is spelt now."""
    file, row = split_row(path)
    short = file.relative_to(SHIPPED) if file.is_relative_to(SHIPPED) else file
    now = f"{short} --task {row}" if row else str(short)
    print(f"{name} has moved: write {now}; the former name works until the next version.", file=sys.stderr)


def names() -> list[str]:
    """Return the names of all packaged configs, rows included."""
    found = []
    for path in sorted(SHIPPED.rglob("*.yaml")):
        name = str(path.relative_to(SHIPPED))
        found += [f"{name.removesuffix('.yaml')}/{row}.yaml" for row in rows_of(path)] or [name]
    return found


def rows_of(file: Path) -> dict[str, Any]:
    """Return the rows of a file's table of tasks by name; empty for a file without a table.

    Raises:
        UserError: when ``tasks`` is something else, or the file is not valid YAML.
    """
    content = _content(file)
    rows = content.get("tasks") if isinstance(content, dict) else None
    if rows is None:
        return {}
    if not isinstance(rows, dict) or not all(row is None or isinstance(row, dict) for row in rows.values()):
        raise UserError(f"{file}: tasks is {rows!r:.100}: give a row of keys for each task, {{hammer: {{ask.budget: 100}}}}.")
    return {str(name): row or {} for name, row in rows.items()}


def split_row(path: Path) -> tuple[Path, str | None]:
    """Return the file of a path, and the name of its row; None for a path that is a file, or nothing."""
    file, row = path.parent.with_name(f"{path.parent.name}.yaml") if path.parent.name else path, path.name.removesuffix(".yaml")
    if path.suffix == ".yaml" and not path.is_file() and file.is_file() and row in rows_of(file):
        return file, row
    return path, None


def read_config(path: str | Path) -> Any:
    """Return the content of a config file, or of a row.

    Raises:
        UserError: for a file that cannot be read, and one whose rows are to be chosen from.
    """
    file, row = split_row(Path(path))
    content = copy.deepcopy(_content(file))
    if row is not None:
        return _with_row(content, row, rows_of(file)[row], file)
    if rows := rows_of(file):
        one = f"{str(file).removesuffix('.yaml')}/{next(iter(rows))}.yaml"
        raise UserError(f"{file} has a row for each of {', '.join(rows)}: name one, such as {one}.")
    return content


def as_argument(path: str) -> str:
    """Return what the parser of configs understands: a file's path as it is; a row, and dotted keys, as their content.

    Raises:
        UserError: as :func:`read_config`, and for a file that is no mapping of keys.
    """
    file, row = split_row(Path(path))
    if file.is_file() and not isinstance(found := _content(file), dict):
        what = "is empty" if found is None else f"holds {found!r:.50}"
        raise UserError(f"The config {file} {what}: give a mapping of keys, such as model: {{class_path: BC}}.")
    content = read_config(path)
    nested = spread(content)
    return path if row is None and nested == content else str(yaml.safe_dump(nested, sort_keys=False))


def merged(layers: list[Any]) -> dict[str, Any]:
    """Return mappings laid over each other, later ones winning key by key; what is no mapping stays beside them."""
    whole: dict[str, Any] = {}
    for number, layer in enumerate(layers):
        _lay(whole, spread(layer) if isinstance(layer, dict) else {f"layer {number}": layer})
    return whole


def spread(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose dotted keys, ``ask.budget: 20``, are mappings; a later key wins.

    The parser of configs would lose a dotted key that stands before a mapping of the same name.
    """
    whole: dict[str, Any] = {}
    for key, value in content.items():
        layer: dict[str, Any] = {}
        set_key(layer, str(key), value)
        _lay(whole, layer)
    return whole


def _lay(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay(below[key], value)
        else:
            below[key] = copy.deepcopy(value)


def set_key(node: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the mappings on its way."""
    *parents, last = key.split(".")
    for part in parents:
        if not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    node[last] = copy.deepcopy(value)


def stage_keys(key: str, stages: Mapping[str, Any], where: object) -> Iterator[tuple[str, str]]:
    """Yield stage and config key of a key: of every stage, or of the one that ``stages.NAME.with.KEY`` names.

    Raises:
        UserError: for ``stages.NAME`` without such a stage.
    """
    if not key.startswith("stages."):
        yield from ((name, key) for name in stages)
        return
    name, _, rest = key.removeprefix("stages.").partition(".")
    if name not in stages or not rest.startswith("with."):
        known = [f"stages.{stage}.with.{rest.removeprefix('with.')}" for stage in stages]
        raise UserError(f"{where}: {key} is in no stage: {nearest(key, known)}")
    yield name, rest.removeprefix("with.")


def _with_row(content: dict[str, Any], name: str, row: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Lay a row over the file, or over the stages that it has."""
    texts = {"${row}": name, "${task}": str(row.get("task", name))}
    found: dict[str, Any] = _filled({key: value for key, value in content.items() if key != "tasks"}, texts)
    stages = found.get("stages")
    for key, value in _filled({key: value for key, value in row.items() if key != "task"}, texts).items():
        places = stage_keys(key, stages, file) if isinstance(stages, dict) else [("", key)]
        for stage, inner in places:
            layer: dict[str, Any] = {}
            set_key(layer, f"stages.{stage}.with.{inner}" if stage else inner, value)
            _lay(found, layer)
    return found


def _filled(value: Any, texts: Mapping[str, str]) -> Any:
    """Return a copy with the texts put in the place of their names."""
    if isinstance(value, dict):
        return {key: _filled(item, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, texts) for item in value]
    if isinstance(value, str):
        for name, text in texts.items():
            value = value.replace(name, text)
    return value


def _content(file: Path) -> Any:
    with reading(f"The config {file}", "is not valid YAML", "mend that line"):
        return _parsed(file.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=512)
def _parsed(text: str) -> Any:
    return read_yaml(text)


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text in which 1e-4 is a number, as it is in JSON."""
    return _numbers(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), {})


def _numbers(value: Any, done: dict[int, Any]) -> Any:
    """Turn texts such as 1e-4 into numbers: YAML 1.1 wants a dot in front of an exponent.

    Args:
        value: what YAML makes of the text.
        done: results by the identity of what they come from: what is named by several aliases is made once.
    """
    if isinstance(value, dict | list):
        if id(value) not in done:
            done[id(value)] = (
                {key: _numbers(item, done) for key, item in value.items()}
                if isinstance(value, dict)
                else [_numbers(item, done) for item in value]
            )
        return done[id(value)]
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value
