"""Answers in and out of a label store, one record per answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from lightning_pbrl.data.database import Database
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.jsonl import FIELDS, conflict
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.tables import ANSWERS, QUESTIONS
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.contents import packed
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.formats.records import PERSONAL, Answers, Given, Key, Record, key_of, questions_of, told
from lightning_pbrl.labelling.interface import Key as Question
from lightning_pbrl.labelling.questions import at
from lightning_pbrl.labelling.settling import MAJORITY, Rule


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


def existing(store: str | Path) -> str:
    """Return the file or URL of a label store.

    Raises:
        UserError: if there is no such file.
    """
    where = location(store)
    if "://" not in where and not Path(where).is_file():
        raise UserError(
            f"There is no label store {where}: check the path, start a run that asks, or import a file of answers into it first."
        )
    return where


def open_store(store: str | Path, fingerprint: str | None = None) -> LabelStore:
    """Open the label store of a file, folder or URL, whatever data set it is about.

    Args:
        store: its file, run folder or URL.
        fingerprint: of the data set of a new store; None where the store must exist.

    Raises:
        UserError: if there is none, it is about another data set, or it cannot be read.
    """
    where = existing(store) if fingerprint is None else location(store)
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


def records_of(store: LabelStore, answers: Answers = "label") -> list[Record]:
    """Return all questions as records.

    Args:
        store: the label store.
        answers: "label" gives one record per question, with its label. "newest" and "all" give one per answer of each person,
            and the label where the answers of persons are not known.
    """
    records, given = [{**row, **dict.fromkeys(PERSONAL)} for row in store.records()], _by_question(store)
    if answers == "label":
        return records
    found: list[Record] = []
    for record in records:
        theirs = given.get(key_of(record), [])
        if answers == "newest":
            theirs = list({row["person"]: row for row in theirs}.values())
        fields = ("value", "status", "time", *PERSONAL)
        found += [{**record, **{name: row[name] for name in fields}, "answered_by": row["person"]} for row in theirs] or [record]
    return found


def _by_question(store: LabelStore) -> dict[Key, list[Record]]:
    """Return people's answers for labels by question, all revisions, in the order in which they were given."""
    found: dict[Key, list[Record]] = {}
    for row in Desk(store.name).answers():
        if row["purpose"] == "label":
            found.setdefault(key_of(row), []).append(row)
    return found


def keep(store: LabelStore, records: Sequence[Record], rule: Rule = MAJORITY) -> tuple[int, int]:
    """Store answers with the content of their questions, all of them or, on any error, none.

    The one answer to a question becomes its label. Answers of several persons, answers with a revision, and those of the
    rule's expert are kept each; the label is settled from them as on the page.

    Args:
        store: the label store.
        records: one per answer or open question.
        rule: by which such answers become a label.

    Returns:
        How many questions were new, and how many answers were read.

    Raises:
        UserError: for a question that is told in two ways, and for an answer that differs from the stored one.
    """
    rows, several = list[Record](), dict[Key, list[Record]]()
    pending = {key_of(row): row for row in records if row["status"] == Status.PENDING}
    contents = {key_of(record): record["content"] for record in records if "content" in record}
    if len({tuple(part.shape[2:] for part in content.values()) for content in contents.values()}) > 1:
        raise UserError("The questions hold segments of several sizes of observations or actions: import one task's at a time.")
    for question, given in questions_of(records):
        key = key_of(question)
        one = given[0] if given else pending[key]
        row = {name: one.get(name) for name in FIELDS}
        personal = any(row["revision"] is not None or row["answered_by"] == rule.gold for row in given)
        if personal or len({row["answered_by"] for row in given}) > 1:
            several[key] = given
            row |= {"value": None, "status": int(Status.PENDING)}
        rows.append(row)

    def settle(db: sa.Connection) -> None:
        for key, given in several.items():
            rule.settle(db, _add(db, store.name, key, given))

    new = store.merge(rows, [packed(contents.get(key_of(row))) for row in rows], settle)
    return new, sum(row["status"] != Status.PENDING for row in records)


def of_expert(records: Sequence[Record], expert: str) -> list[Record]:
    """Return the answers as those of an expert.

    Raises:
        UserError: for a question that several persons have answered, or one person more than once.
    """
    for question, given in questions_of(records):
        if len(given) > 1:
            raise UserError(
                f"Question {told(key_of(question))} has {len(given)} answers, and an expert gives one: leave the others out of "
                "the file, or import it without --gold."
            )
    return [row if row["status"] == Status.PENDING else {**row, "answered_by": expert} for row in records]


def _add(db: sa.Connection, store: str, key: Key, given: Sequence[Record]) -> Record:
    """Add persons' answers to a question; a label that came without persons before counts as the answer of whom it names.

    Returns:
        The question, a row of its table.

    Raises:
        UserError: for an answer that differs from the stored one, and for a revision of one that is not there.
    """
    theirs = sa.select(ANSWERS).where(*at(ANSWERS, Question(*key)), ANSWERS.c.purpose == "label")
    there = {(row["person"], row["revision"]): row for row in map(dict, db.execute(theirs).mappings())}
    question = dict(db.execute(sa.select(QUESTIONS).where(*at(QUESTIONS, Question(*key)))).mappings().one())
    if not there and question["status"] != Status.PENDING:
        given = [{**question, **dict.fromkeys(PERSONAL)}, *given]
    for row in given:
        person = row["answered_by"]
        past = sum(name == person for name, _ in there)
        revision = max(past - 1, 0) if row["revision"] is None else row["revision"]
        problem, old = None, there.get((person, revision))
        if old is not None:
            problem = conflict({**row, "value": old["value"], "status": old["status"]}, row)
        elif revision != past:
            problem = f"has revision {revision} of {person} without those before it: give all of them, in their order"
        if problem:
            raise UserError(f"Question {told(key)} in {store} {problem}; nothing was imported.")
        if old is None:
            new = {name: row[name] for name in ("value", "status", "time", "seconds", "strength", "swapped")}
            new |= {"person": person, "purpose": "label", "revision": revision}
            db.execute(ANSWERS.insert().values(**Question(*key)._asdict(), **new))
            there[person, revision] = new
    return question


def given(store: LabelStore) -> list[Given]:
    """Return every answer of every person: those given on the page, and of other questions who is named with the label."""
    page = {(key, row["person"]): row for key, rows in _by_question(store).items() for row in rows}
    by_page = {key for key, _ in page}
    people = [
        Given(key, row["kind"], person, row["value"], Status(row["status"]), row["seconds"], row["swapped"])
        for (key, person), row in page.items()
    ]
    return people + [
        Given(key_of(row), row["kind"], row["answered_by"], row["value"], Status(row["status"]), row["seconds"], row["swapped"])
        for row in records_of(store)
        if row["status"] != Status.PENDING and key_of(row) not in by_page
    ]
