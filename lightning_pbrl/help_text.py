"""Help of ``fit`` and its siblings, kept from one call to the next: to make it imports Lightning and every method."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
from contextlib import redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.errors import UserError
from lightning_pbrl.registry import plugins

PACKAGES = ("jsonargparse", "pytorch-lightning", "torch")
"""Distributions whose version the text depends on."""


def show_help(verb: str) -> None:
    """Print ``lightning-pbrl VERB --help``, from ``~/.cache/lightning-pbrl`` where nothing has changed since it was made.

    With plugins, whose text may change unseen, it is made each time.
    """
    if plugins():
        print(_made(verb), end="")
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning-pbrl"
    kept = folder / f"{verb}-{_state()}.txt"
    try:
        text = kept.read_text(encoding="utf-8")
    except OSError:
        text = _made(verb)
        with suppress(OSError, UserError):  # a folder that may not be written to
            for old in folder.glob(f"{verb}-*.txt"):
                old.unlink()
            with replacing(kept) as part:
                part.write_text(text, encoding="utf-8")
    print(text, end="")


def _state() -> str:
    """Return a hash of all that the text depends on: the library's modules, versions, the width of the terminal."""
    files = [os.path.join(at, name) for at, _, names in os.walk(Path(__file__).parent, followlinks=True) for name in names]
    times = [(path, os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in sorted(files) if path.endswith(".py")]
    found = repr([times, sys.version, *map(version, PACKAGES), shutil.get_terminal_size().columns])
    return hashlib.blake2b(found.encode(), digest_size=8).hexdigest()


def _made(verb: str) -> str:
    from lightning_pbrl.train_cli import train_cli

    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
        train_cli([verb, "--help"])
    return text.getvalue()
