"""Somebody at the desk of a run that goes on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def looking(folder: Path, look: Callable[[Path], object], every: float = 0.02) -> Iterator[None]:
    """Call ``look`` with the label store of a run every so many seconds; at the end of the ``with`` none may have failed."""
    path, stop, failed = folder / "labels.sqlite", threading.Event(), list[Exception]()

    def work() -> None:
        try:
            while not stop.wait(every):
                if path.exists():
                    look(path)
        except Exception as error:  # noqa: BLE001 - shown by the test
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed, failed
