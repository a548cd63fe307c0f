"""Checks of the run that a folder belongs to, before ``fit``, ``test`` and the rest write anything there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_pbrl import run_folder
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.resuming import FREE, grown
from lightning_pbrl.fitting.saving import read_checkpoint
from lightning_pbrl.methods.base import Method
from lightning_pbrl.run_folder import LAST
from lightning_pbrl.teachers.base import UNLEARNED

COMPARED = ("seed_everything", "data", "model", "ask", "relabel")
"""Keys that say what is learned; the others say where it is kept, shown and computed."""

JUDGED = ("eval_episodes", "test_episodes", "eval_envs")
"""Settings of a data module that say how a policy is evaluated; ``num_envs`` too, where no policy acts while it learns."""

WORDS = ("best", "last", "hpc")
"""Checkpoints that Lightning finds itself, of the fit that its Trainer has done."""


class Start(NamedTuple):
    """A verb that is about to run.

    Attributes:
        folder: the run folder.
        verb: fit, validate, test or predict.
        method: what is trained or tested.
        data: its data module.
        ckpt_path: the checkpoint that the user has named, or None.
        settings: of a fit, as ``config.yaml`` has them.
        resume: whether it shall go on with the run of the folder.
        overwrite: whether it may lose that run.
    """

    folder: Path
    verb: str
    method: Method
    data: Any
    ckpt_path: str | Path | None
    settings: Mapping[str, Any]
    resume: bool = False
    overwrite: bool = False


@contextmanager
def claimed(start: Start, rank: int = 0) -> Iterator[str | Path | None]:
    """Hold the run folder while a verb runs, and see that it is its own; gives the checkpoint to start from.

    A run that is to be lost is kept until the new one trains.

    Raises:
        UserError: when another process writes there, or the folder belongs to another run.
    """
    if not rank:
        run_folder.recover(start.folder, start.verb)
    going_on = start.verb == "fit" and start.resume and (start.folder / LAST).is_file()
    path = start.folder / LAST if going_on else start.ckpt_path
    if path is not None and not (start.ckpt_path in WORDS and start.method.run_dir == start.folder):
        read_checkpoint(path)  # refuses with a sentence what Lightning would fail on
    if rank:  # the first process of a run on several devices does the rest
        yield path
        return
    with run_folder.held(start.folder, start.verb):
        if start.verb == "fit":
            _claim_for_fit(start)
        elif start.verb in ("test", "predict"):
            _own_checkpoint(start)
        try:
            yield path
        except BaseException:
            run_folder.put_back(start.folder)
            raise
        run_folder.let_go(start.folder)


def _claim_for_fit(start: Start) -> None:
    folder, files = start.folder, list(_files(start))
    if start.resume and (folder / LAST).is_file():
        _goes_on(start)
    elif start.overwrite:
        if start.ckpt_path and _within(start.ckpt_path, folder):
            raise UserError(
                f"overwrite would lose ckpt_path, {start.ckpt_path}, with the run that it belongs to: choose another run_dir."
            )
        run_folder.set_aside(folder)
    else:
        run_folder.refuse_second_fit(folder)
        run_folder.begin_anew(folder, everything=False)
    with replacing(folder / "inputs.json") as part:
        part.write_text(run_folder.dumped(run_folder.record(files)))


def _own_checkpoint(start: Start) -> None:
    """Refuse results of one run in the folder of another."""
    folder, path = start.folder, start.ckpt_path
    own = start.method.run_dir is not None and start.method.run_dir.resolve() == folder.resolve()
    if not (folder / LAST).is_file() or (own if path is None or path in WORDS else _within(path, folder)):
        return
    what = "the method was not trained in it" if path is None else f"ckpt_path names the checkpoint of another run, {path}"
    raise UserError(f"The run folder {folder} belongs to a fit, and {what}: choose another run_dir for what {start.verb} writes.")


def _within(ckpt_path: str | Path, folder: Path) -> bool:
    """Return True if a checkpoint is one of those that a run folder keeps."""
    return (folder / LAST).parent.resolve() in Path(ckpt_path).resolve().parents


def _goes_on(start: Start) -> None:
    """Refuse to go on with a run that has other settings, or was begun with other files."""
    folder, method = start.folder, start.method
    was = run_folder.inputs(folder)
    if path := run_folder.changed(was):
        raise UserError(
            f"The run in {folder} was begun with {path}, and that file has changed since: start a new run in another folder "
            "(run_dir), or put the file back."
        )
    written = folder / "config.yaml"
    if not written.is_file():
        return
    free = {_full(key) for key in FREE} | {f"data.init_args.{key}" for key in (*JUDGED, "cache_dir")} | {"ask.store"}
    free |= set() if "env" in method.needs else {"data.init_args.num_envs"}
    try:
        both = (dict(yaml.safe_load(written.read_text())), start.settings)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{written} is damaged, and it says what the run there is: put it back, or start a new run.") from error
    usual = {"ask.first_round": int("env" in method.needs)}  # None means it
    before, now = (
        {
            key: usual.get(key) if value is None else value
            for key, value in _settings(config, was)
            if key not in free and not (key.startswith("ask.teacher.") and UNLEARNED & set(key.split(".")))
        }
        for config in both
    )
    longer = {_full(key): _full(size) for key, size in type(method).longer.items()}
    finished = bool(read_checkpoint(folder / LAST)["lightning_pbrl"]["finished"])
    grown(longer, before, now, finished, f"The run in {folder}")


def _full(key: str) -> str:
    """Return the key of the command line for a setting of a method."""
    return key if "." in key else f"model.init_args.{key}"


def _settings(config: Mapping[str, Any], files: run_folder.Record) -> Iterator[tuple[str, Any]]:
    """Return the settings that are compared, by dotted key; a file by its content, so that data may be moved."""
    for key, value in _leaves({key: config.get(key) for key in COMPARED}):
        value = value.rpartition(".")[2] if key.endswith("class_path") else value  # one class may be named by several paths
        yield key, _content(value, files) if isinstance(value, str) else value


def _content(value: str, files: run_folder.Record) -> str:
    path = Path(value)
    was = files.get(str(path.resolve()))
    if was is not None:
        return str(was["blake2b"])
    return run_folder.digest(path) if path.is_file() else value


def _leaves(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{above}.{key}" if above else str(key))
    else:
        yield above, value


def _files(start: Start) -> Iterator[Path]:
    """Return the files that a fit reads: those that its config names, and those of its data; not what it writes or shares."""
    folder = start.folder.resolve()
    named = [Path(value) for key, value in _leaves({key: start.settings.get(key) for key in COMPARED}) if _is_file(key, value)]
    for path in [*named, *(start.data.files() if hasattr(start.data, "files") else ())]:
        if folder not in path.resolve().parents:
            yield path


def _is_file(key: str, value: Any) -> bool:
    return isinstance(value, str) and key != "ask.store" and len(value) < 4096 and Path(value).is_file()


def imports_of(args: Iterable[str]) -> list[str]:
    """Modules that ``imports`` names in the config files and on the command line, which parsing must find imported."""
    found: list[Any] = []
    args = list(args)
    for at, arg in enumerate(args):
        key, equals, value = arg.partition("=")
        value = value if equals else args[at + 1] if at + 1 < len(args) else ""
        if key in ("-c", "--config"):
            content = _read(value)
            found.append(content.get("imports"))
        elif key == "--imports":
            found.append(yaml.safe_load(value))
    modules: list[str] = []
    for each in found:
        modules += [each] if isinstance(each, str) else each or []
    return list(dict.fromkeys(modules))


def _read(config: str) -> dict[str, Any]:
    """Return a config, a file's or a text's; empty where the parser will say what is wrong with it."""
    try:
        content = yaml.safe_load(config if "\n" in config else Path(config).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
