"""Items and answers of Potato's pairwise scheme, as lines of JSON.

``write`` makes items to label: ``id`` is the question's name (``run/round/number``), ``items`` the two clips, for the scheme ::

    annotation_schemes: [{annotation_type: pairwise, name: preference, items_key: items, allow_tie: true, description: ...}]

``read`` takes the lines of Potato's export (``python -m potato.export --format jsonl``), one per item and person::

    {"instance_id": "seed0/0/12", "user_id": "Ada", "labels": {"preference": {"selection": "A"}}}

These hold the answer alone, so the questions must be in the label store. "A" is the first segment, "B" the second, and "tie" is
equal. In scale mode a negative number prefers the first and 0 is equal; its size, relative to the largest of the file, is the
strength. Potato has no "cannot tell". A line of ``write`` also carries the whole record, which is read first: files made here
need no store, and can hold ratings and skipped questions.

Source: Potato 2.12, docs/annotation-types/comparison/pairwise_annotation.md and docs/data-export/export_formats.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.guard import reading
from lightning_pbrl.labelling.formats.json_lines import lines
from lightning_pbrl.labelling.formats.records import (
    ANSWER,
    Context,
    Record,
    gather,
    in_words,
    key_of,
    parse_key,
    questions_of,
    refused,
    told,
)

SELECTIONS: dict[str, tuple[float, str]] = {"A": (0.0, "answered"), "B": (1.0, "answered"), "tie": (0.5, "equal")}


def read(path: Path, context: Context) -> list[Record]:
    """Read the answers of all annotators, all checked.

    Raises:
        UserError: naming the first line that is wrong, and how.
    """
    return gather(path, _answers(path, context), context)


def _answers(path: Path, context: Context) -> Iterator[tuple[str, Record]]:
    """Yield place and record of each line."""
    found = list(lines(path))
    largest = max((abs(size) for _, line in found if (size := _scale(line)) is not None), default=0.0) or 1.0
    with reading(path, "cannot be read", "give the export of Potato"):
        time = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
    for place, line in found:
        record = line.get("record")
        if isinstance(record, dict):
            yield place, record
            continue
        name, person = line.get("instance_id", line.get("id")), line.get("user_id")
        key = parse_key(name) if isinstance(name, str) else None
        if key is None or not isinstance(person, str):
            raise refused(path, place, "has no instance_id such as run/0/12, or no user_id: give the export of items made here")
        question = context.questions.get(key)
        if question is None:
            raise refused(
                path, place, f"answers {name!r:.200}, which the label store does not hold: give the store it was asked from"
            )
        value, status, strength = _meaning(path, place, line, largest)
        asked = {field: question.get(field) for field in jsonl.FIELDS if field not in ANSWER}
        given = {"value": value, "status": status, "time": time, "answered_by": person, "swapped": False, "strength": strength}
        yield place, {**asked, **given}


def _chosen(line: Record) -> dict[str, Any] | None:
    """Return the answer to the pairwise scheme: the one scheme with a selection or a number on a scale."""
    labels = line.get("labels")
    schemes = list(labels.values()) if isinstance(labels, dict) else []
    found = [each for each in schemes if isinstance(each, dict) and {"selection", "scale_value"} & set(each)]
    return found[0] if len(found) == 1 else None


def _scale(line: Record) -> float | None:
    """Return the number on a scale, if there is one."""
    try:
        return float((_chosen(line) or {})["scale_value"])
    except (KeyError, TypeError, ValueError):
        return None


def _meaning(path: Path, place: str, line: Record, largest: float) -> tuple[float, str, float | None]:
    """Return value, status and strength of a line."""
    chosen, size = _chosen(line) or {}, _scale(line)
    if size is not None and size == size:
        return (0.5, "equal", None) if size == 0 else (float(size > 0), "answered", min(abs(size) / largest, 1.0))
    selection = chosen.get("selection")
    if not isinstance(selection, str) or selection not in SELECTIONS:
        raise refused(
            path, place, f"has the labels {line.get('labels')!r:.200}: give one pairwise scheme with selection A, B or tie"
        )
    return (*SELECTIONS[selection], None)


def write(records: Iterable[Record], path: Path, context: Context) -> None:
    """Write one item per open question and one line per answer; the file appears completely or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    rows = list(records)
    pending = {key_of(row): row for row in rows if row["status"] == Status.PENDING}
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for question, answers in questions_of(rows):
            key = key_of(question)
            item: dict[str, Any] = {"id": told(key)}
            if question["kind"] == "pair":
                item["items"] = [f"{context.media}{told(key)}/{clip}.mp4" for clip in (0, 1)]
            for row in answers or [pending[key]]:
                file.write(json.dumps({**item, **_labels(row), "record": in_words(row)}, allow_nan=False) + "\n")


def _labels(row: Record) -> dict[str, Any]:
    """Return the answer to a pair as Potato tells it; nothing for any other question."""
    for selection, (value, status) in SELECTIONS.items():
        if row["kind"] == "pair" and (value, status) == (row["value"], Status(row["status"]).name.lower()):
            return {"user_id": row["answered_by"], "labels": {"preference": {"selection": selection}}}
    return {}
