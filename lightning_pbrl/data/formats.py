"""The format of a file or a folder, guessed from what it holds.

Each format has a module that says whether it ``recognises`` a path and how to read one. The first that does is taken.
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lightning_pbrl.data.guard import listed
from lightning_pbrl.data.hdf5 import is_hdf5, open_hdf5
from lightning_pbrl.data.npz import open_npz
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError


class Format(NamedTuple):
    """Format of data sets.

    Attributes:
        title: its name, for people.
        module: module in ``lightning_pbrl.data`` with ``recognises``.
        reader: name of its function that reads a path; "" if :data:`OPENERS` has one.
        settings: arguments that let data be read whose scale nobody has told yet.
    """

    title: str
    module: str
    reader: str
    settings: dict[str, Any]


LOOSE = {"clip_actions": True}
FORMATS: dict[str, Format] = {
    "archive": Format("lightning-pbrl's own data file", "archive", "load", {}),
    "ogbench": Format("OGBench", "ogbench", "read_ogbench", LOOSE),
    "preference_npz": Format("preferences as npz (IPL)", "preference_npz", "", LOOSE),
    "d3rlpy": Format("d3rlpy replay buffer", "d3rlpy", "read_d3rlpy", LOOSE),
    "robomimic": Format("robomimic demonstrations", "robomimic", "read_robomimic", LOOSE),
    "d4rl": Format("D4RL", "d4rl", "read_d4rl", LOOSE),
    "imitation_preferences": Format("imitation preferences", "imitation_preferences", "", LOOSE),
    "lire": Format("LiRE replay buffers", "lire", "", LOOSE),
    "imitation": Format("imitation trajectories", "imitation", "read_imitation", LOOSE),
    "lerobot": Format("LeRobotDataset", "lerobot", "read_lerobot", LOOSE),
    "minari": Format("Minari", "minari_folder", "read_minari_folder", LOOSE),
}
"""The formats, in the order in which they are tried."""


def format_of(path: Path) -> str:
    """Return the key of the format of a file or folder.

    Raises:
        UserError: if there is no such path, it is empty or truncated, or no reader recognises it.
    """
    if not path.exists():
        raise UserError(f"There is no file or folder {path}: check the path.")
    if found := _recognised(path):
        return found
    raise UserError(
        f"{path} is in none of the formats that are read ({', '.join(form.title for form in FORMATS.values())}){_held(path)}: "
        "give one data file or data folder, or convert it (docs/data-sets.md)."
    )


def _recognised(path: Path) -> str | None:
    """Return the key of the first format whose reader recognises a path."""
    readers = ((key, importlib.import_module(f"lightning_pbrl.data.{form.module}")) for key, form in FORMATS.items())
    return next((key for key, reader in readers if reader.recognises(path)), None)


def _held(path: Path) -> str:
    """Return what an unknown path holds, as part of a sentence.

    Raises:
        UserError: if it is an empty file, or the beginning of a .npz file.
    """
    if whole := next(filter(_recognised, path.absolute().parents[:3]), None):
        return f"; it is a part of the data set {whole}"
    if path.is_dir():
        return ""
    with path.open("rb") as raw:
        start = raw.read(4)
    if not start:
        raise UserError(f"{path} is empty: download it again from its source, or write it again.")
    if start == b"PK\3\4" and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is truncated or damaged: download it again from its source, or write it again.")
    npz = zipfile.is_zipfile(path) and path.suffix == ".npz"
    return f"; its keys are {listed(key for key, *_ in keys_of(path))}" if npz or is_hdf5(path) else ""


def read_format(path: Path, key: str, cache_dir: str | None = None) -> Transitions:
    """Read a path in a format, with actions clipped where their scale is not known.

    Raises:
        UserError: as the format's reader.
    """
    form = FORMATS[key]
    module = importlib.import_module(f"lightning_pbrl.data.{form.module}")
    if key in OPENERS:
        return OPENERS[key](module, path, form.settings)
    if key != "archive":
        return getattr(module, form.reader)(path, cache_dir=cache_dir, **form.settings)
    return module.load(path)


def keys_of(path: Path) -> list[tuple[str, str, str]]:
    """Return key, shape and type of every array of an .npz or HDF5 file; name and bytes of the files of a folder."""
    if path.is_dir():
        return [
            (str(each.relative_to(path)), f"{each.stat().st_size:,} bytes", "")
            for each in sorted(path.rglob("*"))
            if each.is_file()
        ]
    if zipfile.is_zipfile(path):
        with open_npz(path, "give the whole file") as file:
            return [(key, str(shape), str(dtype)) for key in file.members for shape, dtype in [file.header(key)]]
    if not is_hdf5(path):
        return []
    with open_hdf5(path) as file:
        return list(_arrays(file))


def _arrays(group: Any) -> Iterator[tuple[str, str, str]]:
    for key in group:
        found = group[key]
        if hasattr(found, "shape"):
            yield found.name.strip("/"), str(found.shape), str(found.dtype)
        else:
            yield from _arrays(found)


def _preferences(module: Any, path: Path, settings: dict[str, Any]) -> Transitions:
    source: Transitions = module.read_preference_npz(path, **settings)[0]
    return source


def _imitation(module: Any, path: Path, settings: dict[str, Any]) -> Transitions:
    source: Transitions = module.read_imitation_preferences(path, **settings)[0]
    return source


def _lire(module: Any, path: Path, settings: dict[str, Any]) -> Transitions:
    folder = path if path.is_dir() else path.parent
    source: Transitions = module.read_lire(folder, seeds=module.seeds_in(path), **settings)
    return source


OPENERS: dict[str, Callable[[Any, Path, dict[str, Any]], Transitions]] = {
    "preference_npz": _preferences,
    "imitation_preferences": _imitation,
    "lire": _lire,
}
"""Readers that take something else than a path alone."""
