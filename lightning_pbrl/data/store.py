"""The label store: every question and answer of every run, on disk before training goes on.

One row per question, named by (run, round, number). A batch of answers is one transaction: after a crash it is there
as a whole or not at all, and putting it again changes nothing, so a resumed run neither loses an answer nor asks twice.
SQLAlchemy speaks to the database; the default is one SQLite file, any of its URLs works (a team can share PostgreSQL).

SQLite runs with its rollback journal and ``synchronous=EXTRA`` (https://sqlite.org/pragma.html): a commit survives
loss of power, the file can be copied by itself, and network file systems work, none of which holds for its faster
write-ahead log. A commit costs milliseconds, and there is one per batch of questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch
from sqlalchemy.pool import NullPool
from torch import Tensor

from lightning_pbrl.data import jsonl
from lightning_pbrl.data.clip_bytes import pack, unpack
from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Kind, Labels, Query, Status
from lightning_pbrl.data.guard import listed, reading, reason
from lightning_pbrl.data.tables import CLIPS, QUESTIONS, RESTORE, SAFE, check_sound, prepare, tune_sqlite
from lightning_pbrl.errors import UserError

LEARNT = [QUESTIONS.c[name] for name in ("run", "number", "kind", "length", "start_0", "start_1", "value", "status")]
"""What learners read of a question."""


class LabelStore:
    """A durable table of questions and answers about one data set.

    Args:
        path_or_url: a file, made when it is not there, or any SQLAlchemy URL.
        fingerprint: of the data set whose row ids the questions name (``Transitions.fingerprint``).
        run: the run that :meth:`spent` and :meth:`clips` mean when they are not told another.
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
        self.name, self.fingerprint, self.run = str(path_or_url), fingerprint, run
        url: str | sa.URL = self.name
        if "://" not in self.name:  # a path, of which no "?" or "%" is read as part of a URL
            url = sa.URL.create("sqlite", database=str(Path(self.name).absolute()))
        with self._explained():
            if url != self.name:
                Path(self.name).parent.mkdir(parents=True, exist_ok=True)
            self._engine = sa.create_engine(url, poolclass=NullPool)  # a connection per call: none to lose or inherit
            if self._engine.dialect.name == "sqlite":
                tune_sqlite(self._engine, {"synchronous": "EXTRA", "busy_timeout": 30_000, **SAFE, **(pragmas or {})})
            with self._reading() as db:
                check_sound(db, self.name)
            with self._writing() as db:
                prepare(db, self.name)
                others = sa.select(QUESTIONS.c.fingerprint).where(QUESTIONS.c.fingerprint != fingerprint)
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
        answered_by: str,
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
            answered_by: who answered, for instance "simulated" or a person's name.
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
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "answered_by": answered_by,
        }
        rows = [
            {
                "run": key.run,
                "round": key.round,
                "number": key.number + i,
                "kind": query.kind,
                "length": query.length,
                "start_0": start[0],
                "start_1": start[1] if len(start) > 1 else None,
                "value": None if math.isnan(value) else value,
                "status": status,
                **shared,
            }
            for i, (start, value, status) in enumerate(
                zip(query.start.tolist(), answer.value.tolist(), answer.status.tolist(), strict=True)
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
        rows = jsonl.read(path, self.fingerprint)
        with self._writing() as db:
            return self._merge(db, rows, [])

    def export_jsonl(self, path: str | Path) -> int:
        """Write every question as one line of JSON, without clips; returns how many.

        Raises:
            UserError: when the file cannot be written.
        """
        with self._reading() as db:
            rows = [dict(row) for row in db.execute(_ordered(sa.select(QUESTIONS))).mappings()]
        jsonl.write(rows, path)
        return len(rows)

    def _merge(self, db: sa.Connection, rows: list[dict[str, Any]], blobs: list[bytes]) -> int:
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
        if new and blobs:
            contents = [dict(zip(("run", "round", "number"), _name(rows[i]), strict=True), content=blobs[i]) for i in new]
            db.execute(CLIPS.insert(), contents)
        for row in rows:
            old = known.get(_name(row))
            if old is None:
                continue
            problem = jsonl.conflict(dict(old), row)
            if problem:
                raise UserError(
                    f"Question {row['number']} of run {row['run']!r} in {self.name} {problem}; nothing of this batch was stored."
                )
            if old["status"] != Status.PENDING or row["status"] == Status.PENDING:
                continue
            same = sa.and_(*(QUESTIONS.c[part] == row[part] for part in ("run", "round", "number")))
            taken = {part: row[part] for part in ("value", "status", "time", "answered_by")}  # who was asked stays
            db.execute(QUESTIONS.update().where(same, QUESTIONS.c.status == Status.PENDING).values(taken))
        return len(new)

    # -- reading ----------------------------------------------------------------------------------------------------

    def stored(self, run: str, round: int, kind: Kind | None = None) -> tuple[Tensor, Query, Answer]:  # noqa: A002 (as in AskKey)
        """What a round has asked already, by number: what a resumed run uses in place of asking.

        Args:
            run: the run's name.
            round: the round.
            kind: of this kind only; needed where a round asked both kinds.

        Returns:
            Numbers (B,) int64, the questions and the answers; B = 0 for a round that has asked nothing.

        Raises:
            UserError: when the questions are of several kinds or lengths and cannot be one query.
        """
        where = [QUESTIONS.c.run == run, QUESTIONS.c.round == round]
        rows = self._rows(*where, *([] if kind is None else [QUESTIONS.c.kind == kind]))
        kinds = {row["kind"] for row in rows} or {kind or "pair"}
        if len(kinds) > 1:
            asked = " and ".join(sorted(kinds))
            raise UserError(f"Round {round} of run {run!r} in {self.name} asked {asked}: name one kind.")
        start, length, answer = self._tensors(rows, kinds.copy().pop(), None)
        numbers = torch.tensor([row["number"] for row in rows], dtype=torch.int64)
        return numbers, Query(kinds.pop(), start, length), answer

    def labels(
        self,
        kind: Kind,
        length: int | None = None,
        device: torch.device | str = "cpu",
        run: str | None = None,
        up_to_round: int | None = None,
    ) -> Labels:
        """All questions of a kind, whatever their status, by (run, number).

        Args:
            kind: "pair" or "rating".
            length: steps per segment; may be None when all questions have one length.
            device: where the tensors go.
            run: of this run only; every run's when None.
            up_to_round: of the rounds 0 .. ``up_to_round`` only; of all when None.

        Raises:
            UserError: when ``length`` is None and the questions have several lengths.
        """
        start, length, answer = self._tensors(self._rows(*_chosen(kind, length, run, up_to_round)), kind, length)
        return Labels(start, length, answer.value, answer.status).to(device)

    def numbers(self, kind: Kind, length: int | None = None, run: str | None = None, up_to_round: int | None = None) -> Tensor:
        """Numbers of the questions that :meth:`labels` gives for the same arguments, in the same order, (N,), int64."""
        with self._reading() as db:
            chosen = sa.select(QUESTIONS.c.number).where(*_chosen(kind, length, run, up_to_round))
            return torch.tensor(list(db.scalars(_ordered(chosen))), dtype=torch.int64)

    def kinds(self, run: str, round: int) -> dict[int, Kind]:  # noqa: A002 (as in AskKey)
        """Number and kind of the questions that a round has asked already, in the order of asking."""
        with self._reading() as db:
            chosen = sa.select(QUESTIONS.c.number, QUESTIONS.c.kind)
            chosen = chosen.where(QUESTIONS.c.run == run, QUESTIONS.c.round == round)
            return {row.number: row.kind for row in db.execute(_ordered(chosen))}

    def notes(self, run: str, before_round: int) -> dict[str, Any]:
        """What the strategy of the newest question of a run's rounds before ``before_round`` has noted for later ones."""
        chosen = sa.select(QUESTIONS.c.strategy).where(QUESTIONS.c.run == run, QUESTIONS.c.round < before_round)
        with self._reading() as db:
            newest = db.scalar(chosen.order_by(QUESTIONS.c.round.desc(), QUESTIONS.c.number.desc()).limit(1))
        return (newest or {}).get("notes", {})

    def spent(self, run: str | None = None, before_round: int | None = None) -> int:
        """How many questions a run has asked, answered or not (in the rounds before ``before_round``, if given)."""
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
        """How many questions the store holds, of all runs."""
        with self._reading() as db:
            return db.scalar(sa.select(sa.func.count()).select_from(QUESTIONS)) or 0

    def clips(self, numbers: Tensor | Iterable[int], run: str | None = None) -> Clips:
        """The stored content of a run's questions, in the order of ``numbers``: obs (B, C, T, O) and so on.

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
            clips = Clips(*(torch.stack([part[name] for part in parts]) for name in Clips._fields))
            if not clips.obs.shape[:3] == clips.action.shape[:3] == clips.reward.shape:
                raise ValueError(f"shapes {[tuple(part.shape) for part in clips]} do not fit")
        return clips

    def _rows(self, *where: sa.ColumnElement[bool]) -> list[sa.RowMapping]:
        with self._reading() as db:
            return list(db.execute(_ordered(sa.select(*LEARNT).where(*where))).mappings())

    def _tensors(self, rows: list[sa.RowMapping], kind: str, length: int | None) -> tuple[Tensor, int, Answer]:
        """Starts, the one length, and answers of ``rows``."""
        lengths = {row["length"] for row in rows} or {length or 1}
        if len(lengths) > 1:
            raise UserError(f"The {kind} questions in {self.name} have lengths {sorted(lengths)}: name one length.")
        if odd := [f"{row['number']} of run {row['run']!r}" for row in rows if jsonl.itself(dict(row))]:
            raise UserError(
                f"The label store {self.name} holds questions that compare a segment with itself ({listed(odd)}): export the "
                "labels (export_jsonl), leave these lines out there and import the rest into a new store."
            )
        starts = [(row["start_0"], row["start_1"]) if kind == "pair" else (row["start_0"],) for row in rows]
        start = torch.tensor(starts, dtype=torch.int64).reshape(len(rows), 2 if kind == "pair" else 1)
        value = torch.tensor([math.nan if row["value"] is None else row["value"] for row in rows], dtype=torch.float32)
        status = torch.tensor([row["status"] for row in rows], dtype=torch.int64)
        return start, lengths.pop(), Answer(value, status)

    # -- the database -----------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """A connection for one statement that only reads."""
        damaged = reading(f"The label store {self.name}", "is damaged", RESTORE)
        with damaged, self._explained(), self._engine.connect() as db:
            yield db

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One transaction: on disk when the block ends, undone when it fails."""
        with self._explained(), self._engine.execution_options(writes=True).begin() as db:
            yield db

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the database as sentences."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, OSError, ImportError) as error:
            said = reason(getattr(error, "orig", None) or error)
            if "full" in said or "No space" in said:
                raise UserError(
                    f"The label store {self.name} cannot take this batch of answers because its disk is full; nothing "
                    "given before is lost: free some space and resume the run."
                ) from error
            raise UserError(
                f"The label store {self.name} cannot be used ({said}); nothing given before is lost: check that the "
                "path or URL is right, is a label store, and may be written to."
            ) from error


def _name(row: Mapping[str, Any] | sa.RowMapping) -> tuple[str, int, int]:
    """The key of a row."""
    return row["run"], row["round"], row["number"]


def _chosen(kind: Kind, length: int | None, run: str | None, up_to_round: int | None) -> list[sa.ColumnElement[bool]]:
    """The conditions on the rows of a kind; None does not restrict."""
    where = [QUESTIONS.c.kind == kind]
    where += [] if length is None else [QUESTIONS.c.length == length]
    where += [] if run is None else [QUESTIONS.c.run == run]
    return where + ([] if up_to_round is None else [QUESTIONS.c.round <= up_to_round])


def _ordered(select: sa.Select) -> sa.Select:
    """Rows in the order in which every reader sees them."""
    return select.order_by(QUESTIONS.c.run, QUESTIONS.c.number, QUESTIONS.c.round)
