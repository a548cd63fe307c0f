"""The command ``label``, and the call of notebooks: the labelling page for a run folder, a label store or a database's URL."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.demo import Returns
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.exchange import fingerprint_of, location, open_store
from lightning_pbrl.labelling.films import LoadData, QuestionFilms, films_of
from lightning_pbrl.labelling.serve import label_command, show_in_notebook

if TYPE_CHECKING:
    from IPython.display import IFrame

ASKED = ("overlap", "timeout", "bins")
"""Settings of the teacher that the desk follows."""


def opened(store: str) -> tuple[Desk, QuestionFilms]:
    """Return the desk and the films of a run folder, a label store or a database's URL."""
    run, config = _run(store)
    ask = config.get("ask") or {}
    teacher = (ask.get("teacher") or {}).get("init_args") or {}
    teacher = (teacher.get("person") or {}).get("init_args") or teacher  # of a router
    settings = {name: teacher[name] for name in ASKED if name in teacher}
    if run is not None and Path(store).is_dir() and ask.get("store"):  # perhaps shared by several runs
        where, settings["run"] = ask["store"], ask.get("run") or f"seed{config['seed_everything']}"
    else:
        where = location(store)
    desk = Desk(where, **settings)
    return desk, films_of(desk, run, _load(config), fingerprint_of(where) or "none")


def true_returns(store: str) -> Returns:
    """Return the true returns of the questions of a run: from its data, or of what the store holds where the data forget."""
    desk, films = opened(store)
    if films.recorded:
        kept = open_store(desk.name)
        return lambda asked: kept.clips([asked.key.number], asked.key.run).reward[0].sum(-1)
    if (load := _load(_run(store)[1])) is None:
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


def _run(store: str) -> tuple[Path | None, dict[str, Any]]:
    """Return the run folder of a run or label store, and the config there; None and nothing for a database's URL."""
    if "://" in store:
        return None, {}
    run = (Path(store) if Path(store).is_dir() else Path(store).parent).absolute()
    written = run / "config.yaml"
    return run, (yaml.safe_load(written.read_text()) or {}) if written.is_file() else {}


def _load(config: dict[str, Any]) -> LoadData | None:
    """Return what makes the data module of a run's config, in this process or another; None where it names none."""
    return partial(loaded, config["data"], config.get("imports") or []) if config.get("data") else None


def loaded(data: dict[str, Any], imports: list[str]) -> Any:
    """Return the data module of a run's config, not set up yet."""
    from lightning_pbrl.commands import data_module

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.yaml"
        path.write_text(yaml.safe_dump({"data": data, "imports": imports}))
        return data_module(["-c", str(path)], "lightning-pbrl label", "")


def command(args: list[str]) -> None:
    """``lightning-pbrl label RUN|STORE``."""
    label_command(args, _begun, true_returns)


def _begun(store: str) -> tuple[Desk, QuestionFilms]:
    """Return the desk and the films; the first ones are being drawn."""
    desk, films = opened(store)
    films.draw_ahead()
    return desk, films
