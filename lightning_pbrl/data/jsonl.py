"""Label records as lines of JSON, to exchange, read and put under version control.

There is one question per line with all fields of the label store. ``status`` is a word and ``value`` is null if there is none.
Every line is checked before any is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pbrl.data import kinds
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.guard import parse_json, reading, reason
from lightning_pbrl.errors import UserError

FIELDS: dict[str, tuple[type, ...]] = {
    "run": (str,),
    "round": (int,),
    "number": (int,),
    "kind": (str,),
    "length": (int,),
    "start_0": (int,),
    "start_1": (int, type(None)),
    "others": (list, type(None)),
    "value": (int, float, type(None)),
    "status": (int,),
    "strategy": (dict,),
    "teacher": (dict,),
    "seed": (int,),
    "fingerprint": (str,),
    "time": (str,),
    "answered_by": (str,),
}
"""Fields of a record and the types each may have; in a file, ``status`` is a word."""

OPTIONAL: dict[str, Any] = {"others": None}
"""Fields that a file may leave out, with what they are then; they are written where they say something else."""

LARGEST = 3.4028234663852886e38
"""Largest number of float32, the type in which learners read values."""


def starts(row: Mapping[str, Any]) -> list[int]:
    """Return the row ids at which the segments of a question begin."""
    return [start for start in (row["start_0"], row["start_1"], *(row.get("others") or ())) if start is not None]


def contradiction(row: Mapping[str, Any]) -> str | None:
    """Return the contradiction in an answer as the tail of a sentence; None if value, status and kind agree.

    The one convention: a pair is 0 or 1 if answered, 0.5 if equal; skipped and pending carry no value. Other kinds say their own
    (:mod:`lightning_pbrl.data.kinds`).
    """
    name, status, value = row["kind"], Status(row["status"]), row["value"]
    if kinds.base_of(name) not in kinds.REGISTRY or (":" in name and not kinds.axis_of(name)) or len(name) > 64:
        return f"has kind {name!r:.200}: write one of {', '.join(kinds.REGISTRY)}, perhaps with an axis as pair:safety"
    kind, segments = kinds.of(name), starts(row)
    if not kind.about(len(segments)) or (row["start_1"] is None and row.get("others")):
        wanted = {1: "one", 2: "two", None: "two to ten"}[kind.clips]
        return f"is a {name} about {len(segments)} segment(s): a {kind.name} has {wanted}"
    if row["length"] < 1 or min(*segments, row["round"], row["number"]) < 0:
        return "has a negative start, round or number, or a length below 1: write what was asked"
    if any(not -(2**63) <= each < 2**63 for each in (*segments, *(row[name] for name in ("round", "number", "length", "seed")))):
        return "has a number that is too large: write what was asked"
    if status in (Status.SKIPPED, Status.PENDING):
        return None if value is None else f"is {status.name.lower()} and has value {value}: leave the value out"
    if value is None or value != value:  # the latter: NaN
        return f"is {status.name.lower()} and has no value: give one, or set the status to skipped"
    if abs(value) > LARGEST:
        return f"is {status.name.lower()} and has a value beyond float32: write what was answered"
    if not kind.takes(value, len(segments)):
        return f"has value {value}: a {kind.name}'s label is {kind.values}"
    if kind.clips == 2 and (status == Status.EQUAL) != kind.is_equal(value):
        return f"is {status.name.lower()} and has value {value}: 0.5 goes with equal, every other value with answered"
    if status == Status.EQUAL and not kind.is_equal(value):
        return f"is a {kind.name} with status equal: only pairs can be equal"
    return None


def itself(row: Mapping[str, Any]) -> str | None:
    """Return the error of a question that compares a segment with itself, as the tail of a sentence; None for any other."""
    segments = starts(row)
    twice = next((start for place, start in enumerate(segments) if start in segments[:place]), None)
    return None if twice is None else f"compares the segment from row {twice} with itself: leave it out"


def conflict(old: Mapping[str, Any], row: Mapping[str, Any]) -> str | None:
    """Return the conflict of a record with the stored record of its name, as the tail of a sentence; None if there is none.

    An answer to a pending question is no conflict. Neither is the same answer again (as after a crash), nor asking again.
    """
    if any(old.get(part) != row.get(part) for part in ("kind", "length", "start_0", "start_1", "others")):
        return "was asked about other segments: answer the stored question, or start a new run name"
    if Status.PENDING in (old["status"], row["status"]):
        return None
    if old["status"] == row["status"] and _float32(old["value"]) == _float32(row["value"]):
        return None
    return (
        f"has the answer {_told(old)} of {old['answered_by']} and is now answered {_told(row)} by {row['answered_by']}: leave "
        "the second answer out, or export the labels, correct them there and import them into a new store"
    )


def _float32(value: float | None) -> float | None:
    """Round a value to float32, as learners read it."""
    return None if value is None else float(np.float32(value))


def _told(row: Mapping[str, Any]) -> str:
    """Describe an answer: its value, or the status if there is none."""
    return Status(row["status"]).name.lower() if row["value"] is None else f"{row['value']:g}"


def write(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write records, one line each; the file appears completely or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(in_words(row), allow_nan=False) + "\n")


def in_words(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as it is written: ``status`` as a word, without optional fields that say nothing."""
    said = {name: row[name] for name in FIELDS if name not in OPTIONAL or row.get(name) != OPTIONAL[name]}
    return {**said, "status": Status(row["status"]).name.lower()}


