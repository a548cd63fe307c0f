"""Which run a folder belongs to: what ``fit``, ``test`` and the rest check before they write anything there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_pbrl import run_folder
from lightning_pbrl.data.archive import replacing
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.loading import read_checkpoint
from lightning_pbrl.methods.resuming import FREE, grown
from lightning_pbrl.run_folder import LAST

if TYPE_CHECKING:
    from lightning_pbrl.train_cli import TrainCLI

COMPARED = ("seed_everything", "data", "model", "ask", "relabel")
"""Keys that say what is learned; the others say where it is kept, shown and computed."""

JUDGED = ("eval_episodes", "test_episodes", "eval_envs")
"""Settings of a data module that say how a policy is judged; ``num_envs`` too, where no policy acts while it learns."""


@contextmanager
def claimed(cli: TrainCLI, verb: str) -> Iterator[None]:
    """Hold the run folder of a command while it runs, and see that it is its own.

    A run that is to be lost is kept until the new one trains.

    Raises:
        UserError: when another process writes there, or the folder belongs to another run.
    """
    if cli.trainer.global_rank:  # the first process of a run on several devices has done this
        yield
        return
    config = cli._own
    folder = Path(config.run_dir)
    with run_folder.held(folder, verb):
        if verb == "fit":
            _claim_for_fit(cli, config, folder)
        elif verb in ("test", "predict"):
            _own_checkpoint(config, folder, verb)
        try:
            yield
        except BaseException:
            run_folder.put_back(folder)
            raise
        run_folder.let_go(folder)


def _claim_for_fit(cli: TrainCLI, config: Any, folder: Path) -> None:
    if config.resume and config.overwrite:
        raise UserError("--resume goes on with a run and --overwrite begins anew: give one of them.")
    files = list(_files(cli))
    if config.resume and (folder / LAST).is_file():
        _goes_on(cli, folder)
    else:
        if config.overwrite:
            if config.ckpt_path and _within(config.ckpt_path, folder):
                raise UserError(
                    f"--overwrite would lose ckpt_path, {config.ckpt_path}, with the run that it belongs to: add "
                    "--run_dir=runs/another."
                )
            run_folder.set_aside(folder)
        else:
            run_folder.refuse_second_fit(folder)
            run_folder.begin_anew(folder, everything=False)
    with replacing(folder / "inputs.json") as part:
        part.write_text(run_folder.dumped(run_folder.record(files)))


def _own_checkpoint(config: Any, folder: Path, verb: str) -> None:
    """Refuse results of one run in the folder of another."""
    if (folder / LAST).is_file() and not _within(config.ckpt_path, folder):
        raise UserError(
            f"The run folder {folder} belongs to a fit, and ckpt_path names the checkpoint of another run, {config.ckpt_path}: "
            f"add --run_dir=runs/another for what {verb} writes."
        )


def _within(ckpt_path: str, folder: Path) -> bool:
    """Whether a checkpoint is one of those that a run folder keeps."""
    return (folder / LAST).parent.resolve() in Path(ckpt_path).resolve().parents


def _goes_on(cli: TrainCLI, folder: Path) -> None:
    """Refuse to go on with a run that has other settings, or was begun with other files."""
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
    free |= set() if "env" in cli.model.needs else {"data.init_args.num_envs"}
    try:
        both = (dict(yaml.safe_load(written.read_text())), _plain(cli))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{written} is damaged, and it says what the run there is: put it back, or start a new run.") from error
    before, now = ({key: value for key, value in _settings(config, was) if key not in free} for config in both)
    longer = {_full(key): _full(size) for key, size in type(cli.model).longer.items()}
    finished = bool(read_checkpoint(folder / LAST)["lightning_pbrl"]["finished"])
    grown(longer, before, now, finished, f"The run in {folder}")


def _full(key: str) -> str:
    """The key of the command line for a setting of a method."""
    return key if "." in key else f"model.init_args.{key}"


def _plain(cli: TrainCLI) -> dict[str, Any]:
    """The resolved config as plain types, as ``config.yaml`` has it."""
    content: dict[str, Any] = yaml.safe_load(cli._parser(cli.subcommand).dump(cli._own, skip_none=False))
    return content


def _settings(config: Mapping[str, Any], files: run_folder.Record) -> Iterator[tuple[str, Any]]:
    """What is compared, by dotted key; a file by what it holds, so that data may be moved."""
    for key, value in _leaves({key: config.get(key) for key in COMPARED}):
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


def _files(cli: TrainCLI) -> Iterator[Path]:
    """The files that a fit reads: those that its config names, and those of its data; not what it writes or shares."""
    config = _plain(cli)
    folder = Path(config["run_dir"]).resolve()
    named = [Path(value) for key, value in _leaves({key: config.get(key) for key in COMPARED}) if _is_file(key, value)]
    for path in [*named, *cli.datamodule.files()]:
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
