"""A stub of a server with OpenAI's chat interface, for teachers that ask a vision-language model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Reply = tuple[int, Any, dict[str, str]]


class Stub(ThreadingHTTPServer):
    """Server that keeps requests and replies by a function of the request's body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply: Callable[[dict[str, Any]], Reply | bytes] = lambda body: said('{"answer": "A", "confidence": 0.9}')

    def handle_error(self, *args: Any) -> None:
        """Say nothing about a client that has gone."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, **body})
        self.server.headers.append(dict(self.headers))
        found = self.server.reply(body)
        if isinstance(found, bytes):  # the connection is closed after it
            self.wfile.write(found)
            return
        code, content, headers = found
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None: ...


def said(content: Any, **message: Any) -> Reply:
    """A completion as vLLM and OpenAI send it."""
    finish = message.pop("finish_reason", "stop")
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return (
        200,
        {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": {"total_tokens": 9}},
        {},
    )


def refusal(code: int, message: str = "no", **headers: str) -> Reply:
    return code, {"error": {"message": message, "type": "error", "code": None}}, headers


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """Serve on the loopback, whatever proxy and key the environment names."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Stub() as stub:
        thread = threading.Thread(target=stub.serve_forever, args=(0.01,))
        thread.start()
        yield stub
        stub.shutdown()
        thread.join()
