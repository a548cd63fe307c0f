"""The label store's tables, and how SQLite is made to keep what it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

SCHEMA_VERSION = 1
"""Raised whenever an older library could misread a store."""

METADATA = sa.MetaData()

INFO = sa.Table(
    "pbrl_info",
    METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(256), nullable=False),
)
"""The schema version."""

QUESTIONS = sa.Table(
    "pbrl_questions",
    METADATA,
    sa.Column("run", sa.String(256), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("start_0", sa.BigInteger, nullable=False),
    sa.Column("start_1", sa.BigInteger),
    sa.Column("value", sa.Double),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("strategy", sa.JSON, nullable=False),
    sa.Column("teacher", sa.JSON, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("time", sa.String(40), nullable=False),
    sa.Column("answered_by", sa.String(256), nullable=False),
)
"""One row per question; every record keeps where it comes from (strategy, teacher, seed, data, time, who)."""

CLIPS = sa.Table(
    "pbrl_clips",
    METADATA,
    sa.Column("run", sa.String(256), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("content", sa.LargeBinary, nullable=False),  # safetensors: obs, action, reward
)
"""What a question's segments held, where the data may forget them."""


def tune_sqlite(engine: sa.Engine, pragmas: Mapping[str, int | str]) -> None:
    """Set SQLite up on every connection, and let SQLAlchemy rather than Python's driver begin transactions.

    Source: SQLAlchemy documentation, SQLite dialect, "Enabling Non-Legacy SQLite Transactional Modes".
    """

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name}={value}").close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes")  # a writer takes its lock before it reads
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
