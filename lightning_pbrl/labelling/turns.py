"""Turns: requests to the desk, served by one thread.

The interpreter runs one thread at a time, and handing over costs more than a request does. Answers that wait share a flush of the
disk; they take turns with everything else that people ask for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from lightning_pbrl.labelling.interface import AnyDesk

ANSWERS, OTHERS = 16, 4
"""Largest numbers of requests of either line that are served in a turn: who has answered waits least."""
Told = Callable[[], Any]
"""Function that is called once an answer is on disk, and returns the response."""
Outcome = tuple[Any, Exception | None]
Line = deque[tuple[Callable[[], Any], "Future[Any]"]]


class Turns:
    """Turns at a desk, for requests of any event loop."""

    def __init__(self, desk: AnyDesk) -> None:
        self._desk = desk
        self._thread = ThreadPoolExecutor(1, "desk")
        self._answers: Line = deque()
        self._others: Line = deque()

    async def take(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns, called in turn."""
        return await self._wait(self._others, partial(function, *arguments))

    async def keep(self, answer: Callable[[], Told]) -> Any:
        """Return the response to an answer.

        Args:
            answer: gives the answer to the desk; what it returns is called once the answer is on disk.
        """
        return await self._wait(self._answers, answer)

    async def _wait(self, line: Line, function: Callable[[], Any]) -> Any:
        """Return the result of a function that waits in a line; every request brings a turn, so that nobody is left."""
        response: Future[Any] = Future()
        line.append((function, response))
        self._thread.submit(self._turn)
        return await asyncio.wrap_future(response)

    def _turn(self) -> None:
        """Serve some of both lines."""
        for line, serve, most in ((self._answers, self._keep, ANSWERS), (self._others, _call, OTHERS)):
            some = [line.popleft() for _ in range(min(len(line), most))]
            if not some:
                continue
            for (_, response), (value, error) in zip(some, serve([function for function, _ in some]), strict=True):
                if not response.set_running_or_notify_cancel():
                    continue
                if error is None:
                    response.set_result(value)
                else:
                    response.set_exception(error)

    def _keep(self, answers: list[Callable[[], Told]]) -> list[Outcome]:
        """Keep answers together; return the response to each, or its error."""
        given: list[Outcome] = [(None, None)] * len(answers)
        try:
            with self._desk.together():
                given = _call(answers)
        except Exception as problem:  # noqa: BLE001 - told to everybody who took part: nothing is on disk
            return [(None, error or problem) for _, error in given]
        return [(None, error) if error is not None else _call([told])[0] for told, error in given]


def _call(functions: list[Callable[[], Any]]) -> list[Outcome]:
    """Return what each function returns, or its error."""
    outcomes: list[Outcome] = []
    for function in functions:
        try:
            outcomes.append((function(), None))
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            outcomes.append((None, error))
    return outcomes
