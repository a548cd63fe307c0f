"""Files of answers, one module per format: ``read(path, context)`` returns checked records, ``write(records, path, context)``.

:data:`FORMATS` is the table of them, and :func:`format_of` finds a format by the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats import json_lines, label_studio, potato, preference_npz, table, uni_rlhf
from lightning_pbrl.labelling.formats.records import Answers, Context, Record

Read = Callable[[Path, Context], list[Record]]
Write = Callable[[Iterable[Record], Path, Context], None]


class Format(NamedTuple):
    """A file format: reader and writer, ending of its files ("" for a folder), description, and the answers that it can hold."""

    read: Read
    write: Write
    ending: str
    about: str
    answers: Answers = "all"


FORMATS: dict[str, Format] = {
    "jsonl": Format(json_lines.read, json_lines.write, ".jsonl", "one answer per line of JSON, with all fields"),
    "csv": Format(table.read, table.write, ".csv", "one answer per row, with all fields"),
    "npz": Format(
        preference_npz.read, preference_npz.write, ".npz", "pairs with their segments (IPL, Preference Transformer)", "label"
    ),
    "uni_rlhf": Format(uni_rlhf.read, uni_rlhf.write, "", "label folder of Uni-RLHF, about rows of D4RL's data", "label"),
    "label_studio": Format(label_studio.read, label_studio.write, ".json", "tasks of Label Studio, JSON", "newest"),
    "potato": Format(potato.read, potato.write, ".potato.jsonl", "items and answers of Potato's pairwise scheme"),
}
"""Formats by name."""


def format_of(path: Path, name: str | None = None) -> Format:
    """Return the format ``name``, or the one that the path tells.

    Raises:
        UserError: if there is none.
    """
    if name is not None and name not in FORMATS:
        raise UserError(f"There is no format {name!r}: give one of {', '.join(FORMATS)}.")
    if name is not None:
        return FORMATS[name]
    if path.is_dir() or path.name.endswith("_human_labels"):
        return FORMATS["uni_rlhf"]
    found = [each for each in FORMATS.values() if each.ending and path.name.endswith(each.ending)]
    if not found:
        raise UserError(f"{path} does not tell its format: add --format with one of {', '.join(FORMATS)}.")
    return max(found, key=lambda each: len(each.ending))
