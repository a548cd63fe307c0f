"""Turns at the desk: one thread, answers together, and everybody's own error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("anyio", reason="the extra web is not installed")

from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.turns import ANSWERS, OTHERS, Turns


class Desk:
    """Notes in what order answers are given and told, and fails when it is told to."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.threads: set[int] = set()
        self.full = False

    @contextmanager
    def together(self) -> Iterator[None]:
        self.log.append("begin")
        yield
        if self.full:
            raise UserError("The disk is full.")
        self.log.append("commit")

    def answer(self, name: str):
        self.threads.add(threading.get_ident())
        self.log.append(f"answer {name}")
        if name == "bad":
            raise ValueError(name)
        return lambda: self.log.append(f"told {name}") or name

    def other(self, name: str) -> str:
        self.threads.add(threading.get_ident())
        self.log.append(f"other {name}")
        if name == "bad":
            raise KeyError(name)
        return name


def served(desk: Desk, answers: list[str], others: list[str]) -> list[object]:
    async def ask() -> list[object]:
        turns, all_wait = Turns(desk), threading.Event()
        turns._thread.submit(all_wait.wait)
        given = [turns.keep(lambda name=name: desk.answer(name)) for name in answers]
        waiting = [asyncio.ensure_future(each) for each in [*given, *(turns.take(desk.other, name) for name in others)]]
        await asyncio.sleep(0)
        all_wait.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(ask())


def test_answers_are_told_after_their_commit() -> None:
    desk = Desk()
    found = served(desk, ["a", "bad", "b"], ["x", "bad"])
    assert found[0] == "a" and found[2] == "b" and found[3] == "x"
    assert isinstance(found[1], ValueError) and isinstance(found[4], KeyError)
    given = ["begin", "answer a", "answer bad", "answer b", "commit", "told a", "told b"]
    assert desk.log == [*given, "other x", "other bad"] and len(desk.threads) == 1


def test_a_commit_that_fails_is_told_to_everybody() -> None:
    desk = Desk()
    desk.full = True
    found = served(desk, ["a", "bad", "b"], ["x"])
    assert [str(each) for each in found] == ["The disk is full.", "bad", "The disk is full.", "x"]
    assert not any(line.startswith("told") for line in desk.log)


def test_nobody_waits_for_a_long_line() -> None:
    desk = Desk()
    found = served(desk, [f"a{n}" for n in range(2 * ANSWERS)], [f"x{n}" for n in range(3 * OTHERS)])
    assert found == [*(f"a{n}" for n in range(2 * ANSWERS)), *(f"x{n}" for n in range(3 * OTHERS))]
    assert desk.log.count("commit") == 2
    assert desk.log.index("other x0") < desk.log.index(f"answer a{ANSWERS}") < desk.log.index(f"other x{OTHERS}")
