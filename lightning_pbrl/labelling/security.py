"""Protection of the labelling page: Host, Origin, CSRF, sizes, rates, and the headers that a browser obeys.

A token is a secret link. After it was opened it lives in a cookie that scripts cannot read and other sites cannot send.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Collection
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from fastapi import Depends, HTTPException, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightning_pbrl.labelling.interface import AnyDesk, Person

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Names of this machine by which the page may be called always."""

LARGEST_BODY = 8 * 1024
"""Largest body of a request, bytes; an answer has some hundred."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors "
)
"""Content security policy: nothing inline and nothing from another host."""

NOTEBOOKS = "'self' http://localhost:* http://127.0.0.1:*"
"""Pages that may show this one in a frame, when a notebook asked for it."""


RECENT, PEOPLE = 5.0, 4096
"""Seconds for which films are sent to somebody whose link may have been renewed since, and people who are remembered."""


class Refusal(HTTPException):
    """A request that is refused, with one sentence for the person."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence, {"Retry-After": "1"} if status in (429, 503) else None)


NO_LINK = "This page needs your personal link: open the newest link that you were given, or ask the researcher for a new one."


def csrf(token: str) -> str:
    """Return the CSRF token of a session: known to whoever has the token, and the same after the server starts again."""
    return hmac.new(token.encode(), b"lightning-pbrl csrf", hashlib.sha256).hexdigest()


def cookie_name(request: Request) -> str:
    """Return the cookie's name; it has the port, because browsers share cookies between the ports of a machine."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"lightning_pbrl_{port if port.isdecimal() else 'page'}"


def without_paths(text: str) -> str:
    """Return a sentence with each absolute path cut to its last name."""
    return re.sub(r"(?<![\w:/.])(?:~|[A-Za-z]:)?[/\\][^\s,;:)\"']*[/\\]([^\s,;:)\"'/\\]*)", r"\1", text)


def check_origin(request: Request) -> None:
    """Refuse a post that another site has caused.

    Raises:
        Refusal: with status 403.
    """
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refusal(403, "This request came from another site and was refused: use the page itself.")


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a posted form; of a repeated field the first."""
    fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
    return {name: values[0] for name, values in fields.items()}


class Rates:
    """Token buckets: ``rate`` requests per second and bursts of four times as many, for each name."""

    def __init__(self, rate: float, names: int = 4096) -> None:
        self.rate, self.burst, self.names = rate, 4 * rate, names
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, name: str) -> None:
        """Count one request.

        Raises:
            Refusal: with status 429, when there were too many.
        """
        with self._lock:
            now = time.monotonic()
            left, then = self._left.pop(name, (self.burst, now))
            left = min(self.burst, left + (now - then) * self.rate)
            self._left[name] = (max(left - 1, 0.0), now)
            while len(self._left) > self.names:
                self._left.popitem(last=False)
        if left < 1:
            raise Refusal(429, "Too many requests in a short time: wait a second; nothing is lost.")


class Access:
    """Check who asks, and that a post comes from the page; the application has one as ``state.access``."""

    def __init__(self, desk: AnyDesk, rate: float) -> None:
        self._desk = desk
        self._known, self._unknown = Rates(rate), Rates(rate)
        self._recent: dict[str, tuple[float, Person]] = {}

    def owner(self, token: str, request: Request) -> Person:
        """Return whose token it is.

        Raises:
            Refusal: when it is nobody's any more, or there were too many requests.
        """
        found = self._desk.person(token) if 0 < len(token) <= 200 else None
        if found is None:
            self._unknown.check(request.client.host if request.client else "")
            raise Refusal(403, NO_LINK)
        self._known.check(found.name)
        if len(self._recent) >= PEOPLE:
            self._recent.clear()
        self._recent[token] = time.monotonic(), found
        return found

    def recent(self, request: Request) -> Person | None:
        """Return who asks if that was looked up a few seconds ago, None otherwise; does not wait for the store.

        Raises:
            Refusal: when there were too many requests.
        """
        moment, found = self._recent.get(request.cookies.get(cookie_name(request), ""), (-math.inf, None))
        if found is None or time.monotonic() - moment > RECENT:
            return None
        self._known.check(found.name)
        return found

    def person(self, request: Request) -> Person:
        """Return who asks, by the cookie."""
        return self.owner(request.cookies.get(cookie_name(request), ""), request)

    def researcher(self, request: Request) -> Person:
        """Return who asks, if that is a researcher."""
        found = self.person(request)
        if found.role != "researcher":
            raise Refusal(403, "The overview is for the researcher: open it with a researcher's link.")
        return found

    def check_csrf(self, request: Request, given: str) -> None:
        """Refuse a post without the CSRF token of this session.

        Raises:
            Refusal: with status 403.
        """
        check_origin(request)
        expected = csrf(request.cookies.get(cookie_name(request), ""))
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise Refusal(403, "This tab belongs to another link than the one opened last: reload the page, then answer again.")


def access_of(request: Request) -> Access:
    """Return the application's :class:`Access`."""
    access: Access = request.app.state.access
    return access


def asker(request: Request) -> Person:
    """Return who asks, by the cookie; called within a route, because a dependency would cost a second thread."""
    return access_of(request).person(request)


Form = Annotated[dict[str, str], Depends(read_form)]
"""Argument of a route: the fields of the posted form."""


NOT_KEPT = [(b"cache-control", b"no-store")]
"""Header of responses that browsers must not keep."""


class Guard:
    """Middleware around everything: checks Host and size of the body, adds the headers."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] = (), framed: bool = False) -> None:
        self.app = app
        self.hosts = LOOPBACK | {host.lower() for host in hosts}
        always = {
            "Content-Security-Policy": POLICY + (NOTEBOOKS if framed else "'none'"),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",  # "no-referrer" would make a form's Origin null
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
        }
        self.headers = [(name.lower().encode(), value.encode()) for name, value in always.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = any(name == b"cache-control" for name, _ in message["headers"])
                message["headers"] = [*message["headers"], *self.headers, *([] if kept else NOT_KEPT)]
            await send(message)

        named = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(named) != 1 or re.sub(r":\d*$", "", named[0]) not in self.hosts:
            sentence = "This page is not known under that name: use the address that was printed when it was started."
            await PlainTextResponse(sentence, 421)(scope, receive, send_with_headers)
        else:
            await self.app(scope, _limited(receive), send_with_headers)


TOO_LARGE = "The request is larger than any answer can be, and was refused."


def _limited(receive: Receive) -> Receive:
    """Return ``receive``, refusing a body that turns out to be too large, whatever length was declared."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > LARGEST_BODY:
            raise Refusal(413, TOO_LARGE)
        return message

    return counted
