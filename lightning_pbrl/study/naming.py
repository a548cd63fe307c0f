"""Name the folders of trials: ``<base>/<task>/<key=value_key=value>/seed<k>`` below the study's folder.

A part is left out where there is nothing to tell apart: the base when there is one, a key that has one value. Keys are
shortened to their shortest ending that is no other's, texts lose what all values of their key begin or end with, and of
paired keys whose values have the same names one is shown. ``seed<k>`` is what reports look for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_pbrl.errors import UserError
from lightning_pbrl.study.file import Point, Study

FOLDERS = ("env", "eval_env", "env_id", "task")
"""Last parts of keys whose values are folders, because results are compared within a task."""

SCAFFOLD = ("stages", "with", "init_args", "class_path")
"""Parts of keys that say nothing to a reader."""


def group_folders(study: Study, points: Sequence[Point]) -> list[Path]:
    """Return the folder of each point below the study's, without its seed.

    Raises:
        UserError: when different configurations would share a folder.
    """
    folders, pairs = _shown(study)
    found = []
    for point in points:
        parts = [_clean(point.base)] if len(study.bases) > 1 else []
        parts += [names[point.place[axis]] for axis, names in folders]
        pair = "_".join(f"{key}={names[point.place[axis]]}" for axis, key, names in pairs)
        found.append(Path(*parts, *([pair] if pair else [])))
    owner: dict[Path, tuple[str, tuple[int, ...]]] = {}
    for point, folder in zip(points, found, strict=True):
        if owner.setdefault(folder, (point.base, point.place)) != (point.base, point.place):
            raise UserError(f"The study {study.path}: two configurations share the folder {folder}; rename a base or a value.")
    return found


def _shown(study: Study) -> tuple[list[tuple[int, list[str]]], list[tuple[int, str, list[str]]]]:
    """Return what varies visibly: (axis, value names) of folders, and (axis, short key, value names) of the rest."""
    folders: list[tuple[int, str, list[str]]] = []
    rest: list[tuple[int, str, list[str]]] = []
    for number, axis in enumerate(study.axes):
        if axis.folders:
            folders.append((number, "", list(axis.folders)))
            continue
        seen: list[list[str]] = []
        for key in sorted(axis.keys, key=lambda key: key.split(".")[-1] not in FOLDERS):  # a task speaks for its files
            names = value_names([point[axis.keys.index(key)] for point in axis.values])
            if len(set(names)) > 1 and names not in seen:
                seen.append(names)
                (folders if key.split(".")[-1] in FOLDERS else rest).append((number, key, names))
    short = short_keys([key for _, key, _ in rest])
    return [(number, names) for number, _, names in folders], [(number, short[key], names) for number, key, names in rest]


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return each key's shortest ending that no other key has, without parts such as ``init_args``."""
    parts = {key: [part for part in key.split(".") if part not in SCAFFOLD] or [key] for key in keys}
    return {key: _shortest(key, parts) for key in keys}


def _shortest(key: str, parts: Mapping[str, list[str]]) -> str:
    own = parts[key]
    others = [other for name, other in parts.items() if name != key]
    for size in range(1, len(own) + 1):
        if all(other[-size:] != own[-size:] for other in others):
            return ".".join(own[-size:])
    return ".".join(own) if own not in others else key


def value_names(values: Sequence[Any]) -> list[str]:
    """Return a short name for each value, different for different values.

    Texts are taken apart at ``/``; parts and a file ending that all of them share are left out.
    """
    if all(isinstance(value, str) for value in values) and len(set(values)) > 1:
        names = [_clean(text.strip("/")) for text in _without_common(values)]
    else:
        names = [_clean(_text(value)) for value in values]
    distinct = [value for at, value in enumerate(values) if value not in values[:at]]
    ambiguous = {name for name, count in Counter(names[values.index(value)] for value in distinct).items() if count > 1}
    return [f"{n}-{distinct.index(v)}" if n in ambiguous else n for n, v in zip(names, values, strict=True)]


def _without_common(texts: Sequence[str]) -> list[str]:
    endings = {Path(text).suffix for text in texts}
    ending = endings.pop() if len(endings) == 1 else ""
    parts = [text.removesuffix(ending).split("/") for text in texts]
    spare = min(map(len, parts)) - 1  # something is left of each
    head = _shared(parts, spare)
    tail = _shared([part[::-1] for part in parts], spare - head)
    return ["/".join(part[head : len(part) - tail]) for part in parts]


def _shared(parts: Sequence[Sequence[str]], most: int) -> int:
    """Count the first parts that all have in common, up to ``most``."""
    return next((at for at in range(most) if len({part[at] for part in parts}) > 1), most)


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        short = f"{value:.6g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list | tuple):
        return "x".join(map(_text, value)) or "none"
    if isinstance(value, dict):
        name = str(value.get("class_path", "")).split(".")[-1]
        return "-".join([name] * bool(name) + [_text(item) for key, item in value.items() if key != "class_path"])
    return str(value)


def _clean(text: str) -> str:
    """Safe as a folder's name on every system."""
    return re.sub(r"[^\w.+-]+", "-", text).strip(".") or "empty"
