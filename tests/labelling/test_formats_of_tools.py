"""Label Studio and Potato: samples written by hand as these tools write them, and one sentence for each fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from labelled_records import read, record

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats import FORMATS
from lightning_pbrl.labelling.formats.records import Context, key_of

# Label Studio ------------------------------------------------------------------------------------------------------------


def task(result: list, **annotation: object) -> list[dict]:
    """One task as Label Studio exports it, with two annotations, the second by the person 10."""
    question = {
        name: value
        for name, value in record(3).items()
        if name not in ("value", "status", "seconds", "strength", "swapped", "revision")
    }
    shared = {"created_at": "2021-03-09T22:16:08.728353Z", "lead_time": 4.288, "ground_truth": False, "was_cancelled": False}
    pairwise = {"id": "Dx", "from_name": "pw", "to_name": ["left", "right"], "type": "pairwise", "value": {"selected": "left"}}
    annotations = [
        {"id": 1001, "completed_by": {"id": 4, "email": "ada@x.org"}, "result": [pairwise], **shared},
        {"id": 1002, "completed_by": 10, "result": result, **shared, **annotation},
    ]
    data = {"clip_0": "a.mp4", "clip_1": "b.mp4", "question": question}
    return [{"id": 1, "project": 83, "data": data, "annotations": annotations, "predictions": []}]


def choices(*names: str) -> dict:
    return {"type": "choices", "from_name": "equal", "value": {"choices": list(names)}}


@pytest.mark.parametrize(
    ("result", "annotation", "value", "status"),
    [
        ([{"type": "pairwise", "value": {"selected": "right"}}], {}, 1.0, Status.ANSWERED),
        ([choices("equal")], {}, 0.5, Status.EQUAL),
        ([choices("cannot tell")], {}, None, Status.SKIPPED),
        ([], {"was_cancelled": True}, None, Status.SKIPPED),
        ([{"type": "pairwise", "value": {"selected": "none"}}, choices("equal")], {}, 0.5, Status.EQUAL),
    ],
)
def test_answers_of_label_studio(result: list, annotation: dict, value: float, status: int, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(task(result, **annotation)))
    ada, other = read("label_studio", tmp_path / "a.json")
    assert (ada["answered_by"], ada["value"], ada["seconds"]) == ("ada@x.org", 0.0, 4.288)
    assert (other["answered_by"], other["value"], other["status"]) == ("label_studio:10", value, status)
    assert other["time"] == "2021-03-09T22:16:08.728353Z" and key_of(other) == ("seed/0", 2, 3)


def test_an_empty_annotation_answers_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(task([])))
    assert [row["answered_by"] for row in read("label_studio", tmp_path / "a.json")] == ["ada@x.org"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "holds a dict in place of a list of tasks"),
        ([{"id": 1, "clip_0": "a"}], "task 1 has no data.question: label tasks that were exported from here"),
        (task([choices("blue")]), r"task 1 annotation 2 has the result .*'blue'.*: use Pairwise, Rating, or Choices of 'equal'"),
        (
            task([choices("equal"), {"type": "pairwise", "value": {"selected": "left"}}]),
            "annotation 2 says answered and equal at once",
        ),
        (task(["x"]), "task 1 annotation 2 has the result 'x'"),
        ([{**task([])[0], "annotations": 3}], "task 1 has annotations that are no list of objects"),
        (task([choices("equal")], lead_time="long"), "task 1 annotation 2 has seconds = 'long'"),
        (task([choices("equal")], created_at=None), "task 1 annotation 2 has time = None: write str"),
        (task([{"type": "rating", "value": {"rating": 0}}]), "annotation 2 has the result"),
        (task([{"type": "rating", "value": {"rating": 3}}]), "annotation 2 has value 2.0: a pair's label"),
    ],
)
def test_faults_of_label_studio(tasks: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    with pytest.raises(UserError, match=message):
        read("label_studio", tmp_path / "a.json")


def test_clips_of_tasks_have_the_given_place(tmp_path: Path) -> None:
    for name in ("label_studio", "potato"):
        FORMATS[name].write([record(3, None, 0)], tmp_path / name, Context(media="https://x.org/"))
    assert json.loads((tmp_path / "label_studio").read_text())[0]["data"]["clip_1"] == "https://x.org/seed/0/2/3/1.mp4"
    item = json.loads((tmp_path / "potato").read_text())
    assert item["id"] == "seed/0/2/3" and item["items"] == ["https://x.org/seed/0/2/3/0.mp4", "https://x.org/seed/0/2/3/1.mp4"]


# Potato ------------------------------------------------------------------------------------------------------------------


def exported(labels: object, name: str = "seed/0/2/3", **fields: object) -> str:
    return json.dumps({"instance_id": name, "user_id": "Ada", "labels": labels, "spans": {}, "links": {}, **fields})


KNOWN = {key_of(record(3)): record(3, None, 0), key_of(record(4)): record(4, None, 0)}


@pytest.mark.parametrize(
    ("answer", "value", "status"),
    [
        ({"selection": "A"}, 0.0, Status.ANSWERED),
        ({"selection": "B"}, 1.0, Status.ANSWERED),
        ({"selection": "tie"}, 0.5, Status.EQUAL),
        ({"scale_value": "-2"}, 0.0, Status.ANSWERED),
        ({"scale_value": "0"}, 0.5, Status.EQUAL),
    ],
)
def test_answers_of_potato(answer: dict, value: float, status: int, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(exported({"preference": answer, "why": {"text_box": "?"}}) + "\n")
    (row,) = read("potato", tmp_path / "a.jsonl", questions=KNOWN)
    assert (row["value"], row["status"], row["answered_by"]) == (value, status, "Ada")
    assert (row["start_0"], row["start_1"], row["length"]) == (30, 130, 5)


def test_the_scale_of_potato_is_a_strength(tmp_path: Path) -> None:
    lines = [exported({"p": {"scale_value": "1"}}), exported({"p": {"scale_value": "-4"}}, name="seed/0/2/4")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = read("potato", tmp_path / "a.jsonl", questions=KNOWN)
    assert [(row["value"], row["strength"]) for row in found] == [(1.0, 0.25), (0.0, 1.0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (exported({"p": {"selection": "C"}}), "line 1 has the labels .*: give one pairwise scheme with selection A, B or tie"),
        (exported({"p": {"selection": "A"}, "q": {"selection": "B"}}), "line 1 has the labels"),
        (exported({"p": {"selection": ["A"]}}), "line 1 has the labels"),
        (exported([]), "line 1 has the labels"),
        (exported({"p": {"scale_value": "nan"}}), "line 1 has the labels"),
        (exported({}, name="seed/0/2/9"), "line 1 answers 'seed/0/2/9', which the label store does not hold"),
        (exported({}, name="item_1"), "line 1 has no instance_id such as run/0/12, or no user_id"),
        (exported({}, user_id=3), "line 1 has no instance_id such as run/0/12, or no user_id"),
    ],
)
def test_faults_of_potato(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        read("potato", tmp_path / "a.jsonl", questions=KNOWN)
