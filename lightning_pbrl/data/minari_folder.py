"""Minari's data sets by folder: ``<root>/<dataset_id>/data/metadata.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning_pbrl.data.guard import parse_json, reading
from lightning_pbrl.data.minari import read_minari
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError


def recognises(path: str | Path) -> bool:
    """Return True if this folder is a data set of Minari: ``<root>/<dataset_id>``, with ``data/metadata.json``."""
    return _metadata(Path(path)) is not None


def read_minari_folder(path: str | Path, **settings: Any) -> Transitions:
    """Read the data set in a folder as :func:`read_minari` reads one by name.

    Raises:
        UserError: also if the folder is not named like its data set.
    """
    known, folder = _metadata(Path(path)) or {}, Path(path).resolve()
    name = str(known.get("dataset_id", ""))
    parts_of_name = Path(name).parts
    if not name or folder.parts[-len(parts_of_name) :] != parts_of_name:
        raise UserError(f"{path} holds the Minari data set {name!r}: give the folder <root>/{name}, as Minari downloads it.")
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder.parents[len(parts_of_name) - 1])
    try:
        return read_minari(name, **settings)
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def _metadata(path: Path) -> dict[str, Any] | None:
    """Return the metadata of a folder of Minari; None of others."""
    file = path / "data" / "metadata.json"
    if not file.is_file():
        return None
    with reading(file, "is not JSON", "download the data set again"):
        found = parse_json(file.read_bytes())
    return found if isinstance(found, dict) and "dataset_id" in found else None
