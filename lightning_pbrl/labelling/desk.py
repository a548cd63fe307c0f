"""The desk: open questions for people, and the answers that they give; the side of the label store that the page talks to."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.outcomes import Ended, now
from lightning_pbrl.data.tables import ANSWERS, CLOSED, ENDED, QUESTIONS
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling import statements
from lightning_pbrl.labelling.interface import Kept, Key, OpenQuestion, Overview, Progress, Purpose, Reviewed
from lightning_pbrl.labelling.people import People
from lightning_pbrl.labelling.quality import Quality
from lightning_pbrl.labelling.questions import ALL, at, is_swapped, key_of, question_for
from lightning_pbrl.labelling.reviewing import reviewed
from lightning_pbrl.labelling.settling import Combine, Rule, set_label
from lightning_pbrl.labelling.statements import GIVEN, QUESTION, named
from lightning_pbrl.labelling.summary import agreed, summaries

JUST_READ = 5.0
"""Seconds for which an answered question is still held back: longer than questions and counts that were read are used."""
FRESH = 0.5
"""Seconds for which counts of large stores are remembered."""
LARGE = 1000
"""Questions from which on counts are remembered."""
MORE = 16
"""Open questions that are read beyond those wanted, since others may take some of them at the same time."""
FIRST = Key("", ALL, ALL)
"""Name before those of all questions."""


class Desk(People):
    """Open questions and people's answers of a label store. Every answer is on disk when :meth:`answer` returns.

    Several people may answer a question. Its label is set once ``overlap`` of them have, by the majority unless another rule
    is named. A later answer or revision sets it anew, and each change is an outcome, so that rounds that have seen the former
    label keep it (:mod:`~lightning_pbrl.data.outcomes`).

    Args:
        path_or_url: the store, a file or a SQLAlchemy URL.
        run: hand out questions of this run only; of all when None.
        overlap: people who answer each question.
        timeout: seconds for which a question that was handed out is not handed to others.
        bins: levels of ratings, 0 .. bins - 1.
        combine: rule by which the answers of several people become a label; see :class:`~lightning_pbrl.labelling.settling.Rule`.
        gold: expert whose answers stand as labels, and are expected from others in practice and checks; None for nobody.
        practice: gold questions that a new person answers first, with feedback.
        check_every: one in so many questions is a gold one, without feedback; 0 for none.
        repeat_every: one in so many questions is one that the person has answered already; 0 for none.
        pragmas: further SQLite settings, as of :class:`~lightning_pbrl.data.store.LabelStore`.

    Raises:
        UserError: for a store that cannot be used, and for settings that leave no room for labels.
    """

    def __init__(
        self,
        path_or_url: str | Path,
        run: str | None = None,
        overlap: int = 1,
        timeout: float = 120.0,
        bins: int = 10,
        combine: Combine = "majority",
        gold: str | None = None,
        practice: int = 5,
        check_every: int = 20,
        repeat_every: int = 0,
        pragmas: Mapping[str, int | str] | None = None,
    ) -> None:
        self.quality = Quality(gold, practice, check_every, repeat_every, run)
        self.quality.check()
        super().__init__(path_or_url, pragmas)
        self.run, self.overlap, self.timeout, self.levels = run, overlap, timeout, bins
        self.rule = Rule(overlap, gold, combine)
        self._handed: dict[Key, dict[str, float]] = {}
        self._free = (-math.inf, FIRST)
        self._handing = threading.Lock()
        open_ = statements.open_questions(overlap, run, [] if gold is None else [~self.quality.is_gold()])
        self._first, self._answered = statements.first(open_), statements.answered(run)
        self._counts = statements.counts(open_, run)
        self._counted: tuple[float, tuple[int, int, int]] = (-math.inf, (0, 0, 0))
        self._answers_of: dict[str, tuple[float, int]] = {}
        if gold is not None:
            with self._writing() as db:
                self.rule.adopt(db)

    @property
    def runs(self) -> list[str]:
        """Names of the runs that have asked."""
        with self._reading() as db:
            found = list(db.scalars(sa.select(QUESTIONS.c.run).distinct().order_by(QUESTIONS.c.run)))
        return [run for run in found if self.run in (None, run)]

    def ended(self) -> Ended | None:
        """Return "asked" if the runs ask nothing more, "ended" if their fits have come to an end, None if one may ask."""
        with self._reading() as db:
            asked = sa.select(QUESTIONS.c.run).distinct().where(*([] if self.run is None else [QUESTIONS.c.run == self.run]))
            runs, how = set(db.scalars(asked)), {row.run: row.how for row in db.execute(sa.select(ENDED.c.run, ENDED.c.how))}
        found: set[Ended | None] = {how.get(run) for run in runs}
        return None if None in found or not found else "asked" if "asked" in found else "ended"

    def bins(self, run: str) -> int:
        """Return the number of levels of a run's ratings."""
        return self.levels

    # Questions -----------------------------------------------------------------------------------------------------------

    def next(self, person: str, count: int = 2, without: Collection[Key] = ()) -> list[OpenQuestion]:
        """Return open questions for a person, the oldest first, and hold them back from others for ``timeout`` seconds."""
        found = self._hand_out(person, count, without, self._where_to_look(person, count, without))
        if not self.quality.asks(person):
            return found
        with self._reading() as db:
            return self.quality.among(db, person, found, count, without)

    def _where_to_look(self, person: str, count: int, without: Collection[Key]) -> list[tuple[Key, int]]:
        """Return names of questions, and how many are to be read from each on, until a person has enough.

        The oldest open questions are those that people hold. They are read once in half a second; in between a person's own ones
        are, and those after the last that was handed out. The whole list comes last, in case that those were too few.
        """
        moment, most = time.monotonic(), count + len(without) + MORE
        with self._handing:
            read, free = self._free
            own = sorted(key for key, held in self._handed.items() if person in held and key not in without)
            if recent := moment - read < FRESH and self.overlap == 1 and all(key.run == free.run for key in own):
                own = [key for key in own if key < free]
            else:
                self._free = moment, free  # others need not read them as well
                self._handed = {key: held for key, held in self._handed.items() if max(held.values()) > moment}
            every = FIRST, most + len(self._handed)
        return [*((key, 1) for key in own), (free, most), every] if recent else [every]

    def _hand_out(
        self, person: str, count: int, without: Collection[Key], places: Sequence[tuple[Key, int]]
    ) -> list[OpenQuestion]:
        """Return the first questions at some places that nobody else holds, and hold them."""
        found: dict[Key, OpenQuestion] = {}
        for since, most in places:
            with self._reading() as db:
                rows = db.execute(self._first, {"person": person, "most": most, **named(since)}).mappings().all()
            moment = time.monotonic()
            with self._handing:
                for row in rows:
                    key = key_of(row)
                    others = sum(until > moment for who, until in self._handed.get(key, {}).items() if who != person)
                    if key in without or key in found or others >= max(self.overlap - row["given"], 1):
                        continue
                    self._handed.setdefault(key, {})[person] = moment + self.timeout
                    found[key] = question_for(row, person, None)
                    if len(found) == count:
                        self._free = self._free[0], key if since == FIRST else max(self._free[1], key)
                        break
            if len(found) == count:
                break
        return [found[key] for key in sorted(found)]

    def waiting(self, count: int) -> list[OpenQuestion]:
        """Return the oldest open questions, whoever may answer them."""
        with self._reading() as db:
            rows = db.execute(self._first, {"person": "", "most": count, **named(FIRST)}).mappings().all()
        return [question_for(row, "", None) for row in rows]

    def question(self, key: Key, person: str, repeat: bool = False) -> OpenQuestion | None:
        """Return a question as a person sees it, with the present answer; None if the person may not be asked it."""
        with self._reading() as db:
            row, mine, _ = self._read(db, key, person)
            purpose = None if row is None else self.quality.purpose(db, row, person, mine.keys(), repeat)
        return None if row is None or purpose is None else question_for(row, person, mine.get(purpose), purpose)

    def _read(self, db: sa.Connection, key: Key, person: str) -> tuple[Any, dict[Purpose, Any], list[Any]]:
        """Return a question's row, a person's newest answers to it by purpose, and all answers to it.

        The row is None if there is no such question, or it is of a run that is not handed out.
        """
        row = None if self.run not in (None, key.run) else db.execute(QUESTION, named(key)).mappings().first()
        given = [] if row is None else list(db.execute(GIVEN, named(key)).mappings())
        return row, {each["purpose"]: each for each in given if each["person"] == person}, given

    def reviewed(self, key: Key | None = None) -> Reviewed | None:
        """Return a question that has a label, or the first of them when None; None if there is no such question."""
        with self._reading() as db:
            return reviewed(db, key, self.run)

    def last(self, person: str) -> OpenQuestion | None:
        """Return the question that a person has answered last."""
        where = [ANSWERS.c.person == person] + ([] if self.run is None else [ANSWERS.c.run == self.run])
        with self._reading() as db:
            row = db.execute(sa.select(ANSWERS).where(*where).order_by(ANSWERS.c.id.desc()).limit(1)).mappings().first()
        return None if row is None else self.question(key_of(row), person, row["purpose"] == "repeat")

    def close(self, key: Key | None, closed: bool = True) -> None:
        """Ask nobody about a question any more, or about any of the runs when None; or ask again.

        A closed question without a label counts as one that nobody could tell, so that a round does not wait for it.
        """
        keys = [Key(run, ALL, ALL) for run in self.runs] if key is None else [key]
        with self._writing() as db:
            for each in keys:
                db.execute(CLOSED.delete().where(*at(CLOSED, each)))
                if closed:
                    db.execute(CLOSED.insert().values(**each._asdict()))
                if closed and each.round != ALL:
                    set_label(db, each, None, Status.SKIPPED, "closed", only_pending=True)

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
        repeat: bool = False,
    ) -> Kept:
        """Keep a person's answer, on disk when this returns, and set the question's label once enough people have answered.

        Args:
            person: who answers.
            key: of the question.
            value: of the stored order of the segments: 1 if the second is preferred, 0.5 for equal, None for skipped; a rating.
            status: of the answer.
            seconds: time that the person looked at it.
            revision: 0 for a first answer, n + 1 to replace revision n.
            strength: of the preference, in [0, 1]; None where it is not told.
            repeat: the person has answered the question before, and is asked again.

        Raises:
            UserError: for a value that contradicts the status or kind, or is out of range, as a strength may be.
        """
        with self._answering() as db:
            row, mine, given = self._read(db, key, person)
            purpose = None if row is None else self.quality.purpose(db, row, person, mine.keys(), repeat)
            if row is None or purpose is None:
                return Kept("unknown", -1)
            self._check(dict(row), value, status, strength)
            last = mine.get(purpose)
            present = -1 if last is None else int(last["revision"])
            told = value, int(status), strength
            if last is not None and present == revision and (last["value"], last["status"], last["strength"]) == told:
                return Kept("again", present)
            if revision != present + 1:
                return Kept("late", present)
            if row["closed"]:
                return Kept("closed", present)
            about = {"value": value, "status": int(status), "strength": strength, "seconds": seconds, "time": now()}
            swapped = is_swapped(key, person, purpose) and row["start_1"] is not None
            about |= {"person": person, "purpose": purpose, "revision": revision, "swapped": swapped}
            db.execute(ANSWERS.insert(), {**key._asdict(), **about})
            if purpose == "label":
                self.rule.settle(db, row, [*given, about])
        with self._handing:
            if self._handed.get(key, {}).pop(person, None):  # held on, for somebody may just have read that it is open
                self._handed[key][f"answered by {person}"] = time.monotonic() + JUST_READ
            read, already = self._answers_of.get(person, (-math.inf, 0))
            self._answers_of[person] = read, already + (revision == 0 and purpose == "label")
        return Kept("kept", revision)

    def _check(self, row: dict[str, Any], value: float | None, status: Status, strength: float | None) -> None:
        """Raise a UserError if an answer does not fit its question."""
        problem = jsonl.contradiction({**row, "value": value, "status": int(status)})
        if not problem and status == Status.PENDING:
            problem = "is pending: give an answer, or none"
        if not problem and row["kind"] == "rating" and value is not None and not 0 <= value <= self.levels - 1:
            problem = f"has the rating {value:g}: give 0 to {self.levels - 1}"
        if not problem and strength is not None and not 0 <= strength <= 1:
            problem = f"has the strength {strength:g}: give a number from 0 to 1, or none"
        if problem:
            raise UserError(f"The answer to question {row['number']} of run {row['run']!r} {problem}.")

    # Numbers -------------------------------------------------------------------------------------------------------------

    def progress(self, person: str) -> Progress:
        """Return the counts that a person sees."""
        moment = time.monotonic()
        (read, counts), (read_own, answered) = self._counted, self._answers_of.get(person, (-math.inf, 0))
        recent = counts[0] >= LARGE
        if not (recent and moment - read_own < FRESH):
            with self._reading() as db:
                answered = db.scalar(self._answered, {"person": person}) or 0
            self._answers_of[person] = moment, answered
        if not (recent and moment - read < FRESH):
            self._counted = moment, counts  # other threads need not count as well
            with self._reading() as db:
                counts = tuple(db.execute(self._counts, {"person": person}).one())
            self._counted = moment, counts
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
            golden = sa.select(QUESTIONS).where(self.quality.is_gold(), QUESTIONS.c.status != int(Status.SKIPPED), *runs)
            expected = {key_of(row): (row["value"], row["status"]) for row in db.execute(golden).mappings()}
        every = self.answers()
        return Overview(summaries(every, expected), *agreed(every), left, total - left, total, paused, self.ended())
