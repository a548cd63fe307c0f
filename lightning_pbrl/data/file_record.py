"""Name, size and hash of a file: what a data set tells about where it was read from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def file_record(path: Path) -> dict[str, Any]:
    """Return name, size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
