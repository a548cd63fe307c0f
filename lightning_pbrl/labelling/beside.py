"""The labelling page beside a run: ``lightning-pbrl label`` in a process of its own, which ends with the trainer."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_pbrl import signals
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.serve import check_extra, label_options

STARTS = 5
"""Times that the page is started before it is given up."""
PATIENCE_S = 5.0
"""Longest time for a page to end by itself, seconds."""
REFUSED = 2
"""Exit code of a command that a user has to mend."""


class PageBeside:
    """Labelling page of a run, in a process of its own: either may die, and the page is started again when it does.

    The process gives way to the training (``nice``) and ends when this one does, however that ends.

    Args:
        run: run folder.
        options: options of ``lightning-pbrl label`` by name, such as ``{"people": ["Ada", "Bob"]}``.

    Raises:
        UserError: if the extra ``web`` is not installed, or for options that the command does not take.
    """

    def __init__(self, run: str | Path, options: Mapping[str, Any]) -> None:
        check_extra()
        port = options.get("port") or port_of(run)
        self._args = [str(run), *_words({**options, "port": port}), "--beside"]
        label_options(self._args)
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def open(self) -> None:
        """Start the page, unless it was; the links are printed as soon as they are known."""
        if self._process is None:
            self._process = self._started()
            self._thread = threading.Thread(target=self._attend, name="labelling page", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the page; requests that are under way are answered first."""
        self._closed.set()
        if self._process is not None and self._thread is not None:
            with suppress(OSError):
                self._process.stdin.close()  # type: ignore[union-attr]  # ends the page
            self._thread.join(PATIENCE_S)
            self._process.kill()

    def _started(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "lightning_pbrl", "label", *self._args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the trainer, with which the page ends
        )

    def _attend(self) -> None:
        """Print what the page says, and start it again when it dies; the body of a thread."""
        for start in range(1, STARTS + 1):
            process = self._process
            assert process is not None and process.stdout is not None  # noqa: S101
            with process:  # closes the pipes
                for line in process.stdout:
                    print(line.rstrip(), flush=True)
            if self._closed.is_set():
                return
            ended = f"The labelling page has ended ({signals.reason(process.returncode)})"
            if process.returncode == REFUSED or start == STARTS:
                cure = f"start it with lightning-pbrl label {self._args[0]}"
                print(f"{ended} and is given up: mend that, and {cure}; the run goes on.", flush=True)
                return
            print(f"{ended} and is started again; no answer is lost.", flush=True)
            self._process = self._started()


def page_beside(serve: bool | int | Mapping[str, Any], run: str | Path) -> PageBeside | None:
    """Return the page that a teacher's setting ``serve`` asks for, not yet started; None if it asks for none.

    Args:
        serve: True, a port, or options of ``lightning-pbrl label`` by name.
        run: run folder.
    """
    if serve is False:
        return None
    if isinstance(serve, Mapping):
        return PageBeside(run, serve)
    return PageBeside(run, {} if serve is True else {"port": serve})


def port_of(run: str | Path) -> int:
    """Return the port of a run folder's page: the same each time, so that links stay right; a free one if it is taken."""
    usual = 20_000 + zlib.crc32(str(Path(run).resolve()).encode()) % 10_000
    for port in (usual, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return int(found.getsockname()[1])
    raise UserError("The labelling page finds no free port on this machine: give one, serve: {port: 8017}.")


def _words(options: Mapping[str, Any]) -> list[str]:
    """Return options by name as words of a command line."""
    words: list[str] = []
    for name, value in options.items():
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        words += [f"--{name}", *(str(each) for each in values)]
    return words
