"""CSV: a header, then one answer per row; the columns are the fields of a line of JSON.

``strategy`` and ``teacher`` are JSON texts, an empty cell is null, ``swapped`` is true or false.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import listed, parse_json, reading, reason
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats.records import PERSONAL, Context, Record, gather, in_words, refused

COLUMNS = (*jsonl.FIELDS, *PERSONAL)
"""Columns in the order in which they are written. Those of :data:`PERSONAL` and of :data:`~lightning_pbrl.data.jsonl.OPTIONAL`
may be missing in a file."""

LONGEST = 2**20
"""Largest number of characters of a cell."""


def read(path: Path, context: Context) -> list[Record]:
    """Read the answers of a file, all checked.

    Raises:
        UserError: naming the first line that is wrong, and how.
    """
    return gather(path, _rows(path), context)


def _rows(path: Path) -> Iterator[tuple[str, Record]]:
    """Yield place and fields of each row."""
    with reading(path, "cannot be read", "give a CSV file in UTF-8 with a header"):
        text = path.read_text(encoding="utf-8-sig")
    before = csv.field_size_limit(LONGEST)
    try:
        found = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = _next(found, path) or []
        missing = [name for name in jsonl.FIELDS if name not in header and name not in jsonl.OPTIONAL]
        unknown = [name for name in header if name not in COLUMNS]
        if missing or unknown or len(set(header)) < len(header):
            fault = f"no column {missing[0]!r}" if missing else f"the columns {listed(unknown or header)}"
            raise UserError(f"{path} has {fault}: name each of {', '.join(COLUMNS)} once in its first line.")
        while (cells := _next(found, path)) is not None:
            place = f"line {found.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise refused(path, place, f"has {len(cells)} cells and the header {len(header)}: write one for each column")
            row: Record = {}
            for name, cell in zip(header, cells, strict=True):
                try:
                    row[name] = _parse(name)(cell) if cell or name in TEXTS else None
                except (ValueError, RecursionError) as error:
                    raise refused(path, place, f"has {name} = {cell!r:.100} ({reason(error)}): write its type") from error
            yield place, row
    finally:
        csv.field_size_limit(before)


def _next(rows: Any, path: Path) -> list[str] | None:
    """Return the cells of the next row; None at the end."""
    try:
        return next(rows, None)
    except csv.Error as error:
        raise refused(path, f"line {rows.line_num}", f"is no row of a CSV file ({reason(error)}): write it again") from error


TEXTS = ("run", "kind", "status", "fingerprint", "time", "answered_by")


def _parse(name: str) -> Callable[[str], Any]:
    """Return the parser of a column's cells."""
    if name in ("strategy", "teacher", "others"):
        return parse_json
    if name == "swapped":
        return lambda cell: {"true": True, "false": False}.get(cell.lower(), cell)
    if name in ("value", "seconds", "strength"):
        return float
    return str if name in TEXTS else int


def write(records: Iterable[Record], path: Path, context: Context) -> None:
    """Write a header and one row per answer; the file appears completely or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        rows = [in_words(row) for row in records]
        columns = [name for name in COLUMNS if name not in jsonl.OPTIONAL or any(name in row for row in rows)]
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row.get(name)) for name in columns])


def _cell(value: Any) -> Any:
    """Return a value as csv writes it: dicts, lists and truth values as JSON."""
    return json.dumps(value) if isinstance(value, dict | list | bool) else value
