"""Lines of JSON: one answer per line, with all fields of the label store and what is known of the person's answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import reading
from lightning_pbrl.labelling.formats.content import listed
from lightning_pbrl.labelling.formats.records import Context, Record, gather, in_words, refused


def read(path: Path, context: Context) -> list[Record]:
    """Read the answers of a file, all checked; empty lines are ignored.

    Raises:
        UserError: naming the first line that is wrong, and how.
    """
    return gather(path, lines(path), context)


def lines(path: Path) -> Iterator[tuple[str, Record]]:
    """Yield place and object of each line that is not empty.

    Raises:
        UserError: for a line that is not one JSON object.
    """
    with reading(path, "cannot be read", "give a text file with one JSON object per line"):
        text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row, problem = jsonl.parse(line)
            if problem:
                raise refused(path, f"line {number}", problem)
            yield f"line {number}", row


def write(records: Iterable[Record], path: Path, context: Context) -> None:
    """Write one line per answer; the file appears completely or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in records:
            content = {"content": listed(row["content"])} if "content" in row else {}
            file.write(json.dumps({**in_words(row), **content}, allow_nan=False) + "\n")
