"""One guard around everything that parses a file: whatever the parser raises becomes a sentence with file, reason and cure.

The parsers of damaged files (h5py, zipfile, numpy, pickle, json, yaml, safetensors, SQLite) fail in dozens of ways, most of
them undocumented. The guard therefore takes every exception, and stands around calls of parsers only: an error of this
library's own code beside them keeps its traceback.
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
"""Arrays up to this size in memory are read however well they are compressed."""
RATIO = 100
"""How many times larger in memory than on disk a larger array may be: real recordings stay below 20."""


@contextmanager
def reading(where: str | Path, what: str, cure: str) -> Iterator[None]:
    """Turn what a parser raises into one sentence, the parser's error being its cause.

    Args:
        where: the file, and the part of it that is read.
        what: what is wrong with it then, for instance "is truncated or not an .npz file".
        cure: what its owner can do.

    Raises:
        UserError: for any exception of the block; one that is a sentence already passes as it is.
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
    """What a parser says, as part of a sentence: one printable line of at most 200 characters."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    line = re.sub(r"[^ -~]", "?", " ".join(str(error).split())).rstrip(".:")
    line = line if len(line) <= 200 else f"{line[:197]}..."
    return f"{type(error).__name__}: {line}" if isinstance(error, LookupError) else line or type(error).__name__


def listed(names: Iterable[Any], most: int = 20) -> str:
    """Names that a file has, as part of a sentence: printable, the first ``most`` of them, "nothing" for none."""
    texts = [name if (name := str(each)).isprintable() else ascii(name) for each in names]
    return ", ".join(texts[:most]) + (", ..." if len(texts) > most else "") or "nothing"


def declared(size: int, stored: int, where: str, cure: str) -> None:
    """Check the size that a file declares for a compressed array, before memory is taken for it.

    Args:
        size: bytes in memory.
        stored: bytes in the file.
        where: the file and the key.
        cure: what its owner can do.

    Raises:
        UserError: when ``size`` is more than :data:`FREE` bytes and more than :data:`RATIO` times ``stored``.
    """
    if size > max(FREE, RATIO * stored):
        raise UserError(f"{where} declares {size:,} bytes and the file holds {stored:,} for it: {cure}.")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, for use within :func:`reading`.

    Raises:
        ValueError: when it is not JSON, or an object names a key twice; :class:`RecursionError` for one that is too deep.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is named twice")
    return found
