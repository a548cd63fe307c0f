"""Answers that share a transaction: one commit for many, and a failure undoes its own block alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from lightning_pbrl.data.database import SharedDatabase
from lightning_pbrl.data.tables import CLOSED
from lightning_pbrl.errors import UserError


def note(db: sa.Connection, number: int) -> None:
    db.execute(CLOSED.insert(), {"run": "ada", "round": 0, "number": number})


def noted(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [number for (number,) in db.execute("SELECT number FROM pbrl_closed ORDER BY number")]


def test_a_thread_shares_a_commit(tmp_path: Path) -> None:
    store = SharedDatabase(tmp_path / "labels.sqlite")
    commits: list[int] = []
    sa.event.listen(store._engine, "commit", lambda _: commits.append(1))
    with store.together():
        for number in range(6):
            try:
                with store._answering() as db:
                    note(db, number)
                    if number == 3:
                        raise ValueError("of this block alone")
            except ValueError:
                assert number == 3
        assert noted(tmp_path / "labels.sqlite") == [] and not commits
    assert noted(tmp_path / "labels.sqlite") == [0, 1, 2, 4, 5] and commits == [1]
    with store._answering() as db:
        note(db, 6)
    assert noted(tmp_path / "labels.sqlite")[-1] == 6 and commits == [1, 1]


def test_a_commit_that_fails_is_told(tmp_path: Path) -> None:
    store = SharedDatabase(tmp_path / "labels.sqlite")

    def fail(_: object) -> None:
        raise sa.exc.OperationalError("COMMIT", None, Exception("database or disk is full"))

    sa.event.listen(store._engine, "commit", fail)
    with pytest.raises(UserError, match="its disk is full"), store.together(), store._answering() as db:
        note(db, 0)
    sa.event.remove(store._engine, "commit", fail)
    assert noted(tmp_path / "labels.sqlite") == []
    with store.together(), store._answering() as db:
        note(db, 1)
    assert noted(tmp_path / "labels.sqlite") == [1]


def test_a_transaction_that_the_database_has_undone_is_told(tmp_path: Path) -> None:
    """SQLite undoes the whole transaction on a full disk: nobody may hear that an answer of it is stored."""
    store, told = SharedDatabase(tmp_path / "labels.sqlite"), []

    def answer(*numbers: int) -> None:
        for number in numbers:
            try:
                with store._answering() as db:
                    note(db, number)
                    if number == 1:
                        db.exec_driver_sql("ROLLBACK")
                        raise sa.exc.OperationalError("INSERT", None, Exception("database or disk is full"))
            except UserError as error:
                told.append((number, "its disk is full" in str(error)))

    with pytest.raises(UserError, match="its disk is full"), store.together():
        answer(0, 1, 2)
    assert told == [(1, True), (2, True)] and noted(tmp_path / "labels.sqlite") == []  # and the first is told by the block
    with store.together():
        answer(3)
    assert noted(tmp_path / "labels.sqlite") == [3]


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
