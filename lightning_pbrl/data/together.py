"""Transactions that several threads share, so that one flush to the disk keeps the answers of many people (group commit)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import sqlalchemy as sa

LONGEST = 0.02
"""Seconds after which a transaction takes no further thread, so that the first one need not wait for long."""


class _Batch:
    """One transaction, and what became of it."""

    def __init__(self, transaction: AbstractContextManager[sa.Connection]) -> None:
        self.open = ExitStack()
        self.db = self.open.enter_context(transaction)
        self.began = time.monotonic()
        self.ended = threading.Event()
        self.error: BaseException | None = None

    def end(self) -> None:
        """Commit, and let everybody go on."""
        try:
            self.open.close()
        except BaseException as error:  # noqa: BLE001 - told to everybody who took part
            self.error = error
        finally:
            self.ended.set()


class Together:
    """Transactions for many threads. One thread works at a time; the last of those that wait commits for all of them.

    Args:
        begin: opens a transaction that is on disk when its block ends.
    """

    def __init__(self, begin: Callable[[], AbstractContextManager[sa.Connection]]) -> None:
        self._begin = begin
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
                with batch.db.begin_nested():
                    yield batch.db
            finally:
                if not self._waiting or time.monotonic() - batch.began > LONGEST:
                    self._batch = None
                    batch.end()
        batch.ended.wait()
        if batch.error is not None:
            raise batch.error
