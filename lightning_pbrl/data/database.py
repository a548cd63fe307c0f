"""The database behind a label store: opened, checked, read and written, its errors told as sentences.

SQLAlchemy speaks to it; the default is one SQLite file, any of its URLs works (a team can share PostgreSQL).

SQLite runs with its rollback journal and ``synchronous=EXTRA`` (https://sqlite.org/pragma.html): a commit survives
loss of power, the file can be copied by itself, and network file systems work, none of which holds for its faster
write-ahead log. A commit costs milliseconds; there is one per batch of questions, and one for all answers that wait for it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, QueuePool

from lightning_pbrl.data.guard import reading, reason
from lightning_pbrl.data.tables import RESTORE, SAFE, check_sound, prepare, tune_sqlite
from lightning_pbrl.errors import UserError


class Database:
    """The tables of a label store, in a file or on a server.

    Args:
        path_or_url: a file, made when it is not there, or any SQLAlchemy URL.
        pragmas: further SQLite settings, for instance ``{"max_page_count": 100}`` to bound the file.
        connections: how many stay open between calls, and may be open at once; with 0 each call has its own, so that no process
            inherits one.

    Raises:
        UserError: when it cannot be opened, is damaged, or is of a newer schema version.
    """

    def __init__(self, path_or_url: str | Path, pragmas: Mapping[str, int | str] | None = None, connections: int = 0) -> None:
        self.name = str(path_or_url)
        url: str | sa.URL = self.name
        if "://" not in self.name:  # a path, of which no "?" or "%" is read as part of a URL
            url = sa.URL.create("sqlite", database=str(Path(self.name).absolute()))
        with self._explained():
            if url != self.name:
                Path(self.name).parent.mkdir(parents=True, exist_ok=True)
            kept = {"poolclass": QueuePool, "pool_size": connections, "max_overflow": 0}
            self._engine = sa.create_engine(url, **(kept if connections else {"poolclass": NullPool}))
            if self._engine.dialect.name == "sqlite":
                tune_sqlite(self._engine, {"synchronous": "EXTRA", "busy_timeout": 30_000, **SAFE, **(pragmas or {})})
            self._readers = self._engine
            if self._engine.dialect.name != "sqlite":  # a statement by itself, without two messages more for its transaction
                self._readers = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            with self._reading() as db:
                check_sound(db, self.name)
            with self._writing() as db:
                prepare(db, self.name)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """Connect for statements that only read; each sees what is committed."""
        damaged = reading(f"The label store {self.name}", "is damaged", RESTORE)
        with damaged, self._explained(), self._readers.connect() as db:
            yield db

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """Open one transaction: on disk when the block ends, undone when it fails."""
        with self._explained(), self._engine.execution_options(writes=True).begin() as db:
            yield db

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Tell errors of the database as sentences."""
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


class SharedDatabase(Database):
    """The same for a process of several threads: connections stay open, and transactions can be shared.

    Args:
        path_or_url: a file, made when it is not there, or any SQLAlchemy URL.
        pragmas: further SQLite settings.
        connections: how many stay open; more threads wait for one.
    """

    def __init__(self, path_or_url: str | Path, pragmas: Mapping[str, int | str] | None = None, connections: int = 8) -> None:
        super().__init__(path_or_url, pragmas, connections)
        weakref.finalize(self, self._engine.dispose)
        self._shared = threading.local()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let all answers that this thread gives in the block share a transaction, and so one flush to the disk (group commit).

        They are on disk when the block ends. An answer that fails is undone alone.

        Raises:
            UserError: when the block ends and none of its answers is on disk.
        """
        with self._writing() as db:
            self._shared.db, self._shared.error = db, None
            try:
                yield
            finally:
                self._shared.db = None
            if self._shared.error is not None:
                raise self._shared.error

    @contextmanager
    def _answering(self) -> Iterator[sa.Connection]:
        """Open a transaction, or take part in that of :meth:`together`; what the block did is undone when it fails."""
        db = getattr(self._shared, "db", None)
        if db is None:
            with self._writing() as db:
                yield db
        else:
            with self._explained():
                if self._shared.error is not None:
                    raise self._shared.error
                part = db.begin_nested()
                try:
                    yield db
                    part.commit()
                except BaseException as error:
                    try:
                        part.rollback()
                    except sa.exc.SQLAlchemyError:  # the database has undone everything, on a full disk for instance
                        self._shared.error = error
                    raise
