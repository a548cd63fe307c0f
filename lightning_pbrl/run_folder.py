"""A run folder belongs to one run: who writes to it now, what it was made from, and what an earlier fit has left in it.

What a run was made from is a record of files: size, times and a hash of the content. A file whose size and times are the
recorded ones is taken to be the same; otherwise its content decides, so that a copy or a ``touch`` changes nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lightning_pbrl.errors import UserError

LAST = "checkpoints/last.ckpt"
"""Place of the checkpoint of the last finished round in a run folder."""

RESULTS = (LAST, "results.json", "predictions.safetensors")
"""Products of a run: a folder that has one of these belongs to the run that made it."""

PRUNED = "pruned.json"
"""File of a run folder whose job a search has given up; whoever runs it ends it."""

LOGS = ("csv", "tensorboard", "inputs.json", "config.yaml")
"""Files of a fit that has not finished a round."""

PICTURES = ("*.png", "*.npz", "video.mp4", "videos")

ASIDE, MOVING, GONE = ".before", ".moving", ".gone"
"""Folders in a run folder that is begun anew: the whole run before, until the new one trains; that run on its way there or back;
what is being removed of it. Whenever a process is killed, their names say what is to be done."""

Record = dict[str, dict[str, Any]]
"""Absolute path -> what the file was like."""


# Where it is ---------------------------------------------------------------------------------------------------------


def opened(name: str | Path) -> Path:
    """Make a run folder, ``~`` resolved.

    Raises:
        UserError: for an empty name; for an address, which loggers would read as one and checkpoints as a path; for one that
            cannot be written to.
    """
    if not str(name).strip():  # a variable of the shell that is not set
        raise UserError("run_dir is empty: give a folder of its own, such as runs/first.")
    if "://" in str(name) or "::" in str(name):
        raise UserError(f"run_dir is {name}: give a folder of this machine, without :// and ::.")
    folder = Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"The run folder {folder} cannot be written ({error.strerror}): choose another run_dir.") from error
    return folder


def new(parent: Path, name: str) -> Path:
    """Make a run folder that no other process has: ``name``, ``name_1`` ..."""
    opened(parent)
    for number in itertools.count():
        folder = parent / (f"{name}_{number}" if number else name)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError


# What a run was made from --------------------------------------------------------------------------------------------


def digest(path: Path) -> str:
    """Return a hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _times(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns, "inode": stat.st_ino}


def record(paths: Iterable[Path]) -> Record:
    """Return a hash of each of these files as it is now; paths without a file are left out."""
    found = sorted({path.resolve() for path in paths if path.is_file()})
    return {str(path): {**_times(path), "blake2b": digest(path)} for path in found}


