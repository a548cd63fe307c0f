"""Tables of the label store, and SQLite's settings for durable storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from lightning_pbrl.data import jsonl
from lightning_pbrl.errors import UserError

RESTORE = "restore a copy, or import what was exported into a new store"

SCHEMA_VERSION = 4
"""Version of the schema, raised whenever an older library could misread a store.

2: several people answer, rounds are marked. 3: answers may count each on its own, runs end. 4: questions about more than two
segments, and of named axes.
"""

METADATA = sa.MetaData()

INFO = sa.Table(
    "pbrl_info",
    METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(256), nullable=False),
)
"""Table of the schema version."""

QUESTIONS = sa.Table(
    "pbrl_questions",
    METADATA,
    sa.Column("run", sa.String(256), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("start_0", sa.BigInteger, nullable=False),
    sa.Column("start_1", sa.BigInteger),
    sa.Column("others", sa.JSON(none_as_null=True)),  # starts of the third segment and those after it
    sa.Column("value", sa.Double),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("strategy", sa.JSON, nullable=False),
    sa.Column("teacher", sa.JSON, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("time", sa.String(40), nullable=False),
    sa.Column("answered_by", sa.String(256), nullable=False),
    sa.Index("pbrl_questions_open", "status", "run", "round", "number"),
)
"""Table of questions, one row each; every record keeps its origin (strategy, teacher, seed, data, time, annotator)."""

CLIPS = sa.Table(
    "pbrl_clips",
    METADATA,
    sa.Column("run", sa.String(256), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("content", sa.LargeBinary, nullable=False),  # safetensors: obs, action, reward
)
"""Table of the content of questions' segments, for data that forget rows."""

ORDERED = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""Type of a number that a database counts up."""


def _named(*columns: sa.Column[Any], keys: bool = False) -> list[sa.Column[Any]]:
    """Return the columns of a question's name, then others."""
    name: list[tuple[str, Any]] = [("run", sa.String(256)), ("round", sa.Integer), ("number", sa.BigInteger)]
    own: list[sa.Column[Any]] = [
        sa.Column(each, kind, primary_key=keys, autoincrement=False, nullable=False) for each, kind in name
    ]
    return [*own, *columns]


ANSWERS = sa.Table(
    "pbrl_answers",
    METADATA,
    sa.Column("id", ORDERED, primary_key=True),
    *_named(
        sa.Column("person", sa.String(256), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),  # label, practice, check, repeat
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("strength", sa.Double),
        sa.Column("seconds", sa.Double),
        sa.Column("swapped", sa.Boolean),
        sa.Column("time", sa.String(40), nullable=False),
    ),
    sa.UniqueConstraint("run", "round", "number", "person", "purpose", "revision"),
    sa.Index("pbrl_answers_person", "person", "id"),
)
"""Table of every answer of every person, all revisions kept; only added to.

``value`` is of the stored order of the segments. ``purpose`` tells labels from answers to practice, check and repeat questions.
Seconds and side are null where an imported file does not tell them.
"""

OUTCOMES = sa.Table(
    "pbrl_outcomes",
    METADATA,
    sa.Column("id", ORDERED, primary_key=True),
    *_named(
        sa.Column("value", sa.Double),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("time", sa.String(40), nullable=False),
    ),
)
"""Table of every change of a question's label after it was asked, in order; only added to."""

