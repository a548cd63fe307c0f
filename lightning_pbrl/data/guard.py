"""Guard around parsers of files: any exception becomes a sentence with file, reason and cure.

The parsers of damaged files (h5py, zipfile, numpy, pickle, json, yaml, safetensors, SQLite) fail in dozens of ways, most of them
undocumented. The guard therefore catches every exception, and surrounds calls of parsers only. An error of this library's own
code beside them keeps its traceback.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_pbrl.errors import UserError

MIB = 2**20
FREE = 256 * MIB
"""Arrays up to this size in memory are read, whatever their compression."""
RATIO = 100
"""Largest ratio of the size in memory to that on disk for larger arrays; real recordings stay below 20."""


@contextmanager
def reading(where: str | Path, what: str, cure: str) -> Iterator[None]:
    """Turn an exception of a parser into one sentence, with the parser's error as its cause.

    Args:
        where: the file, and the part of it that is read.
        what: the diagnosis, for instance "is truncated or not an .npz file".
        cure: advice to the file's owner.

    Raises:
        UserError: for any exception of the block; a :class:`UserError` passes unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"There is no file {where}: check the path.") from error
    except MemoryError as error:
        raise UserError(f"{where} needs more memory than there is ({reason(error)}): free some memory, or {cure}.") from error
    except Exception as error:
        raise UserError(f"{where} {what} ({reason(error)}): {cure}.") from error


def reason(error: BaseException) -> str:
    """Return a parser's message as part of a sentence: one printable line of at most 200 characters."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    line = re.sub(r"[^ -~]", "?", " ".join(str(error).split())).rstrip(".:")
    line = line if len(line) <= 200 else f"{line[:197]}..."
    return f"{type(error).__name__}: {line}" if isinstance(error, LookupError) else line or type(error).__name__


def listed(names: Iterable[Any], most: int = 20) -> str:
    """List names in a file as part of a sentence: printable, the first ``most`` of them, "nothing" for none."""
    texts = [name if (name := str(each)).isprintable() else ascii(name) for each in names]
    return ", ".join(texts[:most]) + (", ..." if len(texts) > most else "") or "nothing"


def declared(size: int, stored: int, where: str, cure: str) -> None:
    """Check the size that a file declares for a compressed array, before memory is allocated for it.

    Args:
        size: number of bytes in memory.
        stored: number of bytes in the file.
        where: the file and the key.
        cure: advice to the file's owner.

    Raises:
        UserError: if ``size`` is more than :data:`FREE` bytes and more than :data:`RATIO` times ``stored``.
    """
    if size > max(FREE, RATIO * stored):
        raise UserError(f"{where} declares {size:,} bytes and the file holds {stored:,} for it: {cure}.")


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text, for use within :func:`reading`.

    Raises:
        ValueError: if it is not JSON, or an object has a key twice; :class:`RecursionError` if it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object whose keys must be distinct."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is named twice")
    return found