def read(path: str | Path, fingerprint: str) -> list[dict[str, Any]]:
    """Read the records of a file, all checked; ``status`` as a number.

    Args:
        path: the file; empty lines are ignored.
        fingerprint: fingerprint of the data set that every record must refer to.

    Raises:
        UserError: naming the first line that is wrong, and how.
    """
    rows, seen = [], set()
    with reading(path, "cannot be read", "give a file of label records, one JSON object per line"):
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row, problem = _record(line, fingerprint)
        name = (row.get("run"), row.get("round"), row.get("number"))
        if not problem and name in seen:
            problem = "has the run, round and number of an earlier line: keep one of them"
        if problem:
            raise UserError(f"{path} line {number} {problem}; nothing was imported.")
        seen.add(name)
        rows.append(row)
    if not rows:
        raise UserError(f"{path} holds no record: give a file of label records, one JSON object per line.")
    return rows


def _unstorable(value: str | dict[str, Any]) -> str | None:
    """Return the reason why a text or a description cannot be stored by every database and written out again; None if it can."""
    try:
        written = json.dumps(value, allow_nan=False)
    except ValueError:
        return "NaN or infinity: write a number, a text or null"
    return "a character of code 0: leave it out" if "\\u0000" in written else None


def _record(line: str, fingerprint: str) -> tuple[dict[str, Any], str | None]:
    """Parse one line into a row of the store, with its error if there is one."""
    row, problem = parse(line)
    return row, problem or complete(row, fingerprint)


def parse(line: str) -> tuple[dict[str, Any], str | None]:
    """Parse one line into an object, with its error if there is one."""
    try:
        row = parse_json(line)
        json.dumps(row, ensure_ascii=False).encode()  # half a character, as \\ud800, cannot be stored
    except (ValueError, RecursionError) as error:
        return {}, f"is not JSON ({reason(error)}): write one JSON object per line"
    if not isinstance(row, dict):
        return {}, f"holds a {type(row).__name__}: write one JSON object per line"
    return row, None


def complete(row: dict[str, Any], fingerprint: str) -> str | None:
    """Return the error of a record as the tail of a sentence, None if there is none; its status becomes a number."""
    row |= {name: value for name, value in OPTIONAL.items() if name not in row}
    for name in FIELDS:
        if name not in row:
            return f"has no field {name!r}: add it"
    unknown = sorted(set(row) - set(FIELDS))
    if unknown:
        return f"has an unknown field {unknown[0]!r}: known are {', '.join(FIELDS)}"
    if not isinstance(row["status"], str) or row["status"].upper() not in Status.__members__:
        return f"has status {row['status']!r:.200}: write one of {', '.join(s.name.lower() for s in Status)}"
    row["status"] = int(Status[row["status"].upper()])
    problem = wrong_type(row)
    if not problem and row["fingerprint"] != fingerprint:
        problem = f"is about the data set {row['fingerprint']} and the store about {fingerprint}: import it elsewhere"
    return problem or itself(row) or contradiction(row)


def wrong_type(row: Mapping[str, Any]) -> str | None:
    """Return the error of a field of a full record, as the tail of a sentence; None if each can be stored and read again.

    ``status`` is a number here.
    """
    for name, types in FIELDS.items():
        if not isinstance(row[name], types) or isinstance(row[name], bool):
            allowed = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            return f"has {name} = {row[name]!r:.200}: write {allowed}"
        if isinstance(row[name], str | dict) and (problem := _unstorable(row[name])):
            return f"has {name} with {problem}"
    if any(not isinstance(each, int) or isinstance(each, bool) for each in row["others"] or ()):
        return "has others with something else than row ids: write whole numbers"
    try:
        datetime.fromisoformat(row["time"])
    except ValueError:
        return f"has time {row['time']!r:.200}: write it as 2025-01-31T12:00:00+00:00"
    if row["status"] not in list(Status):
        return f"has status {row['status']}: write one of {', '.join(str(int(s)) for s in Status)}"
    return None
