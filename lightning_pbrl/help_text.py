"""Help of ``fit`` and its siblings, kept: to make it imports Lightning and every method.

The text of ``fit`` is shipped, for the versions that it was made with: ``python -m lightning_pbrl.help_text`` writes it anew.
Other texts are kept from one call to the next.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path

from lightning_pbrl.catalogue import catalogue
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.errors import UserError
from lightning_pbrl.registry import plugins

PACKAGES = ("jsonargparse", "pytorch-lightning", "torch")
"""Distributions whose version the text depends on."""
HERE = Path(__file__).parent
SHIPPED = HERE / "help_fit.txt"
"""Key of what the text depends on, then the help of ``fit`` in lines of any length."""
KINDS = ("methods", "teachers", "queries", "data")
"""Kinds whose classes the text names."""
SOURCES = ("train_cli.py", "trainer.py", "fitting/lightning_glue.py", "callbacks/*.py")
"""Modules whose arguments and docstrings the text shows."""
COLUMN = 24
"""Column at which argparse begins the text of an option."""
NARROWEST = 60
"""Width of a terminal below which argparse sets the text elsewhere."""


def show_help(verb: str) -> None:
    """Print ``lightning-pbrl VERB --help``: as shipped, or from ``~/.cache/lightning-pbrl`` where nothing has changed since.

    With plugins, whose text may change unseen, it is made each time.
    """
    if plugins():
        print(_made(verb), end="")
        return
    columns = shutil.get_terminal_size().columns
    key, _, text = SHIPPED.read_text(encoding="utf-8").partition("\n")
    if verb == "fit" and columns >= NARROWEST and key == shipped_for():
        print(wrapped(text, columns), end="")
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


def shipped_for() -> str:
    """Return a key of what the shipped text depends on: versions, the names of classes, the content of a few modules."""
    sources = [path.read_text(encoding="utf-8") for each in SOURCES for path in sorted(HERE.glob(each))]
    names = [sorted(catalogue(kind)) for kind in KINDS]
    return _hash([sources, names, sys.version_info[:2], *map(version, PACKAGES)])


def wrapped(text: str, columns: int) -> str:
    """Wrap a help whose lines have any length as argparse does.

    Args:
        text: the help, as made for a terminal of endless width.
        columns: width of the terminal, at least :data:`NARROWEST`.
    """
    return "\n".join(line for long in text.splitlines() for line in _lines(long, columns - 2)) + "\n"


def _lines(line: str, width: int) -> Iterator[str]:
    indent = " " * COLUMN
    if line.startswith("usage: "):
        yield from _usage(line, width)
    elif line.startswith(indent):
        yield from textwrap.wrap(line[COLUMN:], width, initial_indent=indent, subsequent_indent=indent)
    elif line.startswith("  -") and len(line) > COLUMN and line[COLUMN - 2 : COLUMN] == "  ":  # a short option
        yield from textwrap.wrap(line[COLUMN:], width, initial_indent=line[:COLUMN], subsequent_indent=indent)
    elif line.startswith("  ") or line.endswith(":"):  # an option, a link, a title
        yield line
    else:
        yield from textwrap.wrap(line, width) or [""]


def _usage(line: str, width: int) -> Iterator[str]:
    """Wrap the line of all options below the name of the program, which ends with the verb."""
    program, first, rest = line.partition(" [-")
    indent = " " * (len(program) + 1)
    taken = program
    for part in re.findall(r"\[.*?\]+(?=\s|$)|\S+", f"{first}{rest}"):
        if len(taken) + 1 + len(part) > width and taken != indent:
            yield taken
            taken = indent
        taken = f"{taken}{part}" if taken == indent else f"{taken} {part}"
    yield taken


def _state() -> str:
    """Return a hash of all that the text depends on: the library's modules, versions, the width of the terminal."""
    files = [os.path.join(at, name) for at, _, names in os.walk(HERE, followlinks=True) for name in names]
    times = [(path, os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in sorted(files) if path.endswith(".py")]
    return _hash([times, sys.version, *map(version, PACKAGES), shutil.get_terminal_size().columns])


def _hash(what: object) -> str:
    return hashlib.blake2b(repr(what).encode(), digest_size=8).hexdigest()


def _made(verb: str) -> str:
    from lightning_pbrl.train_cli import train_cli

    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
        train_cli([verb, "--help"])
    return text.getvalue()


def write_shipped() -> None:
    """Write the text that is shipped."""
    os.environ["COLUMNS"] = "100000"
    SHIPPED.write_text(f"{shipped_for()}\n{_made('fit')}", encoding="utf-8")


if __name__ == "__main__":
    write_shipped()
