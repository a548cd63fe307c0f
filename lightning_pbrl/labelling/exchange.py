"""Answers in and out of a label store, one record per answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from lightning_pbrl.data.database import Database
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.jsonl import FIELDS
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.tables import QUESTIONS
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.formats.records import PERSONAL, Given, Key, Record, key_of, told


def location(store: str | Path) -> str:
    """Return the file or URL of a label store, which may be named by its run folder.

    Raises:
        UserError: for a run folder without one.
    """
    if "://" in str(store) or not Path(store).is_dir():
        return str(store)
    found = Path(store) / "labels.sqlite"
    if not found.is_file():
        raise UserError(f"The folder {store} has no labels.sqlite: name the run folder of a fit that asked, or the label store.")
    return str(found)


def open_store(store: str | Path, fingerprint: str | None = None) -> LabelStore:
    """Open the label store of a file, folder or URL, whatever data set it is about.

    Args:
        store: its file, run folder or URL.
        fingerprint: of the data set of a new store; None where the store must exist.

    Raises:
        UserError: if there is none, it is about another data set, or it cannot be read.
    """
    where = location(store)
    if "://" not in where and not Path(where).is_file() and fingerprint is None:
        raise UserError(f"There is no label store {where}: check the path, or import a file of answers into it first.")
    return LabelStore(where, fingerprint_of(store) or fingerprint or "")


def fingerprint_of(store: str | Path) -> str | None:
    """Return the fingerprint of the data that a store's questions are about; None for a store without any."""
    where = location(store)
    if "://" not in where and not Path(where).is_file():
        return None
    return _Fingerprint(where).read()


class _Fingerprint(Database):
    """A label store of which only the fingerprint is read."""

    def read(self) -> str | None:
        with self._reading() as db:
            return db.scalar(sa.select(QUESTIONS.c.fingerprint).limit(1))


def records_of(store: LabelStore) -> list[Record]:
    """Return all answers, and the questions without one, as records."""
    return [{**row, **dict.fromkeys(PERSONAL)} for row in store.records()]


def keep(store: LabelStore, records: Sequence[Record]) -> tuple[int, int]:
    """Store answers, all of them or, on any error, none.

    Returns:
        How many questions were new, and how many answers were read.

    Raises:
        UserError: for answers of several persons that differ, for the store keeps one answer per question; for one that
            differs from the stored one.
    """
    rows: dict[Key, Record] = {}
    for record in records:
        row, key = {name: record[name] for name in FIELDS}, key_of(record)
        before = rows.setdefault(key, row)
        if before["status"] == Status.PENDING:
            rows[key] = row
        elif row["status"] != Status.PENDING and (row["status"], row["value"]) != (before["status"], before["value"]):
            raise UserError(
                f"Question {told(key)} has different answers of {before['answered_by']} and {row['answered_by']}, and the label "
                "store keeps one answer per question: leave one out; nothing was imported."
            )
    return store.merge(list(rows.values())), sum(row["status"] != Status.PENDING for row in records)


def given(store: LabelStore) -> list[Given]:
    """Return every answer of every person: those given on the page, and of other questions who is named with the label."""
    page = {
        (row["run"], row["round"], row["number"], row["person"]): row
        for row in Desk(store.name).answers()
        if row["purpose"] == "label"
    }
    by_page = {key[:3] for key in page}
    people = [
        Given(key[:3], row["kind"], key[3], row["value"], Status(row["status"]), row["seconds"], row["swapped"])
        for key, row in page.items()
    ]
    return people + [
        Given(key_of(row), row["kind"], row["answered_by"], row["value"], Status(row["status"]), row["seconds"], row["swapped"])
        for row in records_of(store)
        if row["status"] != Status.PENDING and key_of(row) not in by_page
    ]
