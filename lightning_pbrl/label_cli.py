"""The command ``label``: the labelling page for a run folder, a label store or a database's URL."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.exchange import fingerprint_of, location
from lightning_pbrl.labelling.films import QuestionFilms, films_of
from lightning_pbrl.labelling.serve import label_command

ASKED = ("overlap", "timeout", "bins")
"""Settings of the teacher that the desk follows."""


def opened(store: str, **settings: Any) -> tuple[Desk, QuestionFilms]:
    """Return the desk and the films of a run folder, a label store or a database's URL.

    Args:
        store: the folder, file or URL.
        settings: further settings of the desk.
    """
    where = location(store)
    run = None if "://" in where else Path(where).absolute().parent
    config: dict[str, Any] = {}
    if run is not None and (run / "config.yaml").is_file():
        config = yaml.safe_load((run / "config.yaml").read_text()) or {}
    teacher = ((config.get("ask") or {}).get("teacher") or {}).get("init_args") or {}
    desk = Desk(where, **{name: teacher[name] for name in ASKED if name in teacher}, **settings)
    load = partial(loaded, config["data"], config.get("imports") or []) if config.get("data") else None
    return desk, films_of(desk, run, load, fingerprint_of(where) or "none")


def loaded(data: dict[str, Any], imports: list[str]) -> Any:
    """Return the data module of a run's config, not set up yet."""
    from lightning_pbrl.commands import data_module

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.yaml"
        path.write_text(yaml.safe_dump({"data": data, "imports": imports}))
        return data_module(["-c", str(path)], "lightning-pbrl label", "")


def command(args: list[str]) -> None:
    """``lightning-pbrl label RUN|STORE``."""
    label_command(args, opened)
