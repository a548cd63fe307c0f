"""People who answer on the labelling page, as many as wanted in one process, each as fast as the page's script lets them.

A person opens the link, agrees, and asks for questions. While a question is on the screen the script loads the next one and its
clips, by range requests. The script takes an answer 350 ms after a question appears; the next question is then at hand.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

PAUSE = 0.35
"""Seconds before the page's script takes an answer (``PAUSE_BEFORE_ANSWER`` in page.js)."""
BEGIN = 1.0
"""Seconds in which people begin."""
TWICE = 20
"""One answer in so many is posted twice, as after a connection that broke."""
CHOICES = ("left", "right", "equal", "skip")


class Acknowledged(NamedTuple):
    """An answer that the page has said is stored."""

    person: str
    key: str
    choice: str


class Seen:
    """Everything that the people have seen.

    Attributes:
        acknowledged: answers that the page has said are stored.
        seconds: of each submission, from the first byte sent to the last received.
        counts: responses by what they were.
    """

    def __init__(self) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.seconds: list[float] = []
        self.counts: Counter[str] = Counter()

    def add(self, other: Seen) -> None:
        """Take over what others have seen."""
        self.acknowledged += other.acknowledged
        self.seconds += other.seconds
        self.counts += other.counts


class Connection:
    """A connection that stays open, with one request at a time."""

    def __init__(self, address: str) -> None:
        self.host, self.port = urlsplit(address).hostname or "", urlsplit(address).port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the response."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        sent = "\r\n".join([*lines, "", ""]).encode() + body
        while True:
            fresh = self._streams is None
            if self._streams is None:
                self._streams = await asyncio.open_connection(self.host, self.port)
            reader, writer = self._streams
            try:
                writer.write(sent)
                head = await reader.readuntil(b"\r\n\r\n")
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                if fresh:
                    raise
                self.close()  # the server closes what has been idle for 5 s, and a browser then sends it again
        top, *rest = head.decode("latin-1").split("\r\n")
        said = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        return int(top.split()[1]), said, await reader.readexactly(int(said.get("content-length", 0)))

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Labeller:
    """One person in one tab.

    Args:
        link: the personal link.
        pause: seconds between a question and its answer, at least.
        clips: SHA-256 of every film that the page may send.
        seen: where everything is counted.
    """

    def __init__(self, name: str, link: str, pause: float, clips: set[str], seen: Seen) -> None:
        self.name, self.pause, self.clips, self.seen = name, pause, clips, seen
        self.address, self.token = link.split("/join/")
        self.answers, self.ahead = Connection(self.address), Connection(self.address)
        self.random = random.Random(name)
        self.headers: dict[str, str] = {}

    async def join(self) -> None:
        """Open the link and agree."""
        await self.answers.ask("GET", f"/join/{self.token}", Accept="text/html")
        form = {"Content_Type": "application/x-www-form-urlencoded", "Origin": self.address}
        _, said, _ = await self.answers.ask("POST", "/join", f"token={self.token}".encode(), **form)
        self.headers = {"Cookie": said["set-cookie"].split(";")[0]}
        _, _, page = await self.answers.ask("GET", "/", **self.headers, Accept="text/html")
        found = re.search(rb'name="csrf" content="([0-9a-f]+)"', page)
        assert found is not None, page
        self.headers["X_CSRF_Token"] = found[1].decode()

    async def work(self, until: float) -> None:
        """Answer one question after another until a moment of ``time.monotonic``; people do not begin in the same instant."""
        await asyncio.sleep(self.random.uniform(0, BEGIN))
        question = await self.next(None)
        while time.monotonic() < until:
            if question is None:
                self.seen.counts["no question"] += 1
                await asyncio.sleep(1.0)
                question = await self.next(None)
                continue
            following = asyncio.create_task(self.next(question["key"]))
            await asyncio.sleep(self.pause)
            await self.answer(question)
            question = await following
        self.answers.close()
        self.ahead.close()

    async def next(self, shown: str | None) -> dict[str, Any] | None:
        """Return the next question, its clips loaded; None without one."""
        path = "/questions?" + (f"without={quote(shown, safe='')}" if shown else "")
        status, _, body = await self.ahead.ask("GET", path, **self.headers, Accept="application/json")
        self.seen.counts[f"questions {status}"] += 1
        found = json.loads(body)["questions"] if status == 200 else []
        if not found:
            return None
        for urls in found[0]["clips"]:
            status, said, film = await self.ahead.ask("GET", urls["webm"], **self.headers, Range="bytes=0-")
            whole = said.get("content-range") == f"bytes 0-{len(film) - 1}/{len(film)}"
            right = whole and hashlib.sha256(film).hexdigest() in self.clips
            self.seen.counts[f"clips {status}{'' if right else ', not the film'}"] += 1
        return dict(found[0])

    async def answer(self, question: dict[str, Any]) -> None:
        """Post an answer; some of them twice."""
        choice = self.random.choice(CHOICES)
        given = {"key": question["key"], "choice": choice, "seconds": self.pause, "revision": question["revision"]}
        for how in ("kept", "again")[: 2 if self.random.random() < 1 / TWICE else 1]:
            began = time.perf_counter()
            status, _, body = await self.answers.ask(
                "POST", "/answers", json.dumps(given).encode(), **self.headers, Content_Type="application/json"
            )
            self.seen.seconds.append(time.perf_counter() - began)
            said = json.loads(body)
            self.seen.counts[f"answers {status} {said.get('how', '')}".strip()] += 1
            if status == 200 and said["how"] == how == "kept":
                self.seen.acknowledged.append(Acknowledged(self.name, question["key"], choice))


def people_work(
    links: dict[str, str], pause: float, clips: set[str], seconds: float, tell: Callable[[Seen | None], None]
) -> None:
    """Let everybody work for some seconds; everything that was sent is waited for.

    Args:
        links: by person.
        pause: seconds between a question and its answer.
        clips: SHA-256 of the films.
        seconds: time for which questions are answered.
        tell: is called with None when everybody has opened the link, and with what they have seen at the end.
    """
    seen = Seen()

    async def everybody() -> None:
        people = [Labeller(name, link, pause, clips, seen) for name, link in links.items()]
        await asyncio.gather(*(person.join() for person in people))
        tell(None)
        until = time.monotonic() + seconds
        await asyncio.gather(*(person.work(until) for person in people))

    try:
        import uvloop

        uvloop.run(everybody())
    except ImportError:
        asyncio.run(everybody())
    tell(seen)


def digests(folder: Path) -> set[str]:
    """Return the SHA-256 of every film of a folder."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.webm")}
