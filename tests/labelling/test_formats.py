"""Files of answers: round trips, one sentence for each fault, damaged files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from labelled_records import ANSWERS, damaged, read, record

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats import FORMATS, format_of
from lightning_pbrl.labelling.formats.records import Context, Record, key_of, parse_key, told


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
def test_full_formats_keep_side_strength_and_revisions(name: str, tmp_path: Path) -> None:
    answers = [record(0, swapped=True, strength=0.25, seconds=0.0, revision=0), record(1, who='"=1+1",\n')]
    answers.append(record(0, 0.0, revision=1))
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


@pytest.mark.parametrize("name", ["jsonl", "csv", "potato"])
def test_other_kinds_travel(name: str, tmp_path: Path) -> None:
    answers = [record(0, 3.0, kind="best", others=[7, 8]), record(1, 0.25, kind="graded"), record(2, 0.0, kind="pair:safety")]
    FORMATS[name].write(answers, tmp_path / "a", Context())
    assert read(name, tmp_path / "a") == answers
    with pytest.raises(UserError, match=r"b holds pairs and ratings, and question seed/0/2/0 is of kind 'best': export it as"):
        FORMATS["label_studio"].write(answers, tmp_path / "b", Context())


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
        ({"revision": -1}, "has revision = -1: write a number from 0, or leave it out"),
        ({"revision": 0.5}, "has revision = 0.5: write a whole number, or leave it out"),
        ({"revision": 2**31}, "has revision = 2147483648: write a number from 0"),
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
        (",answered,{}", ",answered,1,{}", "line 2 has 20 cells and the header 19: write one for each column"),
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


# Damage ------------------------------------------------------------------------------------------------------------------


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
