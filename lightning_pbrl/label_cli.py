"""The command ``label``: the labelling page for a run folder, a label store or a database's URL."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import yaml

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.demo import Returns
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.exchange import existing, fingerprint_of, open_store
from lightning_pbrl.labelling.films import LoadData, QuestionFilms, films_of
from lightning_pbrl.labelling.serve import give_way, label_command, show_in_notebook

if TYPE_CHECKING:
    from IPython.display import IFrame

ASKED = ("overlap", "combine", "timeout", "bins")
"""Settings of the teacher that the desk follows."""


class Place(NamedTuple):
    """A label store, and the data that its questions are about.

    Attributes:
        where: its file or URL.
        folder: folder of recordings and films, that of the run; None for a URL without configs.
        load: makes the data module, not set up unless the configs were given; None where nothing names the data.
        run: the run whose folder was named, where its store may be shared with others; None for all runs.
    """

    where: str
    folder: Path | None
    load: LoadData | None
    run: str | None


def place_of(store: str, configs: tuple[str, ...] = ()) -> Place:
    """Return a store with the data of ``configs``, or without these of its run folder.

    Args:
        store: a run folder, a label store or a database's URL.
        configs: configs with a ``data:`` key.

    Raises:
        UserError: if there is no such store.
    """
    folder, config = _folder(store), _config(store)
    ask, run = config.get("ask") or {}, None
    if Path(store).is_dir() and ask.get("store"):
        where, run = str(ask["store"]), ask.get("run") or f"seed{config['seed_everything']}"
    else:
        where = existing(store)
    if configs:
        return Place(where, folder or Path.cwd(), partial(named, configs, where, fingerprint_of(where)), run)
    load: LoadData | None = partial(loaded, config["data"], config.get("imports") or []) if config.get("data") else None
    return Place(where, folder, load, run)


def opened(store: str, *configs: str, **settings: Any) -> tuple[Desk, QuestionFilms]:
    """Return the desk and the films of a store.

    Args:
        store: a run folder, a label store or a database's URL.
        configs: configs with a ``data:`` key.
        settings: further settings of the desk.

    Raises:
        UserError: if there is no such store, or it holds no question of the run that is named.
    """
    found, teacher = place_of(store, configs), teacher_of(store)
    desk = Desk(found.where, **{"run": found.run, **{name: teacher[name] for name in ASKED if name in teacher}, **settings})
    if "run" in settings and not desk.runs:
        raise UserError(
            f"The label store {found.where} holds no question of run {desk.run!r}: name a run that asks, or leave --run out."
        )
    return desk, films_of(desk, found.folder, found.load, fingerprint_of(found.where) or "none")


def true_returns(store: str, *configs: str) -> Returns:
    """Return the true returns of the questions of a run: from its data, or of what the store holds where the data forget."""
    desk, films = opened(store, *configs)
    if films.recorded:
        kept = open_store(desk.name)
        return lambda asked: kept.clips([asked.key.number], asked.key.run).reward[0].sum(-1)
    if (load := place_of(store, configs).load) is None:
        raise UserError(f"The demo answers by the true reward of the data, which {store} does not name: give the run folder.")
    data = load()
    data.prepare_data()
    data.setup("fit")
    return lambda asked: data.source.true_returns(Query(asked.kind, torch.tensor([asked.start]), asked.length))[0]


def label(run: str | Path, name: str = "me", *, task: str = "", port: int = 0, height: int = 900) -> IFrame:
    """Show the labelling page of a run in the cell of a notebook on this machine.

    Args:
        run: run folder, label store, or URL of a database.
        name: name of the person who answers; an older link of that name stops working.
        task: description of what is good, shown above the clips.
        port: port to listen on; 0 takes a free one.
        height: height of the frame, pixels.

    Returns:
        The frame; ``frame.served.stop()`` ends the page.

    Raises:
        UserError: if there is no such run, or the extra ``web`` is not installed.
    """
    return show_in_notebook(*opened(str(run)), name, task=task, port=port, height=height)


def teacher_of(store: str) -> dict[str, Any]:
    """Return the settings of the teacher of people in the run that a label store lies in; none without a run."""
    teacher = ((_config(store).get("ask") or {}).get("teacher") or {}).get("init_args") or {}
    return (teacher.get("person") or {}).get("init_args") or teacher  # of a router


def _folder(store: str) -> Path | None:
    """Return the run folder, or the folder in which a label store lies; None for a database's URL."""
    if "://" in store:
        return None
    return (Path(store) if Path(store).is_dir() else Path(store).parent).absolute()


def _config(store: str) -> dict[str, Any]:
    """Return the config of the run that a label store lies in; empty without a run."""
    folder = _folder(store)
    path = None if folder is None else folder / "config.yaml"
    return {} if path is None or not path.is_file() else yaml.safe_load(path.read_text()) or {}


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
    from lightning_pbrl.commands import ready_data

    data = ready_data(configs, "lightning-pbrl label")
    if fingerprint not in (None, data.source.fingerprint):
        raise UserError(
            f"The label store {where} is about the data set {fingerprint} and {', '.join(configs)} names "
            f"{data.source.fingerprint}: name the data that were asked about."
        )
    return data


def command(args: list[str]) -> None:
    """``lightning-pbrl label RUN|STORE``."""
    label_command(args, _begun, true_returns)


def _begun(store: str, *configs: str, **settings: Any) -> tuple[Desk, QuestionFilms]:
    """Return the desk and the films; the first ones are being drawn, and this process gives way to a training."""
    desk, films = opened(store, *configs, **settings)
    give_way()
    films.draw_ahead()
    return desk, films
