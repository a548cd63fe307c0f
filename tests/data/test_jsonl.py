"""Label records as JSON lines: what goes out comes in, and a wrong line stops the whole import."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lightning_pbrl.data.feedback import Answer, AskKey, Query
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError

WHO = {"strategy": {"name": "u"}, "teacher": {"beta": 1.0}, "seed": 0, "answered_by": "Zoë"}


@pytest.fixture
def lines(tmp_path: Path) -> list[dict]:
    """Three pairs (second, equal, skipped), one pending pair and a rating, as exported."""
    store = LabelStore(tmp_path / "a.db", "data-a")
    start = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])
    values = torch.tensor([1.0, 0.5, float("nan"), float("nan")])
    store.put(AskKey("run", 0, 0), Query("pair", start, 5), Answer(values, torch.tensor([1, 2, 3, 0])), **WHO)
    rating = Query("rating", torch.tensor([[9]]), 5)
    store.put(AskKey("run", 1, 4), rating, Answer(torch.tensor([0.75]), torch.tensor([1])), **WHO)
    assert store.export_jsonl(tmp_path / "a.jsonl") == 5
    return [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]


def saved(path: Path, records: list) -> Path:
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records) + "\n\n")
    return path


def test_round_trip(lines: list[dict], tmp_path: Path):
    assert [line["status"] for line in lines] == ["answered", "equal", "skipped", "pending", "answered"]
    assert [line["value"] for line in lines] == [1.0, 0.5, None, None, 0.75]
    assert lines[0]["answered_by"] == "Zoë"
    other = LabelStore(tmp_path / "b.db", "data-a")
    assert other.import_jsonl(tmp_path / "a.jsonl") == 5
    assert other.import_jsonl(tmp_path / "a.jsonl") == 0  # the same keys are the same rows
    other.export_jsonl(tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_an_imported_answer_fills_a_pending_question(lines: list[dict], tmp_path: Path):
    lines[3] |= {"status": "answered", "value": 0}
    store = LabelStore(tmp_path / "a.db", "data-a")
    assert store.import_jsonl(saved(tmp_path / "c.jsonl", lines)) == 0
    assert store.labels("pair").value[3] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 0.3}, "has value 0.3: a pair's label is 0, 0.5 or 1"),
        ({"value": -1}, "has value -1: a pair's label"),
        ({"value": "1"}, "has value = '1': write int or float or null"),
        ({"value": None}, "is answered and has no value"),
        ({"value": 0.5}, "0.5 goes with equal"),
        ({"value": float("nan")}, "is answered and has no value"),
        ({"status": "maybe"}, "has status 'maybe': write one of pending, answered, equal, skipped"),
        ({"status": 1}, "has status 1: write one of pending, answered"),
        ({"kind": "list"}, "has kind 'list': write one of pair, rating"),
        ({"kind": "rating"}, r"is a rating about 2 segment\(s\)"),
        ({"start_1": None}, r"is a pair about 1 segment\(s\)"),
        ({"start_0": 1.5}, "has start_0 = 1.5: write int"),
        ({"start_0": True}, "has start_0 = True: write int"),
        ({"start_0": -4}, "has a negative start"),
        ({"length": 0}, "a length below 1"),
        ({"start_0": 10**30}, "too large"),
        ({"start_0": 6}, "compares the segment from row 6 with itself: leave it out"),
        ({"time": "yesterday"}, "has time 'yesterday'"),
        ({"fingerprint": "data-b"}, "is about the data set data-b and the store about data-a"),
        ({"colour": "red"}, "has an unknown field 'colour'"),
        ({"number": 0}, "has the run, round and number of an earlier line"),
    ],
)
def test_a_wrong_line_stops_the_import(lines: list[dict], tmp_path: Path, change: dict, message: str):
    lines[2] |= {"value": 1.0, "status": "answered", **change}
    store = LabelStore(tmp_path / "b.db", "data-a")
    with pytest.raises(UserError, match=rf"c\.jsonl line 3 .*{message}.*; nothing was imported"):
        store.import_jsonl(saved(tmp_path / "c.jsonl", lines))
    assert store.count == 0


def test_lines_that_are_no_records(lines: list[dict], tmp_path: Path):
    store = LabelStore(tmp_path / "b.db", "data-a")
    for wrong, message in (("{", "is not JSON"), ("[1]", "holds a list"), ("{}", "has no field 'run': add it")):
        with pytest.raises(UserError, match=f"line 2 {message}"):
            store.import_jsonl(saved(tmp_path / "c.jsonl", [lines[0], wrong]))
    (tmp_path / "d.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"d\.jsonl cannot be read"):
        store.import_jsonl(tmp_path / "d.jsonl")
    with pytest.raises(UserError, match=r"There is no file .*absent: check the path"):
        store.import_jsonl(tmp_path / "absent")
    assert store.count == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"value": ' + "1" * 400, "has a value beyond float32|has value 1"),
        ('"value": 1e999', "has a value beyond float32|has value inf"),
        ('"value": ' + "1" * 5000, "is not JSON"),
        ('"value": ' + "[" * 100_000, r"is not JSON \(nested too deeply\)"),
        ('"seed": -' + "9" * 30, "has a number that is too large"),
        ('"run": "\\ud800"', "is not JSON"),
        ('"run": "a\\u0000b"', "has run with a character of code 0"),
        ('"strategy": {"a": Infinity}', "has strategy with NaN or infinity"),
        ('"seed": 1, "seed": 2', r"is not JSON \(a key is named twice\)"),
    ],
)
def test_values_that_cannot_be_kept(lines: list[dict], tmp_path: Path, text: str, message: str):
    field = text.split('"')[1]
    line = json.dumps({**lines[0], field: "@"}).replace(f'"{field}": "@"', text)
    (tmp_path / "c.jsonl").write_text(json.dumps(lines[1]) + "\n" + line + "\n")
    store = LabelStore(tmp_path / "b.db", "data-a")
    with pytest.raises(UserError, match=rf"c\.jsonl line 2 .*({message}).*; nothing was imported\.$"):
        store.import_jsonl(tmp_path / "c.jsonl")
    assert store.count == 0


def test_a_file_without_a_record(tmp_path: Path):
    (tmp_path / "c.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match=r"c\.jsonl holds no record: give a file of label records, one JSON object per line\."):
        LabelStore(tmp_path / "b.db", "data-a").import_jsonl(tmp_path / "c.jsonl")
