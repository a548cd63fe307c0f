"""Requests to a server with OpenAI's chat interface (vLLM, Ollama, llama.cpp, LM Studio and most hosted models have it).

Only the standard library is used. A key is read from the environment when a question is asked; it is in no record, config or
message. Redirects are not followed, because they would carry the key to another server.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

from lightning_pbrl.data.guard import parse_json, reason
from lightning_pbrl.errors import UserError

AGAIN = (408, 409, 425, 429)
"""Status codes of a refusal that may pass, besides 500 and above."""
LARGEST = 2**20
"""Largest answer that is read, bytes."""
BACK_OFF = 1.0
"""Wait before the first repetition, seconds; each further one waits twice as long."""


class Unavailable(Exception):  # noqa: N818 - not a mistake of the user, and never seen by one
    """The server gave no answer, after all repetitions; the text says why."""


class Endpoint(NamedTuple):
    """Server, model, and patience.

    Attributes:
        base_url: address of the interface, such as ``http://localhost:8000/v1``.
        model: name of the model there.
        key_variable: environment variable that holds the key; a variable that is not set sends none.
        timeout: of one request, seconds.
        retries: number of repetitions after a refusal that may pass, a time-out or an answer that is no JSON.
        longest_wait: longest wait before a repetition, whatever the server asks for, seconds.
        extra: further entries of the request, such as ``{"max_tokens": 100}``.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    retries: int = 3
    longest_wait: float = 60.0
    extra: dict[str, Any] | None = None

    def chat(self, messages: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
        """Send a conversation and return the first choice of the answer: ``message``, ``finish_reason`` and so on.

        Raises:
            UserError: if the request itself is refused (wrong address, key, model or settings).
            Unavailable: if there is no usable answer after all repetitions.
        """
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        if not re.match(r"https?://[^/]", url):
            raise UserError(f"base_url is {self.base_url!r}: give an address that begins with http:// or https://.")
        body = json.dumps({"model": self.model, "messages": messages, **settings, **(self.extra or {})}).encode()
        key = os.environ.get(self.key_variable, "")
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        why = ""
        for repetition in range(self.retries + 1):
            wait: float | None = None
            try:
                return _first_choice(_read(urllib.request.Request(url, body, headers, method="POST"), self.timeout))
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code}: {_hidden(_said(error), key)}"
                if error.code < 500 and error.code not in AGAIN:
                    raise UserError(f"{url} refuses the request ({why}): {_cure(error.code, self)}.") from None
                wait = _asked_wait(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                why = _hidden(reason(error), key)
            if repetition < self.retries:
                time.sleep(min(BACK_OFF * 2**repetition if wait is None else wait, self.longest_wait))
        raise Unavailable(f"{url} gave no answer in {self.retries + 1} attempts, the last: {why}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that leaves a redirect as the error that it is."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _read(request: urllib.request.Request, timeout: float) -> Any:
    """Return the JSON of a response that is complete within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    content = b""
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as response:
        read: Callable[[int], bytes] = response.read1
        while chunk := read(65_536):
            content += chunk
            if len(content) > LARGEST:
                raise ValueError(f"an answer of more than {LARGEST:,} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"an answer that is not complete after {timeout:g} s")
    return parse_json(content)


def _first_choice(answer: Any) -> dict[str, Any]:
    """Return the first choice of an answer."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("an answer without choices")
    if not isinstance(choices[0].get("message"), dict):
        raise ValueError("a choice without a message")
    found: dict[str, Any] = choices[0]
    return found


def _said(error: urllib.error.HTTPError) -> str:
    """Return the message of a refusal, as such servers tell it, else the status line."""
    try:
        content = parse_json(error.read(LARGEST))
        told = content["error"]
        return str(told["message"] if isinstance(told, dict) else told)
    except (OSError, http.client.HTTPException, ValueError, RecursionError, LookupError, TypeError):
        return str(error.reason)


def _hidden(text: str, key: str) -> str:
    """Return a message without the key, as one short printable line."""
    return reason(ValueError(text.replace(key, "***") if key else text))


def _asked_wait(header: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, a number or a date; None without one."""
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", header.strip()):
        return float(header)
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _cure(code: int, endpoint: Endpoint) -> str:
    """Return the cure for a refused request."""
    if code in (401, 403):
        return f"set the environment variable {endpoint.key_variable} to a valid key"
    if code == 404:
        return f"check base_url and that the server has the model {endpoint.model!r}"
    if 300 <= code < 400:
        return "set base_url to the address that it redirects to"
    return "check the model and the settings of the request"
