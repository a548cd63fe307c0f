"""Waiting for people's answers: look at the label store now and then until there are enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lightning_pbrl.shared_scoring import still_waiting

POLL = 0.5
"""Seconds between two looks at the label store."""
STILL = 60.0
"""Seconds after which other ranks of a fit are told that this one still waits."""

Told = Callable[[int, int], None]
"""Gets the numbers of questions and of answers."""


def wait(count: Callable[[], tuple[int, int]], enough: Callable[[int, int], bool], told: Told | None = None) -> None:
    """Wait until ``enough`` holds of the numbers of questions and answers that ``count`` returns; tell each change."""
    before: tuple[int, int] | None = None
    since = time.monotonic()
    while not enough(*(now := count())):
        if time.monotonic() - since > STILL:
            still_waiting()
            since = time.monotonic()
        if told is not None and now != before:
            told(*now)
        before = now
        time.sleep(POLL)
    if told is not None and before is not None:
        told(*now)


def telling(say: Callable[[str], None], where: str | Path = "") -> Told:
    """Return what tells by ``say`` how far people are, and until one has answered, which command gives them their links.

    Args:
        say: prints a line.
        where: run folder or label store that they answer; empty if a page stands beside the run.
    """
    place = "STORE" if "://" in str(where) else where  # an address may have a password

    def told(asked: int, answered: int) -> None:
        how = f"; give people their links: lightning-pbrl label {place}" if where and not answered else ""
        say(f"{answered} of {asked} questions of this round are answered{how}")

    return told
