"""The command ``label``: the labelling page for a run folder, a label store or a database's URL."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.exchange import existing, fingerprint_of
from lightning_pbrl.labelling.films import LoadData, QuestionFilms, films_of
from lightning_pbrl.labelling.serve import label_command

ASKED = ("overlap", "timeout", "bins")
"""Settings of the teacher that the desk follows."""


class _Place(NamedTuple):
    """A label store, and the data that its questions are about.

    Attributes:
        where: its file or URL.
        folder: folder of recordings and films, that of the run; None for a URL without configs.
        load: makes the data module, not set up unless the configs were given; None where nothing names the data.
    """

    where: str
    folder: Path | None
    load: LoadData | None


def place_of(store: str, configs: tuple[str, ...] = ()) -> _Place:
    """Return a store with the data of ``configs``, or without these of its run folder.

    Args:
        store: a run folder, a label store or a database's URL.
        configs: configs with a ``data:`` key.

    Raises:
        UserError: if there is no such store.
    """
    where = existing(store)
    folder = (Path.cwd() if configs else None) if "://" in where else Path(where).absolute().parent
    config = _config(where)
    load: LoadData | None = partial(loaded, config["data"], config.get("imports") or []) if config.get("data") else None
    return _Place(where, folder, partial(named, configs, where, fingerprint_of(where)) if configs else load)


def opened(store: str, *configs: str, **settings: Any) -> tuple[Desk, QuestionFilms]:
    """Return the desk and the films of a store.

    Args:
        store: a run folder, a label store or a database's URL.
        configs: configs with a ``data:`` key.
        settings: further settings of the desk.

    Raises:
        UserError: if there is no such store, or it holds no question of the run that is named.
    """
    found = place_of(store, configs)
    teacher = teacher_of(found.where)
    desk = Desk(found.where, **{name: teacher[name] for name in ASKED if name in teacher}, **settings)
    if desk.run is not None and not desk.runs:
        raise UserError(
            f"The label store {found.where} holds no question of run {desk.run!r}: name a run that asks, or leave --run out."
        )
    return desk, films_of(desk, found.folder, found.load, fingerprint_of(found.where) or "none")


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


def named(configs: tuple[str, ...], where: str, fingerprint: str | None) -> Any:
    """Return the data module of configs, set up.

    Raises:
        UserError: if the questions of the store are about other data.
    """
    from lightning_pbrl.commands import data_module

    data = data_module([word for config in configs for word in ("-c", config)], "lightning-pbrl label", "")
    data.prepare_data()
    data.setup("fit")
    if fingerprint not in (None, data.source.fingerprint):
        raise UserError(
            f"The label store {where} is about the data set {fingerprint} and {', '.join(configs)} names "
            f"{data.source.fingerprint}: name the data that were asked about."
        )
    return data


def command(args: list[str]) -> None:
    """``lightning-pbrl label RUN|STORE``."""
    label_command(args, opened)
