"""Tasks of Label Studio with a Pairwise or a Rating tag, in its JSON format (not JSON-MIN).

``write`` makes tasks to import in Label Studio: ``data`` holds the clips (``clip_0``, ``clip_1``) and the question, which comes
back in the export. A labelling configuration for pairs::

    <View>
      <Pairwise name="preference" toName="left,right"/>
      <Video name="left" value="$clip_0"/> <Video name="right" value="$clip_1"/>
      <Choices name="equal" toName="left" choice="single"><Choice value="equal"/><Choice value="cannot tell"/></Choices>
    </View>

and for ratings ``<Rating name="rating" toName="clip" maxRating="10"/>``. Its stars count from 1, ratings here from 0. A task that
the annotator has skipped, or called "cannot tell", is skipped. A task without annotations is pending.

Source: labelstud.io/guide/task_format, labelstud.io/tags/pairwise (Label Studio 1.23).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.guard import parse_json, reading
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats.records import ANSWER, Context, Record, gather, key_of, questions_of, refused, told

ASKED = [name for name in jsonl.FIELDS if name not in ANSWER]


def read(path: Path, context: Context) -> list[Record]:
    """Read the answers of all annotators, all checked.

    Raises:
        UserError: naming the first task that is wrong, and how.
    """
    with reading(path, "is not the JSON of Label Studio", "export the project as JSON"):
        tasks = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(tasks, list):
        raise UserError(f"{path} holds a {type(tasks).__name__} in place of a list of tasks: export the project as JSON.")
    return gather(path, _answers(path, tasks), context)


def _answers(path: Path, tasks: list[Any]) -> Iterator[tuple[str, Record]]:
    """Yield place and record of each annotation, and of each task without one."""
    for at, task in enumerate(tasks, start=1):
        place = f"task {at}"
        data = task.get("data") if isinstance(task, dict) else None
        question = data.get("question") if isinstance(data, dict) else None
        if not isinstance(question, dict):
            raise refused(
                path, place, "has no data.question: label tasks that were exported from here, and export JSON, not JSON-MIN"
            )
        asked = {name: question[name] for name in ASKED if name in question}
        annotations = task.get("annotations", [])
        if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
            raise refused(path, place, "has annotations that are no list of objects: export the project as JSON")
        given = [(number, each) for number, each in enumerate(annotations, start=1)]
        answers = [(f"{place} annotation {number}", _answer(path, place, number, each)) for number, each in given]
        definite = [(where, answer) for where, answer in answers if answer is not None]
        for where, answer in definite:
            yield where, {**asked, **answer}
        if not definite:
            nobody = {name: question.get(name) for name in ("time", "answered_by")}
            yield place, {**asked, **nobody, "value": None, "status": "pending"}


def _answer(path: Path, place: str, number: int, annotation: Mapping[str, Any]) -> Record | None:
    """Return the answer of an annotation; None for one that says nothing."""
    person = annotation.get("completed_by")
    if isinstance(person, dict):
        person = person.get("email") or person.get("id")
    answer: Record = {
        "answered_by": person if isinstance(person, str) else f"label_studio:{person}",
        "time": annotation.get("created_at"),
        "seconds": annotation.get("lead_time"),
        "swapped": False,
    }
    if annotation.get("was_cancelled"):
        return {**answer, "value": None, "status": "skipped"}
    found: list[tuple[float | None, str]] = []
    results = annotation.get("result")
    for result in results if isinstance(results, list) else [None]:
        kind = result.get("type") if isinstance(result, dict) else None
        value = result.get("value") if isinstance(result, dict) else None
        content = value.get({"pairwise": "selected"}.get(str(kind), str(kind))) if isinstance(value, dict) else None
        meaning = _meaning(str(kind), content)
        if meaning is None:
            raise refused(
                path,
                f"{place} annotation {number}",
                f"has the result {result!r:.200}: use Pairwise, Rating, or Choices of {CHOICES}",
            )
        found.append(meaning)
    definite = sorted({each for each in found if each[1]}, key=str)
    if len(definite) > 1:
        raise refused(
            path, f"{place} annotation {number}", f"says {' and '.join(each[1] for each in definite)} at once: keep one"
        )
    return {**answer, "value": definite[0][0], "status": definite[0][1]} if definite else None


CHOICES = "'equal' and 'cannot tell'"
MEANINGS: dict[tuple[str, str], tuple[float | None, str]] = {
    ("pairwise", "left"): (0.0, "answered"),
    ("pairwise", "right"): (1.0, "answered"),
    ("pairwise", "none"): (None, ""),
    ("choices", "['equal']"): (0.5, "equal"),
    ("choices", "['cannot tell']"): (None, "skipped"),
}


def _meaning(kind: str, content: Any) -> tuple[float | None, str] | None:
    """Return value and status of a result; None for one that is none of ours."""
    if kind == "rating" and isinstance(content, int) and not isinstance(content, bool) and content >= 1:
        return float(content - 1), "answered"
    return MEANINGS.get((kind, str(content)))


def write(records: Iterable[Record], path: Path, context: Context) -> None:
    """Write one task per question, answered or not; the file appears completely or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    tasks = []
    rows = list(records)
    last = {key_of(row): row for row in rows}
    for number, (question, answers) in enumerate(questions_of(rows), start=1):
        key = key_of(question)
        if question["kind"] not in ("pair", "rating"):
            raise UserError(
                f"{path} holds pairs and ratings, and question {told(key)} is of kind {question['kind']!r}: export it as .jsonl "
                "or .csv."
            )
        clips = {f"clip_{i}": f"{context.media}{told(key)}/{i}.mp4" for i in range(1 + (question["kind"] == "pair"))}
        nobody = {name: last[key][name] for name in ("time", "answered_by")}
        annotations = [_annotation(row) for row in answers]
        tasks.append({"id": number, "data": {**clips, "question": {**question, **nobody}}, "annotations": annotations})
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(tasks, file, allow_nan=False, indent=1)


def _annotation(row: Record) -> dict[str, Any]:
    """Return an answer as Label Studio tells it."""
    result: dict[str, Any] = {"from_name": "preference", "to_name": "left,right", "type": "pairwise"}
    if row["status"] == Status.EQUAL:
        result |= {"from_name": "equal", "to_name": "left", "type": "choices", "value": {"choices": ["equal"]}}
    elif row["kind"] == "rating":
        star = None if row["value"] is None else int(row["value"]) + 1
        if row["value"] is not None and star != row["value"] + 1:
            raise UserError(
                f"Question {told(key_of(row))} has the rating {row['value']}, which is no whole number: leave it out."
            )
        result |= {"from_name": "rating", "to_name": "clip", "type": "rating", "value": {"rating": star}}
    else:
        result["value"] = {"selected": "right" if row["value"] == 1 else "left"}
    skipped = row["status"] == Status.SKIPPED
    return {
        "completed_by": {"email": row["answered_by"]},
        "was_cancelled": skipped,
        "created_at": row["time"],
        "lead_time": row.get("seconds"),
        "result": [] if skipped else [result],
    }
