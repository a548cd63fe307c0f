"""The label store: every question and answer of every run, on disk before training goes on.

One row per question, named by (run, round, number). A batch of answers is one transaction: after a crash it is there
as a whole or not at all, and putting it again changes nothing, so a resumed run neither loses an answer nor asks twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch
from torch import Tensor

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.clip_bytes import STORED, pack, unpack
from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Kind, Labels, Query, Status
from lightning_pbrl.data.guard import listed, reading
from lightning_pbrl.data.outcomes import SEVERAL, Outcomes, now, record
from lightning_pbrl.data.questions import MOST, Questions, numbered
from lightning_pbrl.data.tables import CLIPS, QUESTIONS, RESTORE
from lightning_pbrl.errors import UserError

Blobs = Sequence[bytes | None]
_READ = ("run", "round", "number", "kind", "length", "start_0", "start_1", "others", "value", "status")
LEARNT = [QUESTIONS.c[name] for name in _READ]
"""Columns that learners read of a question."""


class LabelStore(Outcomes):
    """A durable table of questions and answers about one data set.

    Args:
        path_or_url: a file, made when it is not there, or any SQLAlchemy URL.
        fingerprint: of the data set whose row ids the questions name (``Transitions.fingerprint``).
        run: the run that ``spent`` and ``clips`` mean when they are not told another.
        pragmas: further SQLite settings, for instance ``{"max_page_count": 100}`` to bound the file.

    Raises:
        UserError: when the store cannot be opened, belongs to another data set, or is of a newer schema version.
    """

    def __init__(
        self,
        path_or_url: str | Path,
        fingerprint: str,
        run: str = "run",
        pragmas: Mapping[str, int | str] | None = None,
    ) -> None:
        super().__init__(path_or_url, pragmas)
        self.fingerprint, self.run = fingerprint, run
        others = sa.select(QUESTIONS.c.fingerprint).where(QUESTIONS.c.fingerprint != fingerprint)
        with self._reading() as db:
            other = db.scalar(others.limit(1))
        if other is not None:
            raise UserError(
                f"The label store {self.name} belongs to the data set {ascii(other)[1:-1]:.100} and this one is {fingerprint} "
                "(fingerprint mismatch): use the data it was made with, or give this run a store of its own."
            )

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(
        self,
        key: AskKey,
        query: Query,
        answer: Answer,
        *,
        strategy: Mapping[str, Any],
        teacher: Mapping[str, Any],
        seed: int,
        answered_by: str | Sequence[str],
        clips: Clips | None = None,
    ) -> None:
        """Store a batch of questions and their answers, on disk when this returns, or leave the store as it was.

        A pending question takes an answer. The same answer again changes nothing, nor does asking again.

        Args:
            key: of the first question; the others follow with number + 1, number + 2 ...
            query: the questions, B of them.
            answer: their answers or pending statuses, (B,).
            strategy: what chose the questions, with its settings; plain JSON.
            teacher: what answers them, with its settings; plain JSON.
            seed: of the run.
            answered_by: who answered, for instance "simulated" or a person's name; or a name for each question.
            clips: content of the segments, kept with the questions where the data may forget them.

        Raises:
            UserError: for a pair of one segment with itself, for an answer that contradicts its status, for another question
                under a name that is taken, for a second answer that differs from the stored one, and when the database cannot
                take the batch (a full disk, for instance).
        """
        shared = {
            "strategy": dict(strategy),
            "teacher": dict(teacher),
            "seed": seed,
            "fingerprint": self.fingerprint,
            "time": now(),
        }
        names = [answered_by] * len(query) if isinstance(answered_by, str) else answered_by
        rows = [
            {
                "run": key.run,
                "round": key.round,
                "number": key.number + i,
                "kind": query.kind,
                "length": query.length,
                "start_0": start[0],
                "start_1": start[1] if len(start) > 1 else None,
                "others": start[2:] or None,
                "value": None if math.isnan(value) else value,
                "status": status,
                "answered_by": name,
                **shared,
            }
            for i, (start, value, status, name) in enumerate(
                zip(query.start.tolist(), answer.value.tolist(), answer.status.tolist(), names, strict=True)
            )
        ]
        for row in rows:
            problem = jsonl.itself(row) or jsonl.contradiction(row)
            if problem:
                raise UserError(f"Question {row['number']} of run {key.run!r} {problem}.")
        blobs = [] if clips is None else [pack(clips, i) for i in range(len(rows))]
        with self._writing() as db:
            self._merge(db, rows, blobs)

    def import_jsonl(self, path: str | Path) -> int:
        """Read questions and answers written by :meth:`export_jsonl`; all of them or, on any error, none.

        Returns:
            How many questions were new.

        Raises:
            UserError: for a line that is not a full, consistent record (its number is told), or of another data set; for an
                answer to a question that has another one.
        """
        return self.merge(jsonl.read(path, self.fingerprint))

    def merge(self, records: list[dict[str, Any]], contents: Blobs = (), then: Callable[[Any], None] = lambda db: None) -> int:
        """Store checked records with their content, and do ``then``: all or, on any error, nothing; return how many were new."""
        with self._writing() as db:
            new = self._merge(db, records, contents)
            then(db)
        return new

    def export_jsonl(self, path: str | Path) -> int:
        """Write every question as one line of JSON, without clips; returns how many.

        Raises:
            UserError: when the file cannot be written.
        """
        rows = self.records()
        jsonl.write(rows, path)
        return len(rows)

    def records(self) -> list[dict[str, Any]]:
        """Return every question with its answer, as the fields of a line of JSON."""
        with self._reading() as db:
            return [dict(row) for row in db.execute(_ordered(sa.select(QUESTIONS))).mappings()]

    def _merge(self, db: sa.Connection, rows: list[dict[str, Any]], blobs: Blobs) -> int:
        """Insert what is new and answer what is pending; returns the number of new rows.

        Raises:
            UserError: for a row that contradicts what is stored; the transaction is then undone.
        """
        known: dict[tuple[str, int, int], sa.RowMapping] = {}
        for run, round_ in {(row["run"], row["round"]) for row in rows}:
            numbers = [row["number"] for row in rows if (row["run"], row["round"]) == (run, round_)]
            there = sa.select(QUESTIONS).where(QUESTIONS.c.run == run, QUESTIONS.c.round == round_)
            there = there.where(QUESTIONS.c.number.between(min(numbers), max(numbers)))
            known |= {_name(row): row for row in db.execute(there).mappings()}
        new = [i for i, row in enumerate(rows) if _name(row) not in known]
        if new:
            db.execute(QUESTIONS.insert(), [rows[i] for i in new])
        if held := [i for i in new if blobs and blobs[i] is not None]:
            contents = [dict(zip(("run", "round", "number"), _name(rows[i]), strict=True), content=blobs[i]) for i in held]
            db.execute(CLIPS.insert(), contents)
        for row in rows:
            if (old := known.get(_name(row))) is None:
                continue
            if problem := jsonl.conflict(dict(old), row):
                raise UserError(
                    f"Question {row['number']} of run {row['run']!r} in {self.name} {problem}; nothing of this batch was stored."
                )
            if old["status"] != Status.PENDING or row["status"] == Status.PENDING:
                continue
            same = sa.and_(*(QUESTIONS.c[part] == row[part] for part in ("run", "round", "number")))
            taken = {part: row[part] for part in ("value", "status", "time", "answered_by")}  # who was asked stays
            if db.execute(QUESTIONS.update().where(same, QUESTIONS.c.status == Status.PENDING).values(taken)).rowcount:
                record(db, row)
        return len(new)

    # -- reading ----------------------------------------------------------------------------------------------------

    def stored(self, run: str, round: int, kind: Kind | None = None) -> tuple[Tensor, Query, Answer]:  # noqa: A002 (as in AskKey)
        """Return the questions that a round has asked already, by number; a resumed run uses them in place of asking.

        Args:
            run: the run's name.
            round: the round.
            kind: of this kind only; needed where a round asked several.

        Returns:
            Numbers (B,) int64, the questions and the answers; B = 0 for a round that has asked nothing.

        Raises:
            UserError: when the questions are of several kinds or lengths and cannot be one query.
        """
        where = [QUESTIONS.c.run == run, QUESTIONS.c.round == round]
        found = self._questions(run, *where, *([] if kind is None else [QUESTIONS.c.kind == kind]))
        asked = sorted(set(found.kinds)) or [kind or "pair"]
        if len(asked) > 1:
            raise UserError(f"Round {round} of run {run!r} in {self.name} asked {' and '.join(asked)}: name one kind.")
        kind, labels = asked[0], self._labels(found, asked[0], None)
        return found.number, Query(kind, labels.start, labels.length), Answer(labels.value, labels.status)

    def questions(self, run: str, everyone: bool = False, from_round: int = 0, rounds: Sequence[int] = ()) -> Questions:
        """Return all that a run has asked in some rounds, of all kinds and any length, in one read.

        Args:
            run: the run's name.
            everyone: also what the other runs have asked.
            from_round: the first round to read.
            rounds: these rounds alone, if there are some.
        """
        where = [] if everyone else [QUESTIONS.c.run == run]
        where += [QUESTIONS.c.round >= from_round] if from_round else []
        where += [QUESTIONS.c.round.in_(rounds)] if rounds else []
        return self._questions(run, *where)

    def labels(
        self,
        kind: Kind,
        length: int | None = None,
        device: torch.device | str = "cpu",
        run: str | None = None,
        up_to_round: int | None = None,
    ) -> Labels:
        """All questions of a kind, whatever their status, by (run, number); several times where answers count each on its own.

        Args:
            kind: "pair", "rating", or another of :mod:`lightning_pbrl.data.kinds`.
            length: steps per segment; may be None when all questions have one length.
            device: where the tensors go.
            run: of this run only; every run's when None.
            up_to_round: of the rounds 0 .. ``up_to_round`` only; of all when None.

        Raises:
            UserError: when ``length`` is None and the questions have several lengths.
        """
        where = [QUESTIONS.c.kind == kind, *([] if length is None else [QUESTIONS.c.length == length])]
        where += [] if run is None else [QUESTIONS.c.run == run]
        where += [] if up_to_round is None else [QUESTIONS.c.round <= up_to_round]
        found = self._questions(self.run, *where)
        return self._labels(found.apart(self.said(found.each.tolist())), kind, length).to(device)

    def notes(self, run: str) -> dict[int, dict[str, Any]]:
        """Return what a run's strategy has noted for later rounds, by round: with the newest question of each."""
        last = sa.select(QUESTIONS.c.round, sa.func.max(QUESTIONS.c.number).label("number")).where(QUESTIONS.c.run == run)
        newest = last.group_by(QUESTIONS.c.round).subquery()
        both = sa.and_(QUESTIONS.c.round == newest.c.round, QUESTIONS.c.number == newest.c.number)
        chosen = sa.select(QUESTIONS.c.round, QUESTIONS.c.strategy).join(newest, both).where(QUESTIONS.c.run == run)
        with self._reading() as db:
            return {row.round: (row.strategy or {}).get("notes", {}) for row in db.execute(chosen)}

    def spent(self, run: str | None = None, before_round: int | None = None) -> int:
        """Return the number of questions that a run has asked, answered or not, before round ``before_round`` if given."""
        asked = sa.select(sa.func.count()).where(QUESTIONS.c.run == (self.run if run is None else run))
        if before_round is not None:
            asked = asked.where(QUESTIONS.c.round < before_round)
        with self._reading() as db:
            return db.scalar(asked) or 0

    def origin(self, run: str, number: int) -> dict[str, Any] | None:
        """Strategy, teacher and seed with which a run asked in round ``number``; None if it did not."""
        parts = ("strategy", "teacher", "seed")
        with self._reading() as db:
            first = _ordered(sa.select(*(QUESTIONS.c[part] for part in parts)).where(QUESTIONS.c.run == run))
            first = first.where(QUESTIONS.c.round == number)
            row = db.execute(first.limit(1)).mappings().first()
        return None if row is None else dict(row)

    @property
    def count(self) -> int:
        """Return the number of questions in the store, of all runs."""
        with self._reading() as db:
            return db.scalar(sa.select(sa.func.count()).select_from(QUESTIONS)) or 0

    def clips(self, numbers: Tensor | Iterable[int], run: str | None = None) -> Clips:
        """Return the stored content of a run's questions, in the order of ``numbers``: obs (B, C, T, O) and so on.

        Raises:
            UserError: when a question was stored without its content.
        """
        run = self.run if run is None else run
        wanted = [int(number) for number in numbers]
        with self._reading() as db:
            found: dict[int, bytes] = {}
            for at in range(0, len(wanted), 500):  # databases bound the size of an IN list
                some = CLIPS.c.number.in_(wanted[at : at + 500])
                chosen = sa.select(CLIPS.c.number, CLIPS.c.content).where(CLIPS.c.run == run, some)
                found |= {row.number: row.content for row in db.execute(chosen)}
        missing = sorted(set(wanted) - set(found))
        if missing or not wanted:
            what = f"question {missing[0]}" if missing else "no question at all"
            raise UserError(f"The label store {self.name} has no segment content for {what} of run {run!r}: put it with clips.")
        with reading(f"The label store {self.name}", "holds damaged segment content", RESTORE):
            parts = [unpack(found[number]) for number in wanted]
            names = [*STORED, *(["frames"] if all("frames" in part for part in parts) else [])]
            clips = Clips(**{name: torch.stack([part[name] for part in parts]) for name in names})
            if not clips.obs.shape[:3] == clips.action.shape[:3] == clips.reward.shape:
                raise ValueError(f"shapes {[tuple(part.shape) for part in clips[:3]]} do not fit")
        return clips

    def _questions(self, own: str, *where: sa.ColumnElement[bool]) -> Questions:
        """Read questions; those of the run ``own`` are marked. Raise a UserError for a pair of one segment with itself."""
        with self._reading() as db:
            rows = db.execute(_ordered(sa.select(*LEARNT, SEVERAL).where(*where))).all()
            counted = self._counted(db) if any(row[-1] for row in rows[:1]) else {}
        columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True))[:-1] or [()] * len(LEARNT)
        run, round_, number, kind, length, first, second, others, value, status = columns
        clips = [[a] if b is None else [a, b, *(more or ())] for a, b, more in zip(first, second, others, strict=True)]
        start = torch.tensor([each + [-1] * (MOST - len(each)) for each in clips], dtype=torch.int64).view(-1, MOST)
        if odd := [f"{number[i]} of run {run[i]!r}" for i, each in enumerate(clips) if len(set(each)) < len(each)]:
            raise UserError(
                f"The label store {self.name} holds questions that compare a segment with itself ({listed(odd)}): export the "
                "labels (export_jsonl), leave these lines out there and import the rest into a new store."
            )
        rounds, numbers, lengths, statuses = (torch.tensor(each, dtype=torch.int64) for each in (round_, number, length, status))
        values = torch.tensor([math.nan if each is None else each for each in value], dtype=torch.float32)
        mine = torch.tensor([each == own for each in run], dtype=torch.bool)
        apart = torch.tensor([counted.get(each, 0) for each in zip(run, round_, number, strict=True)], dtype=torch.int64)
        return Questions(mine, rounds, numbers, numbered(kind), lengths, start, values, statuses, apart)

    def _labels(self, found: Questions, kind: Kind, length: int | None) -> Labels:
        """Return questions of one kind as labels.

        Raises:
            UserError: when they have several lengths.
        """
        lengths = found.length.unique().tolist() or [length or 1]
        if len(lengths) > 1:
            raise UserError(f"The {kind} questions in {self.name} have lengths {lengths}: name one length.")
        return found.labels(kind, lengths[0])


def _name(row: Mapping[str, Any] | sa.RowMapping) -> tuple[str, int, int]:
    """Return the key of a row."""
    return row["run"], row["round"], row["number"]


def _ordered(select: sa.Select) -> sa.Select:
    """Rows in the order in which every reader sees them."""
    return select.order_by(QUESTIONS.c.run, QUESTIONS.c.number, QUESTIONS.c.round)
