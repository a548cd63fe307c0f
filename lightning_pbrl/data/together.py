"""Transactions that several threads share, so that one flush to the disk keeps the answers of many people (group commit)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import sqlalchemy as sa

LONGEST = 0.1
"""Seconds after which a transaction takes no further thread, so that the first one need not wait for long."""


class Gate:
    """Readers of one process at the same time, or its writer alone; SQLite would let them wait for each other in long steps.

    A reader must not read again before it has ended.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers, self._closed = 0, False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Let nobody be alone for the time of the block."""
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                if self._closed:
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody reads, and keep readers away for the time of the block."""
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._closed = True
            while self._readers:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class _Batch:
    """One transaction, and what became of it."""

    def __init__(self, transaction: AbstractContextManager[sa.Connection]) -> None:
        self.open = ExitStack()
        self.db = self.open.enter_context(transaction)
        self.began = time.monotonic()
        self.ended = threading.Event()
        self.error: BaseException | None = None

    def end(self, alone: Callable[[], AbstractContextManager[None]]) -> None:
        """Commit while nobody reads, or undo everything after an error; let everybody go on."""
        try:
            with alone():
                if self.error is None:
                    self.open.close()
                else:
                    self.open.__exit__(type(self.error), self.error, self.error.__traceback__)
        except BaseException as error:  # noqa: BLE001 - told to everybody who took part
            self.error = error
        finally:
            self.ended.set()


class Together:
    """Transactions for many threads. One thread works at a time; the last of those that wait commits for all of them.

    Args:
        begin: opens a transaction that is on disk when its block ends.
        alone: keeps readers away for the time of a block; it surrounds the commit.
    """

    def __init__(
        self,
        begin: Callable[[], AbstractContextManager[sa.Connection]],
        alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._begin, self._alone = begin, alone
        self._turn, self._count = threading.Lock(), threading.Lock()
        self._waiting = 0
        self._batch: _Batch | None = None

    @contextmanager
    def join(self) -> Iterator[sa.Connection]:
        """Take part in a transaction: on disk when the block has ended; what this block did is undone when it fails."""
        with self._count:
            self._waiting += 1
        with self._turn:
            with self._count:
                self._waiting -= 1
            batch = self._batch
            if batch is None:
                batch = self._batch = _Batch(self._begin())
            try:
                batch.db.exec_driver_sql("SAVEPOINT one")
                yield batch.db
                batch.db.exec_driver_sql("RELEASE SAVEPOINT one")
            except BaseException as error:
                try:
                    batch.db.exec_driver_sql("ROLLBACK TO SAVEPOINT one")
                except sa.exc.SQLAlchemyError:  # the database has undone the whole transaction, on a full disk for instance
                    batch.error = error
                raise
            finally:
                if batch.error is not None or not self._waiting or time.monotonic() - batch.began > LONGEST:
                    self._batch = None
                    batch.end(self._alone)
        batch.ended.wait()
        if batch.error is not None:
            raise batch.error
