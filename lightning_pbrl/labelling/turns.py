"""Turns: requests to the desk, served by one thread.

The interpreter runs one thread at a time, and handing over costs more than a request does. Answers that wait share a flush of the
disk; they take turns with everything else that people ask for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from lightning_pbrl.labelling.interface import AnyDesk

ANSWERS, OTHERS = 16, 4
"""Largest numbers of requests of either line that are served in a turn: who has answered waits least."""
Told = Callable[[], Any]
"""Function that is called once an answer is on disk, and returns the response."""
Outcome = tuple[Any, Exception | None]
Waiting = deque[tuple[Callable[[], Any], asyncio.Future[Any]]]


class Turns:
    """Turns at a desk; one object for an event loop."""

    def __init__(self, desk: AnyDesk) -> None:
        self._desk = desk
        self._one = CapacityLimiter(1)
        self._answers: Waiting = deque()
        self._others: Waiting = deque()
        self._worker: asyncio.Task[None] | None = None

    async def take(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns, called in turn."""
        return await self._wait(self._others, partial(function, *arguments))

    async def keep(self, answer: Callable[[], Told]) -> Any:
        """Return the response to an answer.

        Args:
            answer: gives the answer to the desk; what it returns is called once the answer is on disk.
        """
        return await self._wait(self._answers, answer)

    async def _wait(self, line: Waiting, function: Callable[[], Any]) -> Any:
        """Return the result of a function that waits in a line."""
        response = asyncio.get_running_loop().create_future()
        line.append((function, response))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await response

    async def _work(self) -> None:
        """Serve both lines in turns until nobody waits."""
        while self._answers or self._others:
            for line, serve, most in ((self._answers, self._keep, ANSWERS), (self._others, _call, OTHERS)):
                some = [line.popleft() for _ in range(min(len(line), most))]
                if some:
                    outcomes = await run_sync(serve, [function for function, _ in some], limiter=self._one)
                    for (_, response), (value, error) in zip(some, outcomes, strict=True):
                        if error is not None and not response.cancelled():
                            response.set_exception(error)
                        elif not response.cancelled():
                            response.set_result(value)
        self._worker = None

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