COUNTED = sa.Table(
    "pbrl_counted",
    METADATA,
    sa.Column("outcome", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("answer", sa.BigInteger, primary_key=True, autoincrement=False),
)
"""Table of the answers that count each on its own since an outcome, where a rule says so; the outcome's label sums them up."""

MARKS = sa.Table(
    "pbrl_marks",
    METADATA,
    sa.Column("run", sa.String(256), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("outcome", sa.BigInteger, nullable=False),
    sa.Column("time", sa.String(40), nullable=False),
)
"""Table of the newest outcome that each round of a run has learned from."""

PERSONS = sa.Table(
    "pbrl_persons",
    METADATA,
    sa.Column("name", sa.String(256), primary_key=True),
    sa.Column("token", sa.String(64), nullable=False),  # its hash
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("time", sa.String(40), nullable=False),
)
"""Table of the people who may answer: a name that they chose, and nothing else about them."""

CLOSED = sa.Table("pbrl_closed", METADATA, *_named(keys=True))
"""Table of questions that nobody is asked any more; round and number -1 stand for all of a run."""

ENDED = sa.Table(
    "pbrl_ended",
    METADATA,
    sa.Column("run", sa.String(256), primary_key=True),
    sa.Column("how", sa.String(16), nullable=False),  # asked, ended
    sa.Column("time", sa.String(40), nullable=False),
)
"""Table of the runs that ask nothing more: all is asked, or the fit has ended. A run that asks again has no row."""

SINCE = {1: {ANSWERS.name, OUTCOMES.name, MARKS.name, PERSONS.name, CLOSED.name}, 2: {COUNTED.name, ENDED.name}}
"""Tables that a store of an older version lacks."""


LARGEST_CELL = 256 * 2**20
"""Largest size of the content of one question, bytes; a damaged file may declare more."""

SAFE = {"cell_size_check": "ON", "trusted_schema": "OFF"}
"""Settings for files that may be damaged, or come from others: https://sqlite.org/security.html."""


def tune_sqlite(engine: sa.Engine, pragmas: Mapping[str, int | str]) -> None:
    """Set up SQLite on every connection, and let SQLAlchemy rather than Python's driver begin transactions.

    Source: SQLAlchemy documentation, SQLite dialect, "Enabling Non-Legacy SQLite Transactional Modes".
    """

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_CELL)
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name}={value}").close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes")  # a writer takes its lock before it reads
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def prepare(db: sa.Connection, name: str) -> None:
    """Create the tables in an empty database, or check that existing ones are complete.

    Raises:
        UserError: if a table or the version is missing, or the version is newer.
    """
    there = set(sa.inspect(db).get_table_names()) & set(METADATA.tables)
    if not there:
        METADATA.create_all(db)
        db.execute(INFO.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))
        return
    version = db.scalar(sa.select(INFO.c.value).where(INFO.c.key == "schema_version")) if INFO.name in there else None
    if not str(version).isdecimal():
        raise UserError(f"The label store {name} is damaged, it does not record its version: {RESTORE}.")
    if int(str(version)[:9]) > SCHEMA_VERSION:
        raise UserError(
            f"The label store {name} has schema version {version!s:.20} and this library reads up to {SCHEMA_VERSION}: "
            "upgrade lightning-pbrl."
        )
    later = set().union(*(tables for since, tables in SINCE.items() if int(str(version)) <= since))
    if missing := sorted(set(METADATA.tables) - there - later):
        raise UserError(f"The label store {name} is damaged, it has no table {missing[0]}: {RESTORE}.")
    if int(str(version)) < SCHEMA_VERSION:
        METADATA.create_all(db)
        _widen(db)
        db.execute(INFO.update().where(INFO.c.key == "schema_version").values(value=str(SCHEMA_VERSION)))
    for index in (index for table in METADATA.tables.values() for index in table.indexes):
        index.create(db, checkfirst=True)  # an older store has its tables without them


def _widen(db: sa.Connection) -> None:
    """Add the columns of questions that a store of an older version lacks."""
    there = {column["name"] for column in sa.inspect(db).get_columns(QUESTIONS.name)}
    for column in QUESTIONS.c:
        if column.name not in there:
            db.exec_driver_sql(f"ALTER TABLE {QUESTIONS.name} ADD COLUMN {column.name} {column.type.compile(db.dialect)}")
    if db.dialect.name != "sqlite":  # which bounds no text
        db.exec_driver_sql(f"ALTER TABLE {QUESTIONS.name} ALTER COLUMN kind TYPE {QUESTIONS.c.kind.type.compile(db.dialect)}")


def check_sound(db: sa.Connection, name: str) -> None:
    """Check an SQLite file page by page, and every question in it.

    Raises:
        UserError: naming the first page or question that is damaged.
    """
    if db.dialect.name == "sqlite":
        found = str(db.exec_driver_sql("PRAGMA integrity_check(1)").scalar())
        if found != "ok":
            raise UserError(f"The label store {name} is damaged ({' '.join(found.split())}): {RESTORE}.")
    if not sa.inspect(db).has_table(QUESTIONS.name):
        return
    there = {column["name"] for column in sa.inspect(db).get_columns(QUESTIONS.name)}
    known = [column for column in QUESTIONS.c if column.name in there or column.name not in jsonl.OPTIONAL]
    for stored in db.execute(sa.select(*known)).mappings():
        row = {**jsonl.OPTIONAL, **stored}
        if problem := jsonl.wrong_type(row) or jsonl.contradiction(row):
            raise UserError(f"The label store {name} is damaged, question {row['number']!r} of run {row['run']!r} {problem}.")
