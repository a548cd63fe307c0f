"""Files of answers: round trips, samples written by hand as other tools write them, and one sentence for each fault."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import synthetic_transitions

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.preference_npz import read_preference_npz
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats import FORMATS, format_of
from lightning_pbrl.labelling.formats.records import Context, Record, key_of, parse_key, told

TIME = "2026-01-31T12:00:00+00:00"


def record(number: int = 0, value: float | None = 1.0, status: int = 1, who: str = "Zoë", **fields: object) -> Record:
    return {
        "run": "seed/0",
        "round": 2,
        "number": number,
        "kind": "pair",
        "length": 5,
        "start_0": 10 * number,
        "start_1": 10 * number + 100,
        "value": value,
        "status": status,
        "strategy": {"class": "UniformQuery"},
        "teacher": {"class": "Person", "note": "a, b"},
        "seed": 3,
        "fingerprint": "data-a",
        "time": TIME,
        "answered_by": who,
        "seconds": None,
        "strength": None,
        "swapped": None,
        **fields,
    }


RATING = {"kind": "rating", "start_1": None}
ANSWERS = [
    record(0, 1.0, seconds=2.5, swapped=False),
    record(0, 0.0, who="Bob", seconds=1.25, swapped=False),
    record(1, 0.5, Status.EQUAL, swapped=False),
    record(2, None, Status.SKIPPED, swapped=False),
    record(3, None, Status.PENDING),
    record(4, 7.0, swapped=False, **RATING),
]


def read(name: str, path: Path, **context: object) -> list[Record]:
    return FORMATS[name].read(path, Context(**context))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["jsonl", "csv", "label_studio", "potato"])
def test_round_trip_of_two_persons(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{FORMATS[name].ending}"
    FORMATS[name].write(ANSWERS, path, Context())
    assert format_of(path) is FORMATS[name]
    assert read(name, path, fingerprint="data-a") == ANSWERS
    assert read(name, path) == ANSWERS
    again = tmp_path / f"b{FORMATS[name].ending}"
    FORMATS[name].write(read(name, path), again, Context())
    assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_full_formats_keep_side_and_strength(name: str, tmp_path: Path) -> None:
    answers = [record(0, swapped=True, strength=0.25, seconds=0.0), record(1, who='"=1+1",\n')]
    FORMATS[name].write(answers, tmp_path / "a", Context())
    assert read(name, tmp_path / "a") == answers


@pytest.mark.parametrize("name", ["jsonl", "csv", "label_studio", "potato"])
def test_another_data_set_and_no_answer_at_all(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(ANSWERS, tmp_path / "a", Context())
    with pytest.raises(UserError, match=r"a (line|task) \S+ .*is about the data set data-a and the store about data-b"):
        read(name, tmp_path / "a", fingerprint="data-b")
    FORMATS[name].write([], tmp_path / "b", Context())
    with pytest.raises(UserError, match=r"b holds no answer: give a file with at least one\."):
        read(name, tmp_path / "b")


def test_names_of_questions() -> None:
    assert parse_key(told(key_of(record(7)))) == ("seed/0", 2, 7)
    assert parse_key("run/1") is None and parse_key("run/1/-2") is None and parse_key("run/1/²") is None


def test_formats_by_path(tmp_path: Path) -> None:
    assert format_of(tmp_path) is FORMATS["uni_rlhf"]
    assert format_of(Path("x.jsonl")) is FORMATS["jsonl"] and format_of(Path("x.potato.jsonl")) is FORMATS["potato"]
    assert format_of(Path("x.txt"), "csv") is FORMATS["csv"]
    with pytest.raises(UserError, match=r"x\.txt does not tell its format: add --format with one of jsonl, csv"):
        format_of(Path("x.txt"))
    with pytest.raises(UserError, match="There is no format 'xls'"):
        format_of(Path("x"), "xls")


# JSON lines and CSV ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 0.3}, "line 2 has value 0.3: a pair's label is 0, 0.5 or 1"),
        ({"seconds": -1}, "has seconds = -1: write a number from 0, or leave it out"),
        ({"seconds": "4"}, "has seconds = '4': write a number, or leave it out"),
        ({"seconds": True}, "has seconds = True: write a number"),
        ({"strength": 2}, "has strength = 2: write a number from 0 to 1"),
        ({"swapped": 1}, "has swapped = 1: write true or false"),
        ({"colour": "red"}, "has an unknown field 'colour'"),
        ({"number": 0}, "has the question and the person of an earlier entry: keep one of them"),
        ({"status": 2}, "has status 2: write one of pending"),
        ({"run": None}, "has run = None: write str"),
    ],
)
def test_a_wrong_line_stops_the_import(change: dict, message: str, tmp_path: Path) -> None:
    FORMATS["jsonl"].write([record(0), record(1)], tmp_path / "a", Context())
    one, two = (tmp_path / "a").read_text().splitlines()
    (tmp_path / "a").write_text(f"{one}\n{json.dumps(json.loads(two) | change)}\n")
    with pytest.raises(UserError, match=message) as error:
        read("jsonl", tmp_path / "a")
    assert str(error.value).endswith("; nothing was imported.")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("number,kind", "nummer,kind", "has no column 'number': name each of run, round, number"),
        ("number,kind", "number,kind,kind", "has the columns run, round, number, kind, kind"),
        ("swapped", "colour", "has the columns colour"),
        (",answered,{}", ",answered,1,{}", "line 2 has 19 cells and the header 18: write one for each column"),
        ("seed/0,2", "seed/0,two", r"line 2 has round = 'two' \(invalid literal"),
        ("seed/0,2", "seed/0,²", "line 2 has round = "),
        ("pair", '"pa"ir', r"line 2 is no row of a CSV file \('\,' expected after '\"'\)"),
        ("1.0,ans", "nan,ans", "line 2 is answered and has no value"),
        ("1.0", "inf", "line 2 is answered and has a value beyond float32"),
        ("{}", "[", "line 2 has strategy = '\\['"),
        ("{}", "[]", r"line 2 has strategy = \[\]: write dict"),
        ("data-a", "x" * 2**21, "line 2 is no row of a CSV file"),
    ],
)
def test_a_wrong_row_stops_the_import(old: str, new: str, message: str, tmp_path: Path) -> None:
    FORMATS["csv"].write([record(0, strategy={})], tmp_path / "a", Context())
    text = (tmp_path / "a").read_text()
    (tmp_path / "a").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read("csv", tmp_path / "a")


@pytest.mark.parametrize("name", ["jsonl", "csv", "label_studio", "potato"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"\0" * 50, b"[" * 100_000, b'{"a": 1, "a": 2}', b"[1, {}]", b"null"])
def test_damaged_files_end_with_a_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError) as error:
        read(name, tmp_path / "a")
    assert str(error.value).startswith(str(tmp_path / "a")) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="There is no file"):
        read(name, tmp_path / "b")


# Label Studio ------------------------------------------------------------------------------------------------------------


def task(result: list, **annotation: object) -> list[dict]:
    """One task as Label Studio exports it, with two annotations, the second by the person 10."""
    question = {
        name: value for name, value in record(3).items() if name not in ("value", "status", "seconds", "strength", "swapped")
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


# npz and Uni-RLHF --------------------------------------------------------------------------------------------------------


def about(data: object, **fields: object) -> list[Record]:
    """Pairs within the first episodes of ``data``, and questions that the formats do not hold."""
    print_ = data.fingerprint  # type: ignore[attr-defined]
    values = [(0, 1.0, 1), (1, 0.5, 2), (2, 0.0, 1), (3, None, 3), (4, None, 0)]
    pairs = [record(n, value, status, fingerprint=print_, start_0=n, start_1=n + 6, **fields) for n, value, status in values]
    return [*pairs, record(5, 3.0, fingerprint=print_, **RATING)]


def test_npz_holds_segments(tmp_path: Path) -> None:
    data = synthetic_transitions()
    path = tmp_path / "a.npz"
    FORMATS["npz"].write(about(data), path, Context(source=data))
    source, labels = read_preference_npz(path)
    assert labels.value.tolist() == [1.0, 0.5, 0.0]
    torch.testing.assert_close(source.column("obs")[:5], data.column("obs")[:5])  # the first segment of pair 0
    found = read("npz", path, run="them")
    assert [(row["run"], row["number"], row["value"], row["status"]) for row in found] == [
        ("them", 0, 1.0, Status.ANSWERED),
        ("them", 1, 0.5, Status.EQUAL),
        ("them", 2, 0.0, Status.ANSWERED),
    ]
    assert found[1]["start_0"] == 10 and found[1]["fingerprint"] == source.fingerprint
    FORMATS["npz"].write(found, tmp_path / "b.npz", Context(source=source))
    again, _ = read_preference_npz(tmp_path / "b.npz")
    assert again.fingerprint == source.fingerprint
    with pytest.raises(UserError, match=r"pair 0 is about the data set .* and the store about data-b"):
        read("npz", path, fingerprint="data-b")


@pytest.mark.parametrize("name", ["npz", "uni_rlhf"])
def test_formats_that_need_the_data(name: str, tmp_path: Path) -> None:
    data = synthetic_transitions()
    write, path = FORMATS[name].write, tmp_path / "a"
    with pytest.raises(UserError, match=r"name (that|the data that were asked about), with -c DATA\.yaml"):
        write(about(data), path, Context())
    with pytest.raises(UserError, match="are about the data set data-a and the data are"):
        write([record(0)], path, Context(source=data))
    with pytest.raises(UserError, match="would hold pairs of 5, 6 steps"):
        write([*about(data), record(9, fingerprint=data.fingerprint, length=6)], path, Context(source=data))
    with pytest.raises(UserError, match="would hold pairs of nothing steps"):
        write([], path, Context(source=data))
    with pytest.raises(UserError, match="does not lie within one episode"):
        write([record(0, fingerprint=data.fingerprint, start_0=10**6)], path, Context(source=data))
    assert not path.exists()


def folder(path: Path, label: object, first: object, second: object, length: int = 5) -> Path:
    path.mkdir()
    for name, content in (("human_label", label), ("indices_1", first), ("indices_2", second)):
        file = path / f"{name}_domain_mujoco_env_hopper-medium-v2_num_3_len_{length}_b71f6102.pkl"
        file.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return path


def test_uni_rlhf_folder_by_hand(tmp_path: Path) -> None:
    data = synthetic_transitions()
    path = folder(tmp_path / "x_human_labels", [0, -1, 1], np.array([0, 1, 2]), [6, 7, 8])
    found = read("uni_rlhf", path, source=data)
    assert [(row["value"], row["start_0"], row["start_1"], row["length"]) for row in found] == [
        (0.0, 0, 6, 5),
        (0.5, 1, 7, 5),
        (1.0, 2, 8, 5),
    ]
    assert found[0]["strategy"] == {"from": "uni_rlhf", "domain": "mujoco", "env": "hopper-medium-v2"}
    FORMATS["uni_rlhf"].write(found, tmp_path / "y_human_labels", Context(source=data))
    again = read("uni_rlhf", tmp_path / "y_human_labels", source=data)
    assert [(row["value"], row["start_0"], row["start_1"]) for row in again] == [(0.0, 0, 6), (0.5, 1, 7), (1.0, 2, 8)]
    with pytest.raises(UserError, match="is a file or holds labels already: choose another folder"):
        FORMATS["uni_rlhf"].write(found, tmp_path / "y_human_labels", Context(source=data))


def test_rows_of_uni_rlhf_leave_out_steps_at_timeouts(tmp_path: Path) -> None:
    """Of two episodes of 30 steps that end at a timeout, the loader of D4RL drops rows 29 and 59: its row 29 is our row 30."""
    data = synthetic_transitions(episodes=2)
    ends = (data.column("truncated").flatten() > 0).nonzero().flatten().tolist()
    assert ends == [29, 59]
    data.about |= {"format": "d4rl", "next_obs": "stored", "unmarked_resets": 0}
    path = folder(tmp_path / "x", np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), [24, 29, 30], [0, 0, 0])
    found = read("uni_rlhf", path, source=data)
    assert [(row["value"], row["start_0"]) for row in found] == [(0.0, 24), (0.5, 30), (1.0, 31)]
    FORMATS["uni_rlhf"].write(found, tmp_path / "y", Context(source=data))
    assert [row["start_0"] for row in read("uni_rlhf", tmp_path / "y", source=data)] == [24, 30, 31]
    data.about["unmarked_resets"] = 2
    with pytest.raises(UserError, match="The data have 2 resets without a mark"):
        read("uni_rlhf", path, source=data)


class Runs:
    def __reduce__(self) -> tuple:
        return (print, ("this ran",))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            ([0, 2, 1], [0, 1, 2], [6, 7, 8]),
            r"human_label\S+ has label 2 for pair 1: write 0 \(first preferred\), 1 \(second\) or -1",
        ),
        (([0, 1], [0, 1, 2], [6, 7, 8]), r"indices_1\S+ has 3 rows and there are 2 labels"),
        (([0, 1, 0], [0, 1.5, 2], [6, 7, 8]), r"indices_1\S+ has row 1\.5 for pair 1"),
        (([0, 1, 0], [0, -1, 2], [6, 7, 8]), r"has row -1 for pair 1 and the data have"),
        (([0, 1, 0], [0, 1, 2], [6, 7, 10**9]), r"indices_2\S+ has row 1000000000 for pair 2"),
        (([0, 1, 0], [0, 1, 2], [0, 7, 8]), "compares the segment from row 0 with itself"),
        (([0, 1, 0], [0, 27, 2], [6, 7, 8]), "does not lie within one episode"),
        (([0, "x", 1], [0, 1, 2], [6, 7, 8]), "holds list in place of finite numbers"),
        (([0, [1], 1], [0, 1, 2], [6, 7, 8]), "holds list in place of finite numbers"),
        (([0, float("nan"), 1], [0, 1, 2], [6, 7, 8]), "holds list in place of finite numbers"),
        (([], [], []), r"has shape \(0,\)"),
        ((Runs(), [0], [1]), "is refused because it asks for builtins.print, which could run code"),
        ((b"\x80\x04\x95", [0], [1]), "is truncated or not a pickle"),
    ],
)
def test_faults_of_uni_rlhf(parts: tuple, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = synthetic_transitions()
    with pytest.raises(UserError, match=message):
        read("uni_rlhf", folder(tmp_path / "x", *parts), source=data)
    assert capsys.readouterr().out == ""


def test_folders_with_other_files(tmp_path: Path) -> None:
    data = synthetic_transitions()
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="has no file label_domain_"):
        read("uni_rlhf", tmp_path / "a", source=data)
    path = folder(tmp_path / "x", [0, -1, 1], [0, 1, 2], [6, 7, 8])
    (path / "human_label_domain_mujoco_env_other_num_3_len_5_c.pkl").write_bytes(b"")
    with pytest.raises(UserError, match="holds label files of several sets"):
        read("uni_rlhf", path, source=data)


# Damage ------------------------------------------------------------------------------------------------------------------


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Change, remove, repeat or insert a few bytes, or cut the end off."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, count = rng.randrange(len(data)), rng.randint(1, 8)
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + count]
        elif kind == 2:
            data[at:at] = data[at : at + count]
        elif kind == 3:
            data[at:at] = rng.choice([b'"', b"{", b"\n", b",", b"-", b"1e999", b"\xff", b"null", b"\x00", b"\x80"])
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("name", ["jsonl", "csv", "label_studio", "potato"])
def test_damaged_text_is_refused_or_read_for_what_it_says(name: str, tmp_path: Path) -> None:
    path, rng = tmp_path / "a", random.Random(name)
    FORMATS[name].write(ANSWERS, path, Context())
    sound, said = path.read_bytes(), []
    for _ in range(300):
        path.write_bytes(damaged(sound, rng))
        try:
            rows = read(name, path, fingerprint="data-a")
        except UserError as error:
            said.append(str(error))
        else:  # whatever is read can be stored, and written again
            assert all(jsonl.complete(jsonl_row(row), "data-a") is None for row in rows)
            FORMATS["jsonl"].write(rows, tmp_path / "again", Context())
    assert len(said) > 150 and all(each.startswith(str(path)) and each.isprintable() for each in said)


def jsonl_row(row: Record) -> Record:
    return {**{name: row[name] for name in jsonl.FIELDS}, "status": Status(row["status"]).name.lower()}


def test_damaged_pickles_are_refused_or_read_for_what_they_say(tmp_path: Path) -> None:
    data, rng = synthetic_transitions(), random.Random(0)
    path = folder(tmp_path / "x", np.array([0, -1, 1]), np.array([0, 1, 2]), [6, 7, 8])
    files = sorted(path.glob("*.pkl"))
    sound, said = [file.read_bytes() for file in files], []
    for number in range(300):
        for at, (file, content) in enumerate(zip(files, sound, strict=True)):
            file.write_bytes(damaged(content, rng) if at == number % 3 else content)
        try:
            rows = read("uni_rlhf", path, source=data)
        except UserError as error:
            said.append(str(error))
        else:
            assert all(0 <= row["start_0"] <= len(data) - 5 and row["value"] in (0, 0.5, 1) for row in rows)
    assert len(said) > 150 and not any("\n" in each for each in said)
