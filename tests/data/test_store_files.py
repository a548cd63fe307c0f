"""The label store on disk: bound to its data, whole after every crash, and clear about damage."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import time
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch
from safetensors.torch import save
from store_questions import WHO, answer, filled, pairs
from warm import CONTEXT

from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Query
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels.db", "data-a")


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


# -- damage -----------------------------------------------------------------------------------------------------------


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
