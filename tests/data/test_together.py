"""Transactions that threads share: one commit for many, and a failure undoes its own block alone."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from lightning_pbrl.data.database import SharedDatabase
from lightning_pbrl.data.tables import CLOSED
from lightning_pbrl.data.together import Gate
from lightning_pbrl.errors import UserError


def note(db: sa.Connection, number: int) -> None:
    db.execute(CLOSED.insert(), {"run": "ada", "round": 0, "number": number})


def noted(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [number for (number,) in db.execute("SELECT number FROM pbrl_closed ORDER BY number")]


def test_many_threads_share_a_commit(tmp_path: Path) -> None:
    store, ready, seen = SharedDatabase(tmp_path / "labels.sqlite"), threading.Event(), []
    commits: list[int] = []
    sa.event.listen(store._engine, "commit", lambda _: commits.append(1))

    def work(number: int) -> None:
        try:
            with store._answering() as db:
                ready.wait(30)
                note(db, number)
                if number == 3:
                    raise ValueError("of this block alone")
            seen.append((number, number in noted(tmp_path / "labels.sqlite")))  # on disk when the block has ended
        except ValueError:
            seen.append((number, number in noted(tmp_path / "labels.sqlite")))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    while store._together._waiting < 5:
        time.sleep(0.001)
    ready.set()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == [(number, number != 3) for number in range(6)]
    assert noted(tmp_path / "labels.sqlite") == [0, 1, 2, 4, 5] and len(commits) == 1


def test_a_commit_that_fails_is_told_to_everybody(tmp_path: Path) -> None:
    store = SharedDatabase(tmp_path / "labels.sqlite")

    def fail(_: object) -> None:
        raise sa.exc.OperationalError("COMMIT", None, Exception("database or disk is full"))

    sa.event.listen(store._engine, "commit", fail)
    with pytest.raises(UserError, match="its disk is full"), store._answering() as db:
        note(db, 0)
    sa.event.remove(store._engine, "commit", fail)
    assert noted(tmp_path / "labels.sqlite") == []
    with store._answering() as db:
        note(db, 1)
    assert noted(tmp_path / "labels.sqlite") == [1]


def test_a_transaction_that_the_database_has_undone_is_told_to_everybody(tmp_path: Path) -> None:
    """SQLite undoes the whole transaction on a full disk: nobody may hear that an answer of it is stored."""
    store, told = SharedDatabase(tmp_path / "labels.sqlite"), []

    def work(number: int) -> None:
        try:
            with store._answering() as db:
                while store._together._waiting < 1 - number:  # the first one waits until the second is there
                    time.sleep(0.001)
                note(db, number)
                if number == 1:
                    db.exec_driver_sql("ROLLBACK")
                    raise sa.exc.OperationalError("INSERT", None, Exception("database or disk is full"))
        except UserError as error:
            told.append((number, "its disk is full" in str(error)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    threads[0].start()
    while store._together._batch is None:
        time.sleep(0.001)
    threads[1].start()
    for thread in threads:
        thread.join(30)
    work(2)
    assert sorted(told) == [(0, True), (1, True)] and noted(tmp_path / "labels.sqlite") == [2]


def test_nobody_reads_while_somebody_is_alone() -> None:
    gate, order, inside = Gate(), [], threading.Event()

    def write() -> None:
        inside.set()
        with gate.alone():
            order.append("write")

    with gate.shared():
        thread = threading.Thread(target=write)
        thread.start()
        inside.wait(30)
        order.append("read")
    thread.join(30)
    with gate.shared(), gate.shared():
        order.append("read again")
    assert order == ["read", "write", "read again"]


def test_an_older_store_gets_the_indexes(tmp_path: Path) -> None:
    SharedDatabase(tmp_path / "labels.sqlite")
    names = "SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE 'pbrl%' ORDER BY name"
    with closing(sqlite3.connect(tmp_path / "labels.sqlite")) as db, db:
        found = db.execute(names).fetchall()
        for (name,) in found:
            db.execute(f"DROP INDEX {name}")
    SharedDatabase(tmp_path / "labels.sqlite")
    with closing(sqlite3.connect(tmp_path / "labels.sqlite")) as db:
        assert db.execute(names).fetchall() == found == [("pbrl_answers_person",), ("pbrl_questions_open",)]
