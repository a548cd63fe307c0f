"""Films as responses: whole, or the range that a browser asks for."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, Response

SMALL = 4 * 2**20
"""Largest film that is read at once, bytes; a usual one has 50,000."""
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def filmed(request: Request, path: Path | None, media_type: str) -> Response | None:
    """Return the response to a request for a film; None where it is not there (yet, or any more).

    A small film, or one range of it, is read in one go: a :class:`FileResponse` goes to a thread for each step, and costs five
    times as much. That one is left with the rest: large films, several ranges, and conditions.
    """
    try:
        about = path.stat() if path is not None else None
        content = path.read_bytes() if path is not None and about is not None and about.st_size <= SMALL else b""
    except FileNotFoundError:
        return None
    if path is None or about is None:
        return None
    whole = FileResponse(path, media_type=media_type, headers={"Cache-Control": "private, max-age=600"}, stat_result=about)
    asked = RANGE.fullmatch(request.headers.get("range", "bytes=0-"))
    first, last = (int(asked[1]), min(int(asked[2] or about.st_size), about.st_size - 1)) if asked else (0, -1)
    if len(content) != about.st_size or "if-range" in request.headers or first > last:
        return whole
    said = dict(whole.headers) | {"content-length": str(last + 1 - first)}
    if "range" not in request.headers:
        return Response(content, 200, said)
    return Response(content[first : last + 1], 206, said | {"content-range": f"bytes {first}-{last}/{about.st_size}"})