def changed(recorded: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the first recorded file that has another content now; None when all are as they were, or are gone."""
    for name, was in recorded.items():
        path = Path(name)
        if not path.is_file():
            continue
        now = _times(path)
        if any(now[key] != was.get(key) for key in now) and digest(path) != was.get("blake2b"):
            return name
    return None


def pruned(folder: Path) -> bool:
    """Return True if a search has given up the job of a folder before it was finished."""
    return (folder / PRUNED).is_file() and "digest" not in read_json(folder / "done.json")


def read_json(path: Path) -> dict[str, Any]:
    """Return a mapping from a file; empty when there is none, or it is damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _recorded(content: Any) -> Record:
    """Return the part of a read value that is a :data:`Record`; a damaged file may hold anything."""
    if not isinstance(content, dict):
        return {}
    return {name: was for name, was in content.items() if isinstance(was, dict) and "blake2b" in was}


def dumped(content: Mapping[str, Any]) -> str:
    """Return a mapping as it is written to a run folder."""
    return json.dumps(content, indent=1)


def inputs(folder: Path) -> Record:
    """Return the files that the fit in ``folder`` has read."""
    return _recorded(read_json(folder / "inputs.json"))


def results(folder: Path) -> list[Path]:
    """Return the files for which others refer to a run."""
    return [folder / name for name in RESULTS if (folder / name).is_file()]


def outdated(folder: Path) -> str | None:
    """Return the file that a run was made from and that has changed since; None when what the folder holds is up to date."""
    made = read_json(folder / "done.json") or read_json(folder / "started.json")
    return changed({**inputs(folder), **_recorded(made.get("inputs"))})


def agrees(folder: Path, settings: Mapping[str, Any]) -> bool:
    """True when the fit whose resolved config is in ``folder`` has had all of these settings; a reference may stand for any."""
    try:
        found = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return _holds(found, settings)


def _holds(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(key in found and _holds(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, str) and isinstance(found, str):  # a class by its short or full name
        return "${" in wanted or found == wanted or found.endswith(f".{wanted}")
    return bool(found == wanted)


# Who writes to it ----------------------------------------------------------------------------------------------------


def this_process() -> dict[str, Any]:
    """Return the process and its start, for whoever finds the folder in use."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def who(said: Mapping[str, Any]) -> str:
    """:func:`this_process` in words."""
    if "pid" not in said:
        return "another process"
    return f"process {said['pid']} on {said.get('host')}, since {said.get('since')}"


@contextmanager
def held(folder: Path, verb: str) -> Iterator[None]:
    """Keep other processes from writing to a run folder; the system ends that with this process, however it ends.

    Raises:
        UserError: when another process holds it; the sentence says which.
    """
    path = folder / "lock.json"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = read_json(path)
            raise UserError(
                f"The run folder {folder} is in use by a {said.get('verb', 'run')} ({who(said)}): choose another run_dir, or "
                "wait until that has ended."
            ) from None
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        file.write(json.dumps({"verb": verb, **this_process()}))
        file.flush()
        yield


# What an earlier fit has left ----------------------------------------------------------------------------------------


def refuse_second_fit(folder: Path) -> None:
    """Refuse to begin a fit where a run has left what it was for.

    Raises:
        UserError: says what is there and how to go on.
    """
    if not (kept := results(folder)):
        return
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(path.stat().st_mtime for path in kept)))
    whose = "a fit" if (folder / LAST).is_file() else "a test" if (folder / "results.json").is_file() else "predictions"
    resume = "set resume to go on with it, " if (folder / LAST).is_file() else ""
    raise UserError(
        f"The run folder {folder} already holds {whose} (of {when}), and a folder belongs to one run: choose another run_dir, "
        f"{resume}or set overwrite to begin anew and lose it (answers in its label store are kept)."
    )


def begin_anew(folder: Path, everything: bool) -> None:
    """Remove what an earlier fit has left, so that no file of it stands beside those of the next; answers are kept.

    Args:
        folder: the run folder.
        everything: also checkpoints, results and pictures; logs alone otherwise.
    """
    for path in _left(folder, everything):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _left(folder: Path, everything: bool) -> list[Path]:
    """Return the files that a fit has left, as :func:`begin_anew` says."""
    names = [*LOGS, *(("checkpoints", *RESULTS[1:], *PICTURES) if everything else ())]
    return [path for name in names for path in folder.glob(name)]


def set_aside(folder: Path) -> None:
    """Move everything that :func:`begin_anew` would remove out of the way, until :func:`let_go` or :func:`put_back`."""
    (folder / MOVING).mkdir()
    for path in _left(folder, everything=True):
        path.rename(folder / MOVING / path.name)
    (folder / MOVING).rename(folder / ASIDE)


def let_go(folder: Path) -> None:
    """Remove what is set aside: the run that replaces it trains."""
    if (folder / ASIDE).is_dir():
        shutil.rmtree(folder / GONE, ignore_errors=True)  # of a process that was killed here
        shutil.rmtree((folder / ASIDE).rename(folder / GONE))


def put_back(folder: Path) -> None:
    """Put what is set aside in place of what was written since: the run that was to replace it has not begun to train."""
    if (folder / ASIDE).is_dir():
        begin_anew(folder, everything=True)
        (folder / ASIDE).rename(folder / MOVING)
    if (folder / MOVING).is_dir():
        for path in (folder / MOVING).iterdir():
            path.rename(folder / path.name)
        (folder / MOVING).rmdir()


def recover(folder: Path, verb: str) -> None:
    """:func:`put_back` after a process that was killed before it could.

    Raises:
        UserError: as :func:`held`.
    """
    if (folder / ASIDE).is_dir() or (folder / MOVING).is_dir():
        with held(folder, verb):
            put_back(folder)
