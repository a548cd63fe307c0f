"""The desk: open questions for people, and the answers that they give; the side of the label store that the page talks to."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.database import SharedDatabase
from lightning_pbrl.data.feedback import Kind, Status
from lightning_pbrl.data.outcomes import now, record
from lightning_pbrl.data.tables import ANSWERS, CLOSED, PERSONS, QUESTIONS
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling import statements
from lightning_pbrl.labelling.interface import Kept, Key, OpenQuestion, Overview, Person, Progress, Role
from lightning_pbrl.labelling.questions import is_swapped, majority, question_for
from lightning_pbrl.labelling.statements import ALL, GIVEN, LABEL, LABEL_PENDING, NEWEST, QUESTION, named
from lightning_pbrl.labelling.summary import agreed, summaries

FRESH = 0.5
"""Seconds for which people, and counts of large stores, are remembered."""
LARGE = 1000
"""Questions from which on counts are remembered."""
LONGEST_NAME = 64
"""Largest number of characters of a person's name."""


class Desk(SharedDatabase):
    """Open questions and people's answers of a label store. Every answer is on disk when :meth:`answer` returns.

    Several people may answer a question. Its label is set once ``overlap`` of them have: by the majority, or equal where there
    is none. A later answer or revision sets it anew, and each change is an outcome, so that rounds that have seen the former
    label keep it (:mod:`~lightning_pbrl.data.outcomes`).

    Args:
        path_or_url: the store, a file or a SQLAlchemy URL.
        run: hand out questions of this run only; of all when None.
        overlap: people who answer each question.
        timeout: seconds for which a question that was handed out is not handed to others.
        bins: levels of ratings, 0 .. bins - 1.
    """

    def __init__(
        self, path_or_url: str | Path, run: str | None = None, overlap: int = 1, timeout: float = 120.0, bins: int = 10
    ) -> None:
        super().__init__(path_or_url)
        self.run, self.overlap, self.timeout, self.levels = run, overlap, timeout, bins
        self._handed: dict[Key, dict[str, float]] = {}
        self._handing = threading.Lock()
        self._open = statements.open_questions(overlap, run)
        self._first, self._answered = statements.first(self._open), statements.answered(run)
        self._counts = statements.counts(self._open, run)
        self._persons: tuple[float, list[tuple[str, Person]]] = (-math.inf, [])
        self._counted: tuple[float, tuple[int, int, int]] = (-math.inf, (0, 0, 0))

    @property
    def runs(self) -> list[str]:
        """Names of the runs that have asked."""
        with self._reading() as db:
            found = list(db.scalars(sa.select(QUESTIONS.c.run).distinct().order_by(QUESTIONS.c.run)))
        return [run for run in found if self.run in (None, run)]

    def bins(self, run: str) -> int:
        """Return the number of levels of a run's ratings."""
        return self.levels

    # People --------------------------------------------------------------------------------------------------------------

    def invite(self, name: str, role: Role = "labeller") -> str:
        """Return a new token for a person, whose old one stops working; the store keeps its hash alone.

        Raises:
            UserError: for an empty or very long name.
        """
        name = " ".join(name.split())
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise UserError(f"{name[:LONGEST_NAME]!r} is no name for a person: give 1 to {LONGEST_NAME} printable characters.")
        token = secrets.token_urlsafe(24)
        with self._writing() as db:
            db.execute(PERSONS.delete().where(PERSONS.c.name == name))
            db.execute(PERSONS.insert().values(name=name, token=_hash(token), role=role, time=now()))
        self._persons = (-math.inf, [])
        return token

    def people(self) -> list[Person]:
        """Return everyone who was invited."""
        with self._reading() as db:
            return [Person(row.name, row.role) for row in db.execute(sa.select(PERSONS).order_by(PERSONS.c.name))]

    def person(self, token: str) -> Person | None:
        """Return the person whose token this is; None for an unknown one. Compares every person's, in constant time."""
        given, found = _hash(token), None
        read, persons = self._persons
        if time.monotonic() - read > FRESH:
            read = time.monotonic()
            with self._reading() as db:
                persons = [(row.token, Person(row.name, row.role)) for row in db.execute(sa.select(PERSONS)).all()]
            self._persons = read, persons
        for hashed, person in persons:
            if hmac.compare_digest(hashed, given):
                found = person
        return found

    # Questions -----------------------------------------------------------------------------------------------------------

    def next(self, person: str, count: int = 2, without: Collection[Key] = ()) -> list[OpenQuestion]:
        """Return open questions for a person, the oldest first, and hold them back from others for ``timeout`` seconds."""
        moment, found = time.monotonic(), []
        with self._handing:
            self._handed = {key: held for key, held in self._handed.items() if max(held.values()) > moment}
            most = count + len(without) + len(self._handed)
            with self._reading() as db:
                rows = db.execute(self._first, {"person": person, "most": most}).mappings().all()
            for row in rows:
                key = Key(row["run"], row["round"], row["number"])
                others = sum(until > moment for who, until in self._handed.get(key, {}).items() if who != person)
                if key in without or others >= max(self.overlap - row["given"], 1):
                    continue
                self._handed.setdefault(key, {})[person] = moment + self.timeout
                found.append(question_for(row, person, None))
                if len(found) == count:
                    break
        return found

    def waiting(self, count: int) -> list[OpenQuestion]:
        """Return the oldest open questions, whoever may answer them."""
        with self._reading() as db:
            rows = db.execute(self._first, {"person": "", "most": count}).mappings().all()
        return [question_for(row, "", None) for row in rows]

    def question(self, key: Key, person: str) -> OpenQuestion | None:
        """Return a question as a person sees it, with the present answer; None if there is no such question."""
        with self._reading() as db:
            row = db.execute(QUESTION, named(key)).mappings().first()
            last = db.execute(NEWEST, named(key) | {"person": person}).mappings().first() if person else None
        return None if row is None else question_for(row, person, last)

    def last(self, person: str) -> OpenQuestion | None:
        """Return the question that a person has answered last."""
        where = [ANSWERS.c.person == person] + ([] if self.run is None else [ANSWERS.c.run == self.run])
        with self._reading() as db:
            row = db.execute(sa.select(ANSWERS).where(*where).order_by(ANSWERS.c.id.desc()).limit(1)).mappings().first()
        return None if row is None else self.question(Key(row["run"], row["round"], row["number"]), person)

    def close(self, key: Key | None, closed: bool = True) -> None:
        """Ask nobody about a question any more, or about any of the runs when None; or ask again.

        A closed question without a label counts as one that nobody could tell, so that a round does not wait for it.
        """
        keys = [Key(run, ALL, ALL) for run in self.runs] if key is None else [key]
        with self._writing() as db:
            for each in keys:
                db.execute(CLOSED.delete().where(*_at(CLOSED, each)))
                if closed:
                    db.execute(CLOSED.insert().values(**each._asdict()))
                if closed and each.round != ALL:
                    self._label(db, each, None, Status.SKIPPED, "closed", only_pending=True)

    # Answers -------------------------------------------------------------------------------------------------------------

    def answer(
        self,
        person: str,
        key: Key,
        value: float | None,
        status: Status,
        *,
        seconds: float = 0.0,
        revision: int = 0,
        strength: float | None = None,
    ) -> Kept:
        """Keep a person's answer, on disk when this returns, and set the question's label once enough people have answered.

        Args:
            person: who answers.
            key: of the question.
            value: of the stored order of the segments: 1 if the second is preferred, 0.5 for equal, None for skipped; a rating.
            status: of the answer.
            seconds: time that the person looked at it.
            revision: 0 for a first answer, n + 1 to replace revision n.
            strength: of the preference, in [0, 1].

        Raises:
            UserError: for a value that contradicts the status or kind, or is out of range.
        """
        with self._answering() as db:
            row = db.execute(QUESTION, named(key)).mappings().first()
            if row is None:
                return Kept("unknown", -1)
            self._check(dict(row), value, status)
            newest = {each["person"]: each for each in db.execute(GIVEN, named(key)).mappings()}
            last = newest.get(person)
            present = -1 if last is None else int(last["revision"])
            if last is not None and present == revision and (last["value"], last["status"]) == (value, int(status)):
                return Kept("again", present)
            if revision != present + 1:
                return Kept("late", present)
            if row["closed"]:
                return Kept("closed", present)
            about = {"value": value, "status": int(status), "strength": strength, "seconds": seconds, "time": now()}
            swapped = is_swapped(key, person) and row["kind"] == "pair"
            db.execute(ANSWERS.insert(), {**key._asdict(), "person": person, "revision": revision, "swapped": swapped, **about})
            self._settle(db, key, row["kind"], {**newest, person: about})
        with self._handing:  # not while somebody hands out what was open a moment ago
            self._handed.pop(key, None)
        return Kept("kept", revision)

    def _check(self, row: dict[str, Any], value: float | None, status: Status) -> None:
        """Raise a UserError if an answer does not fit its question."""
        problem = jsonl.contradiction({**row, "value": value, "status": int(status)})
        if not problem and status == Status.PENDING:
            problem = "is pending: give an answer, or none"
        if not problem and row["kind"] == "rating" and value is not None and not 0 <= value <= self.levels - 1:
            problem = f"has the rating {value:g}: give 0 to {self.levels - 1}"
        if problem:
            raise UserError(f"The answer to question {row['number']} of run {row['run']!r} {problem}.")

    def _settle(self, db: sa.Connection, key: Key, kind: Kind, newest: Mapping[str, Any]) -> None:
        """Set the label of a question from the newest answer of each person, if there are enough."""
        if len(newest) >= self.overlap:
            value, status = majority(kind, [(row["value"], Status(row["status"])) for row in newest.values()])
            self._label(db, key, value, status, ", ".join(newest))

    @staticmethod
    def _label(
        db: sa.Connection, key: Key, value: float | None, status: Status, answered_by: str, only_pending: bool = False
    ) -> None:
        """Write a question's label, and record the change."""
        change = LABEL_PENDING if only_pending else LABEL
        about = {"new_value": value, "new_status": int(status), "new_by": answered_by[:256], "new_time": now()}
        if db.execute(change, named(key) | about).rowcount:
            record(db, {**key._asdict(), "value": value, "status": int(status)})

    # Numbers -------------------------------------------------------------------------------------------------------------

    def progress(self, person: str) -> Progress:
        """Return the counts that a person sees."""
        with self._reading() as db:
            answered = db.scalar(self._answered, {"person": person}) or 0
            read, counts = self._counted
            if time.monotonic() - read > FRESH or counts[0] < LARGE:
                self._counted = time.monotonic(), counts  # other threads need not count as well
                self._counted = _, counts = time.monotonic(), tuple(db.execute(self._counts, {"person": person}).one())
        return Progress(answered, *counts)

    def answers(self) -> list[dict[str, Any]]:
        """Return every answer of every person, all revisions, in the order in which they were given."""
        where = [] if self.run is None else [ANSWERS.c.run == self.run]
        with self._reading() as db:
            same = sa.and_(*(ANSWERS.c[part] == QUESTIONS.c[part] for part in Key._fields))
            chosen = sa.select(ANSWERS, QUESTIONS.c.kind).join(QUESTIONS, same).where(*where).order_by(ANSWERS.c.id)
            return [dict(row) for row in db.execute(chosen).mappings()]

    def overview(self) -> Overview:
        """Return the numbers for a researcher."""
        runs = [] if self.run is None else [QUESTIONS.c.run == self.run]
        count = sa.select(sa.func.count()).select_from(QUESTIONS).where(*runs)
        with self._reading() as db:
            total, left = db.scalar(count) or 0, db.scalar(count.where(QUESTIONS.c.status == int(Status.PENDING))) or 0
            paused = bool(db.scalar(sa.select(sa.func.count()).select_from(CLOSED).where(CLOSED.c.round == ALL)))
        every = self.answers()
        return Overview(summaries(every), *agreed(every), left, total - left, total, paused)


def _at(table: sa.Table, key: Key) -> list[Any]:
    """Return the conditions that a row is about a question."""
    return [table.c[part] == value for part, value in key._asdict().items()]


def _hash(token: str) -> str:
    """Return the hash of a token as the store keeps it."""
    return hashlib.sha256(token.encode()).hexdigest()
