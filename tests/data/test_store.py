"""The label store: durable, idempotent, bound to its data, and clear about every mistake."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sqlite3
import time
from contextlib import closing, suppress
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from safetensors.torch import save
from synthetic import synthetic_transitions
from warm import CONTEXT

from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError

NAN = float("nan")
WHO: dict[str, Any] = {
    "strategy": {"name": "UniformQuery"},
    "teacher": {"name": "SimulatedTeacher", "beta": 2.0},
    "seed": 3,
    "answered_by": "simulated",
}


def pairs(*starts: tuple[int, int], length: int = 5) -> Query:
    return Query("pair", torch.tensor(starts), length)


def answer(*values: float) -> Answer:
    """0 and 1 answered, 0.5 equal, NaN skipped."""
    status = [Status.SKIPPED if math.isnan(v) else Status.EQUAL if v == 0.5 else Status.ANSWERED for v in values]
    return Answer(torch.tensor(values), torch.tensor(status))


def pending(count: int) -> Answer:
    return Answer(torch.full((count,), NAN), torch.zeros(count, dtype=torch.int64))


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels.db", "data-a")


def filled(store: LabelStore) -> LabelStore:
    store.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4), (5, 6)), answer(0, 0.5, NAN), **WHO)
    store.put(AskKey("run", 1, 3), pairs((7, 8)), answer(1), **WHO)
    store.put(AskKey("other", 0, 0), pairs((9, 10)), answer(1), **WHO)
    return store


def test_what_is_put_is_read(store: LabelStore):
    filled(store)
    numbers, query, given = store.stored("run", 0)
    assert numbers.tolist() == [0, 1, 2]
    assert query.kind == "pair"
    assert query.length == 5
    assert query.start.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert given.value[:2].tolist() == [0, 0.5]
    assert given.value[2].isnan()
    assert given.status.tolist() == [Status.ANSWERED, Status.EQUAL, Status.SKIPPED]
    labels = store.labels("pair")
    assert labels.start.tolist() == [[9, 10], [1, 2], [3, 4], [5, 6], [7, 8]]  # by run, then number
    assert labels.preferences().value.tolist() == [1, 0, 0.5, 1]
    assert store.labels("pair", run="run").start[:, 0].tolist() == [1, 3, 5, 7]
    assert store.spent("run") == store.spent() == 4  # the skipped one is paid for
    assert store.spent("other") == 1
    assert store.count == 5


def test_every_record_keeps_its_origin(store: LabelStore, tmp_path: Path):
    store.put(AskKey("run", 2, 7), pairs((1, 2)), answer(1), **WHO)
    store.export_jsonl(tmp_path / "l.jsonl")
    record = json.loads((tmp_path / "l.jsonl").read_text())
    moment = datetime.fromisoformat(record.pop("time"))
    assert moment.utcoffset().total_seconds() == 0
    assert abs(time.time() - moment.timestamp()) < 60
    assert record == {
        "run": "run",
        "round": 2,
        "number": 7,
        "kind": "pair",
        "length": 5,
        "start_0": 1,
        "start_1": 2,
        "value": 1.0,
        "status": "answered",
        "fingerprint": "data-a",
        **WHO,
    }


def test_an_empty_store(store: LabelStore):
    numbers, query, given = store.stored("run", 0)
    assert len(numbers) == len(query) == len(given.value) == 0
    assert query.start.shape == (0, 2)
    assert store.stored("run", 0, kind="rating")[1].start.shape == (0, 1)
    assert store.labels("pair", length=7).start.shape == (0, 2)
    assert store.spent() == store.count == 0


def test_the_same_key_is_the_same_row(store: LabelStore):
    """A batch that is put again, as after a crash, changes nothing, and what is new in it is stored."""
    filled(store)
    before = store.stored("run", 0)
    same = Answer(torch.tensor([NAN, 0.0]), torch.tensor([Status.SKIPPED, Status.ANSWERED]))
    store.put(AskKey("run", 0, 2), pairs((5, 6), (20, 21)), same, **WHO)  # one stored, one new
    store.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4)), pending(2), **WHO)  # asked again
    assert store.stored("run", 0)[0].tolist() == [0, 1, 2, 3]
    assert store.count == 6
    for was, now in zip(before[2], store.stored("run", 0)[2], strict=True):
        assert torch.equal(was.nan_to_num(), now[:3].nan_to_num())


def test_a_pending_question_takes_one_answer(store: LabelStore):
    key, query = AskKey("run", 0, 0), pairs((1, 2), (3, 4))
    store.put(key, query, pending(2), **WHO)
    assert store.stored("run", 0)[2].status.tolist() == [Status.PENDING, Status.PENDING]
    assert len(store.labels("pair").preferences()) == 0
    assert store.spent() == 2
    late = Answer(torch.tensor([0.0, NAN]), torch.tensor([Status.ANSWERED, Status.PENDING]))
    store.put(key, query, late, **{**WHO, "answered_by": "Ada"})
    store.put(AskKey("run", 0, 1), pairs((3, 4)), answer(1), **{**WHO, "answered_by": "Bob"})
    assert store.stored("run", 0)[2].value.tolist() == [0, 1]
    assert store.count == 2


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (answer(1, 1), "is now answered 1 by Bob"),
        (Answer(torch.tensor([0.5, 1.0]), torch.tensor([Status.EQUAL, Status.ANSWERED])), "is now answered 0.5 by Bob"),
        (Answer(torch.tensor([NAN, 1.0]), torch.tensor([Status.SKIPPED, Status.ANSWERED])), "is now answered skipped by Bob"),
    ],
)
def test_a_second_answer_that_differs_is_refused(store: LabelStore, tmp_path: Path, second: Answer, told: str):
    """By put and by an import alike, and the answer to the other question of the batch is not stored either."""
    store.put(AskKey("run", 0, 0), pairs((1, 2)), answer(0), **{**WHO, "answered_by": "Ada"})
    other = LabelStore(tmp_path / "other.db", "data-a")
    other.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4)), second, **{**WHO, "answered_by": "Bob"})
    other.export_jsonl(tmp_path / "bob.jsonl")
    sentence = (
        f"Question 0 of run 'run' in {store.name} has the answer 0 of Ada and {told}: leave the second answer out, or export the "
        "labels, correct them there and import them into a new store; nothing of this batch was stored."
    )
    for again in (
        lambda: store.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4)), second, **{**WHO, "answered_by": "Bob"}),
        lambda: store.import_jsonl(tmp_path / "bob.jsonl"),
    ):
        with pytest.raises(UserError) as caught:
            again()
        assert str(caught.value) == sentence
    assert store.stored("run", 0)[2].value.tolist() == [0]
    assert store.count == 1


def test_an_answer_to_another_question_is_refused_as_a_whole(store: LabelStore):
    store.put(AskKey("run", 0, 0), pairs((1, 2)), pending(1), **WHO)
    with pytest.raises(UserError, match=r"Question 0 of run 'run' .* was asked about other segments"):
        store.put(AskKey("run", 0, 0), pairs((1, 3), (4, 5)), answer(1, 1), **WHO)
    assert store.count == 1
    assert store.stored("run", 0)[2].status.tolist() == [Status.PENDING]
    store.put(AskKey("run", 0, 0), pairs((1, 2)), answer(1), **WHO)
    with pytest.raises(UserError, match="was asked about other segments"):  # of an answered question as well
        store.put(AskKey("run", 0, 0), pairs((1, 3)), answer(1), **WHO)


def test_ratings_beside_pairs_and_several_lengths(store: LabelStore):
    store.put(AskKey("run", 0, 0), pairs((1, 2)), answer(1), **WHO)
    rating = Query("rating", torch.tensor([[4], [5]]), 8)
    store.put(AskKey("run", 0, 1), rating, Answer(torch.tensor([0.25, 3.0]), torch.tensor([1, 1])), **WHO)
    labels = store.labels("rating")
    assert labels.start.tolist() == [[4], [5]]
    assert labels.length == 8
    assert labels.value.tolist() == [0.25, 3.0]
    assert len(store.labels("pair")) == 1
    with pytest.raises(UserError, match="asked pair and rating: name one kind"):
        store.stored("run", 0)
    assert store.stored("run", 0, kind="rating")[0].tolist() == [1, 2]
    store.put(AskKey("run", 1, 3), pairs((1, 2), length=9), answer(0), **WHO)
    with pytest.raises(UserError, match=r"pair questions in .* have lengths \[5, 9\]: name one length"):
        store.labels("pair")
    assert store.labels("pair", length=9).value.tolist() == [0]


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        (0.7, Status.ANSWERED, "has value 0.69.*: a pair's label is 0, 0.5 or 1"),
        (0.5, Status.ANSWERED, "0.5 goes with equal, every other value with answered"),
        (1.0, Status.EQUAL, "0.5 goes with equal"),
        (0.5, Status.SKIPPED, "is skipped and has value 0.5"),
        (1.0, Status.PENDING, "is pending and has value 1.0"),
        (NAN, Status.ANSWERED, "is answered and has no value"),
    ],
)
def test_answers_that_contradict_themselves(store: LabelStore, value: float, status: Status, message: str):
    two = Answer(torch.tensor([1.0, value]), torch.tensor([Status.ANSWERED, status]))
    with pytest.raises(UserError, match=f"Question 1 of run 'run' .*{message}"):
        store.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4)), two, **WHO)
    assert store.count == 0


def test_clips_come_back_in_the_order_asked_for(store: LabelStore):
    data = synthetic_transitions(episodes=2, length=10)
    query = pairs((0, 10), (3, 12), (5, 1))
    store.put(AskKey("run", 0, 4), query, answer(0, 1, 1), clips=data.clips(query), **WHO)
    clips = store.clips([6, 4])
    assert clips.obs.shape == (2, 2, 5, 5)
    assert torch.equal(clips.obs[0, 1], data.column("obs")[1:6])
    assert torch.equal(clips.action[1, 0], data.column("action")[0:5])
    assert torch.equal(clips.reward[1, 1], data.reward[10:15])
    with pytest.raises(UserError, match="no segment content for question 7 of run 'run': put it with clips"):
        store.clips(torch.tensor([4, 7]))


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_store_of_another_data_set(store: LabelStore, tmp_path: Path):
    LabelStore(tmp_path / "labels.db", "data-b")  # while empty it belongs to nobody
    filled(store)
    with pytest.raises(UserError, match=r"belongs to the data set data-a and this one is data-b \(fingerprint mismatch\)"):
        LabelStore(tmp_path / "labels.db", "data-b")
    assert LabelStore(tmp_path / "labels.db", "data-a").count == 5


def test_url_and_path_are_the_same_store(store: LabelStore, tmp_path: Path):
    filled(store)
    assert LabelStore(f"sqlite:///{tmp_path / 'labels.db'}", "data-a").count == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.db"]  # one file, nothing beside it


def test_commits_survive_power_loss(store: LabelStore):
    with store._engine.connect() as db:
        assert db.scalar(sa.text("PRAGMA synchronous")) == 3  # EXTRA
        assert db.scalar(sa.text("PRAGMA journal_mode")) == "delete"


def test_newer_schema(store: LabelStore, tmp_path: Path):
    db = sqlite3.connect(tmp_path / "labels.db")
    with db:
        db.execute("UPDATE pbrl_info SET value = '5' WHERE key = 'schema_version'")
    db.close()
    with pytest.raises(UserError, match="schema version 5 and this library reads up to 4: upgrade lightning-pbrl"):
        LabelStore(tmp_path / "labels.db", "data-a")


def test_stores_that_cannot_be_opened(tmp_path: Path):
    (tmp_path / "text.db").write_text("this is no database, " * 100)
    with pytest.raises(UserError, match=r"text\.db cannot be used \(file is not a database\)"):
        LabelStore(tmp_path / "text.db", "a")
    with pytest.raises(UserError, match=r"text\.db/labels\.db cannot be used .*check that the path or URL is right"):
        LabelStore(tmp_path / "text.db" / "labels.db", "a")
    with pytest.raises(UserError, match="cannot be used"):
        LabelStore("nosuchdatabase://host/labels", "a")


def test_full_disk_while_labelling(tmp_path: Path):
    path = tmp_path / "labels.db"
    store = LabelStore(path, "data-a", pragmas={"max_page_count": 28})
    given = 0

    def label_for_ever() -> None:
        nonlocal given
        while True:
            store.put(AskKey("run", 0, given), pairs(*[(given, given + 1 + i) for i in range(20)]), answer(*[1.0] * 20), **WHO)
            given += 20

    with pytest.raises(UserError) as caught:
        label_for_ever()
    assert "labels.db cannot take this batch of answers because its disk is full" in str(caught.value)
    assert "nothing given before is lost: free some space" in str(caught.value)
    assert given >= 20
    assert store.count == given  # all batches before, nothing of the last
    roomier = LabelStore(path, "data-a")
    assert roomier.labels("pair").start[:, 0].unique().tolist() == list(range(0, given, 20))
    roomier.put(AskKey("run", 0, given), pairs((1, 2)), answer(1), **WHO)  # goes on after the cure
    assert roomier.count == given + 1


# -- crashes ----------------------------------------------------------------------------------------------------------


def putting(path: Path, first: int, size: int, mode: str, told: Connection) -> None:
    """Put batches of ``size``, tell how many questions were acknowledged, until this process is killed."""
    store = LabelStore(path, "data-a", pragmas={"cache_size": 4})  # pages of an open transaction reach the file
    while True:
        query = Query("pair", torch.arange(2 * size).reshape(size, 2), 5)
        if mode == "inside" and first >= 2 * size:
            sa.event.listen(store._engine, "commit", lambda db: os.kill(os.getpid(), signal.SIGKILL))
        store.put(AskKey("run", 0, first), query, Answer(torch.ones(size), torch.ones(size, dtype=torch.int64)), **WHO)
        first += size
        told.send(first)


class Worker:
    """Another process that is ``putting``."""

    def __init__(self, path: Path, first: int, size: int, mode: str) -> None:
        self.told, there = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=putting, args=(path, first, size, mode, there))
        self.process.start()
        there.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.join()
        self.told.close()

    def said(self) -> list[int]:
        """All that it says until its end."""
        numbers = []
        with suppress(EOFError):
            while True:
                numbers.append(self.told.recv())
        self.process.join()
        return numbers


def test_killed_while_putting(tmp_path: Path):
    path, kept = tmp_path / "labels.db", 0
    for delay in (0.0, 0.0137, 0.0411):
        with Worker(path, kept, 7, "outside") as worker:
            told = [worker.told.recv()]  # it is at work
            time.sleep(delay)
            worker.process.kill()
            acknowledged = [*told, *worker.said()][-1]
        store = LabelStore(path, "data-a")
        kept = store.count
        assert kept >= acknowledged  # no acknowledged answer is lost
        assert kept % 7 == 0  # no part of a batch is there
        assert store.stored("run", 0)[0].tolist() == list(range(kept))
    assert kept >= 21


def test_killed_inside_a_commit(tmp_path: Path):
    path, size = tmp_path / "labels.db", 500
    with Worker(path, 0, size, "inside") as worker:
        assert worker.said() == [size, 2 * size]
    assert worker.process.exitcode == -signal.SIGKILL
    assert (tmp_path / "labels.db-journal").stat().st_size > 0  # the half-written third batch is in the file
    store = LabelStore(path, "data-a")
    assert store.count == 2 * size
    store.put(AskKey("run", 0, 2 * size), pairs((1, 2)), answer(1), **WHO)
    assert store.count == 2 * size + 1


def test_two_processes_share_a_store(tmp_path: Path):
    path = tmp_path / "labels.db"
    with Worker(path, 0, 7, "outside") as worker:
        worker.told.recv()
        store = LabelStore(path, "data-a")
        for number in range(10):
            store.put(AskKey("mine", 0, number), pairs((1, 2)), answer(1), **WHO)
    assert store.spent("mine") == 10


def test_a_segment_is_not_compared_with_itself(store: LabelStore):
    with pytest.raises(UserError, match=r"^Question 4 of run 'run' compares the segment from row 9 with itself: leave it out\.$"):
        store.put(AskKey("run", 0, 3), pairs((1, 2), (9, 9)), pending(2), **WHO)
    assert store.count == 0
    store.put(AskKey("run", 0, 3), Query("rating", torch.tensor([[9]]), 5), answer(1), **WHO)  # no pair


def test_a_store_that_compares_a_segment_with_itself(store: LabelStore, tmp_path: Path):
    """An older version took such pairs: they are named, and the labels can be exported without them."""
    filled(store)
    with closing(sqlite3.connect(store.name)) as db, db:
        db.execute("UPDATE pbrl_questions SET start_1 = start_0 WHERE number = 1 OR run = 'other'")
    again = LabelStore(store.name, "data-a")
    sentence = (
        f"The label store {store.name} holds questions that compare a segment with itself (0 of run 'other', 1 of run 'run'): "
        "export the labels (export_jsonl), leave these lines out there and import the rest into a new store."
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        again.labels("pair")
    with pytest.raises(UserError, match=r"\(1 of run 'run'\)"):
        again.stored("run", 0)
    again.export_jsonl(tmp_path / "labels.jsonl")
    lines = (tmp_path / "labels.jsonl").read_text().splitlines()
    whole = [line for line in lines if (row := json.loads(line))["start_0"] != row["start_1"]]
    (tmp_path / "labels.jsonl").write_text("\n".join(whole))
    assert LabelStore(tmp_path / "new.db", "data-a").import_jsonl(tmp_path / "labels.jsonl") == 3


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE pbrl_questions SET start_0 = 'text'", r"question 0 of run 'run' has start_0 = 'text': write int"),
        ("UPDATE pbrl_questions SET start_0 = 2.5", r"question 0 of run 'run' has start_0 = 2\.5: write int"),
        ("UPDATE pbrl_questions SET value = 0.3", r"question 0 of run 'run' has value 0\.3: a pair's label"),
        ("UPDATE pbrl_questions SET status = 9", r"question 0 of run 'run' has status 9: write one of"),
        ("UPDATE pbrl_questions SET kind = x'00ff'", r"question 0 of run 'run' has kind = b'\\x00\\xff': write str"),
        ("UPDATE pbrl_questions SET strategy = '['", "is damaged"),
        ("UPDATE pbrl_questions SET strategy = 'null'", r"question 0 of run 'run' has strategy = None: write dict"),
        ("UPDATE pbrl_questions SET strategy = '{\"a\": NaN}'", "has strategy with NaN or infinity"),
        ("UPDATE pbrl_questions SET time = 'noon'", "has time 'noon'"),
        ("DROP TABLE pbrl_questions", "it has no table pbrl_questions"),
        ("DROP TABLE pbrl_clips", "it has no table pbrl_clips"),
        ("DROP TABLE pbrl_info", "it does not record its version"),
        ("DELETE FROM pbrl_info", "it does not record its version"),
        ("UPDATE pbrl_info SET value = 'x'", "it does not record its version"),
        ("ALTER TABLE pbrl_questions RENAME COLUMN status TO state", "no such column"),
    ],
)
def test_a_store_is_checked_when_it_is_opened(store: LabelStore, statement: str, message: str):
    store.put(AskKey("run", 0, 0), pairs((1, 2)), answer(1), **WHO)
    with closing(sqlite3.connect(store.name)) as db, db:
        db.execute(statement)
    with pytest.raises(UserError, match=rf"^The label store .*{message}"):
        LabelStore(store.name, "data-a")


def test_a_row_that_is_in_the_index_only_is_missed(store: LabelStore):
    store.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4)), answer(1, 0), **WHO)
    with closing(sqlite3.connect(store.name)) as db, db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'pbrl_questions'").fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray(Path(store.name).read_bytes())
    at = (page - 1) * size + 3  # the number of cells of a leaf: https://sqlite.org/fileformat2.html
    assert content[at : at + 2] == b"\x00\x02"
    content[at + 1] = 1
    Path(store.name).write_bytes(content)
    with pytest.raises(UserError, match=r"labels\.db is damaged \(.*\): restore a copy, or import what was exported"):
        LabelStore(store.name, "data-a")


def test_damaged_segment_content(store: LabelStore):
    store.put(AskKey("run", 0, 0), pairs((1, 2)), answer(1), **WHO)
    with closing(sqlite3.connect(store.name)) as db, db:
        db.execute("INSERT OR REPLACE INTO pbrl_clips VALUES ('run', 0, 0, x'1234')")
    with pytest.raises(UserError, match=r"labels\.db holds damaged segment content \(.*\): restore a copy"):
        store.clips([0], "run")


def test_changed_segment_content(store: LabelStore):
    """One bit of a stored number is noticed; content without a checksum, of older stores, is still read."""
    clips = Clips(torch.rand(1, 2, 3, 5), torch.rand(1, 2, 3, 2), torch.rand(1, 2, 3))
    store.put(AskKey("run", 0, 0), pairs((1, 2)), answer(1), **WHO, clips=clips)
    assert all(torch.equal(one, two) for one, two in zip(store.clips([0], "run")[:3], clips[:3], strict=True))

    def replace(content: bytes) -> None:
        with closing(sqlite3.connect(store.name)) as db, db:
            db.execute("UPDATE pbrl_clips SET content = ?", (content,))

    with closing(sqlite3.connect(store.name)) as db:
        content = bytearray(db.execute("SELECT content FROM pbrl_clips").fetchone()[0])
    content[-3] ^= 1
    replace(bytes(content))
    with pytest.raises(UserError, match=r"labels\.db holds damaged segment content \(.*checksum differs\): restore a copy"):
        store.clips([0], "run")
    replace(save({name: part[0] for name, part in zip(("obs", "action", "reward"), clips[:3], strict=True)}))
    assert torch.equal(store.clips([0], "run").obs, clips.obs)


def test_questions_about_several_clips_and_axes(store: LabelStore, tmp_path: Path) -> None:
    """Three clips, two and one side by side; they come back from tables, lines of JSON and rows of CSV."""
    asked = [
        (Query("best", torch.tensor([[1, 2, 3], [4, 5, 6]]), 5), Answer(torch.tensor([2.0, NAN]), torch.tensor([1, 3]))),
        (Query("graded", torch.tensor([[7, 8]]), 5), Answer(torch.tensor([0.25]), torch.tensor([1]))),
        (Query("pair:safety", torch.tensor([[7, 8]]), 5), answer(1.0)),
        (Query("rating", torch.tensor([[9]]), 5), Answer(torch.tensor([4.0]), torch.tensor([1]))),
    ]
    for number, (query, given) in zip((0, 2, 3, 4), asked, strict=True):
        store.put(AskKey("run", 0, number), query, given, **WHO)
    questions = store.questions("run")
    assert questions.kinds == ["best", "best", "graded", "pair:safety", "rating"]
    assert questions.start[:, :3].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, -1], [7, 8, -1], [9, -1, -1]]
    for query, given in asked:
        for found in (store.labels(query.kind), store.questions("run").take(questions.of(query.kind)).labels(query.kind, 5)):
            assert torch.equal(found.start, query.start) and torch.equal(found.status, given.status)
            torch.testing.assert_close(found.value, given.value, equal_nan=True)
    assert len(store.labels("pair")) == 0  # a pair on an axis is none
    store.export_jsonl(tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line.get("others") for line in lines] == [[3], [6], None, None, None] and "others" not in lines[2]
    again = LabelStore(tmp_path / "again.db", "data-a")
    assert again.import_jsonl(tmp_path / "out.jsonl") == 5 and again.records() == store.records()
    with pytest.raises(UserError, match=r"Round 0 of run 'run' in .* asked best and graded and pair:safety and rating: name one"):
        store.stored("run", 0)
    store.put(AskKey("run", 1, 5), Query("best", torch.tensor([[1, 2]]), 5), answer(1.0), **WHO)
    with pytest.raises(UserError, match="Questions of kind 'best' are about 2 and 3 clips, and those of one fit have one number"):
        store.labels("best")


@pytest.mark.parametrize(
    ("kind", "start", "value", "status", "problem"),
    [
        ("graded", [1, 2], 0.3, 1, "has value 0.3.*: a graded's label is 0, .25, .5, .75 or 1"),
        ("graded", [1, 2], 0.5, 1, "0.5 goes with equal"),
        ("graded", [1, 2, 3], 0.75, 1, r"is a graded about 3 segment\(s\): a graded has two"),
        ("best", [1, 2, 3], 3.0, 1, "has value 3.0: a best's label is the number of the best segment, from 0"),
        ("best", [1, 2, 3], 1.0, 2, "is a best with status equal"),
        ("best", [1, 2, 1], 1.0, 1, "compares the segment from row 1 with itself"),
        ("best", [1], 0.0, 1, r"is a best about 1 segment\(s\): a best has two to ten"),
        (
            "pair:",
            [1, 2],
            1.0,
            1,
            "has kind 'pair:': write one of pair, rating, graded, best, perhaps with an axis as pair:safety",
        ),
        ("pair:" + "x" * 60, [1, 2], 1.0, 1, "has kind 'pair:x+': write one of"),
        ("worst", [1, 2], 1.0, 1, "has kind 'worst': write one of pair, rating, graded, best"),
    ],
)
def test_answers_of_other_kinds_that_contradict_themselves(
    store: LabelStore, kind: str, start: list[int], value: float, status: int, problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        store.put(
            AskKey("run", 0, 0),
            Query(kind, torch.tensor([start]), 5),
            Answer(torch.tensor([value]), torch.tensor([status])),
            **WHO,
        )
    assert store.count == 0
