"""Records, one per answer, as every file format reads and writes them.

A record has the fields of a line of JSON (:data:`~lightning_pbrl.data.jsonl.FIELDS`), with ``status`` as a number, what is known
of the person's answer (:data:`PERSONAL`), and ``content`` where the segments come with it
(:mod:`~lightning_pbrl.labelling.formats.content`). Several persons may answer one question: their records share run, round and
number and differ in ``answered_by``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.feedback import Kind, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats.content import parsed

Record = dict[str, Any]
"""Fields of one answer by name."""

Key = tuple[str, int, int]
"""Name of a question: run, round, number."""

PERSONAL: dict[str, tuple[type, ...]] = {
    "seconds": (int, float, type(None)),
    "strength": (int, float, type(None)),
    "swapped": (bool, type(None)),
    "revision": (int, type(None)),
}
"""Optional fields: seconds spent, strength of the preference in [0, 1], True if the second segment was on the left, and 0 for a
person's first answer to the question, 1 for the one that replaced it, and so on."""

Answers = Literal["label", "newest", "all"]
"""Answers of a question that a file can hold: its label alone, the newest of each person, or all with their revisions."""

ANSWER = ("value", "status", "time", "answered_by", *PERSONAL)
"""Fields of the answer; the others are of the question."""


class Given(NamedTuple):
    """One person's answer to one question.

    Attributes:
        key: run, round and number of the question.
        kind: "pair", "rating", or another of :mod:`lightning_pbrl.data.kinds`.
        person: name of who answered.
        value: of the answer, in the stored order of the segments; None where it was skipped.
        status: answered, equal or skipped.
        seconds: time spent; None where it is not known.
        swapped: True if the second segment was on the left; None where it is not known.
    """

    key: Key
    kind: Kind
    person: str
    value: float | None
    status: Status
    seconds: float | None = None
    swapped: bool | None = None


class Context(NamedTuple):
    """Information besides the file that a format may need.

    Attributes:
        fingerprint: of the data set that all records must be about; None takes that of the first record.
        questions: questions of the store, for files that hold answers alone.
        source: the data, for files that name or hold segments in a way of their own.
        run: name of the run for questions that have none.
        media: text before the names of the clips, such as a URL, in files of labelling tools.
    """

    fingerprint: str | None = None
    questions: Mapping[Key, Mapping[str, Any]] = {}
    source: Transitions | None = None
    run: str = "imported"
    media: str = ""


def key_of(row: Mapping[str, Any]) -> Key:
    """Return the name of the question of a record."""
    return row["run"], row["round"], row["number"]


def told(key: Key) -> str:
    """Return the name of a question as a text, ``run/round/number``."""
    return "/".join(map(str, key))


def parse_key(text: str) -> Key | None:
    """Return the name of a question from a text that :func:`told` has made; None for any other text."""
    run, *rest = text.rsplit("/", 2)
    return (run, int(rest[0]), int(rest[1])) if len(rest) == 2 and all(n.isascii() and n.isdecimal() for n in rest) else None


def refused(path: str | Path, place: str, problem: str) -> UserError:
    """Return the error of one entry of a file."""
    return UserError(f"{path} {place} {problem}; nothing was imported.")


def gather(path: str | Path, entries: Iterable[tuple[str, Record]], context: Context) -> list[Record]:
    """Check all entries of a file and return them.

    Args:
        path: the file.
        entries: place in the file ("line 3") and record, with ``status`` as a word.
        context: the data set that the records must be about.

    Raises:
        UserError: for the first wrong or repeated entry, and for a file without any.
    """
    found: list[Record] = []
    fingerprint, seen = context.fingerprint, set()
    for place, entry in entries:
        row = dict(entry)
        personal, held = {name: row.pop(name, None) for name in PERSONAL}, row.pop("content", None)
        if fingerprint is None and isinstance(row.get("fingerprint"), str):
            fingerprint = row["fingerprint"]
        problem = jsonl.complete(row, fingerprint or "") or _personal(personal)
        content = None if problem or held is None else parsed(held, row)
        problem = content if isinstance(content, str) else problem
        name = None if problem else (*key_of(row), row["answered_by"], personal["revision"] or 0)
        if not problem and name in seen:
            problem = "has the question and the person of an earlier entry: keep one of them"
        if problem:
            raise refused(path, place, problem)
        seen.add(name)
        found.append({**row, **personal, **({} if content is None else {"content": content})})
    if not found:
        raise UserError(f"{path} holds no answer: give a file with at least one.")
    return found


def questions_of(records: Iterable[Record]) -> Iterator[tuple[Record, list[Record]]]:
    """Yield each question, with the answers to it; the records of one question agree in what was asked.

    Raises:
        UserError: when they do not.
    """
    grouped: dict[Key, list[Record]] = {}
    for row in records:
        grouped.setdefault(key_of(row), []).append(row)
    for key, rows in grouped.items():
        first = {name: rows[0].get(name) for name in jsonl.FIELDS if name not in ANSWER}
        for row in rows[1:]:
            if other := [
                name for name in ("kind", "length", "start_0", "start_1", "others", "fingerprint") if row.get(name) != first[name]
            ]:
                raise UserError(
                    f"Question {told(key)} is there twice with another {other[0]}: give each question its own number."
                )
        yield first, [row for row in rows if row["status"] != Status.PENDING]


def in_words(row: Mapping[str, Any]) -> Record:
    """Return a record as it is written: ``status`` as a word, optional fields where they are known."""
    return {**jsonl.in_words(row), **{name: row[name] for name in PERSONAL if row.get(name) is not None}}


def _personal(fields: Mapping[str, Any]) -> str | None:
    """Return the error of the optional fields as the tail of a sentence; None if there is none."""
    for name, types in PERSONAL.items():
        value = fields[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = "true or false" if bool in types else "a number" if float in types else "a whole number"
            return f"has {name} = {value!r:.200}: write {wanted}, or leave it out"
    for name, high in (("seconds", math.inf), ("strength", 1), ("revision", math.inf)):
        value = fields[name]
        if value is not None and not (0 <= value <= high and value <= (jsonl.LARGEST if name != "revision" else 2**31 - 1)):
            return f"has {name} = {value}: write a number from 0{' to 1' if high == 1 else ''}, or leave it out"
    return None
