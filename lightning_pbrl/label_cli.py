"""The command ``label``: the labelling page for a run folder, a label store or a database's URL."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.exchange import existing, fingerprint_of
from lightning_pbrl.labelling.films import QuestionFilms, films_of
from lightning_pbrl.labelling.serve import label_command

ASKED = ("overlap", "timeout", "bins")
"""Settings of the teacher that the desk follows."""


def opened(store: str, **settings: Any) -> tuple[Desk, QuestionFilms]:
    """Return the desk and the films of a run folder, a label store or a database's URL.

    Args:
        store: the folder, file or URL.
        settings: further settings of the desk.

    Raises:
        UserError: if there is no such store, or it holds no question of the run that is named.
    """
    where = existing(store)
    run = None if "://" in where else Path(where).absolute().parent
    config, teacher = _config(where), teacher_of(where)
    desk = Desk(where, **{name: teacher[name] for name in ASKED if name in teacher}, **settings)
    if desk.run is not None and not desk.runs:
        raise UserError(
            f"The label store {where} holds no question of run {desk.run!r}: name a run that asks, or leave --run out."
        )
    load = partial(loaded, config["data"], config.get("imports") or []) if config.get("data") else None
    return desk, films_of(desk, run, load, fingerprint_of(where) or "none")


def teacher_of(where: str) -> dict[str, Any]:
    """Return the settings of the teacher of the run that a label store lies in; none without a run."""
    return ((_config(where).get("ask") or {}).get("teacher") or {}).get("init_args") or {}


def _config(where: str) -> dict[str, Any]:
    """Return the config of the run that a label store lies in; empty without a run."""
    path = Path(where).absolute().parent / "config.yaml"
    return yaml.safe_load(path.read_text()) or {} if "://" not in where and path.is_file() else {}


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
