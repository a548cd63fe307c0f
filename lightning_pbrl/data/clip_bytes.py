"""Serialisation of a question's segments to bytes, for the label store."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor

from lightning_pbrl.data.feedback import Clips

STORED = ("obs", "action", "reward")
"""Fields of a segment that are kept."""


def pack(clips: Clips, i: int) -> bytes:
    """Write the segments of question ``i`` as safetensors, without frames, with a checksum (CRC-32) of their numbers."""
    parts = {name: getattr(clips, name)[i].detach().cpu().contiguous() for name in STORED}
    return save(parts, {"crc32": _checksum(parts)})


def unpack(content: bytes) -> dict[str, Tensor]:
    """Read what :func:`pack` has written; older stores have no checksum.

    Raises:
        ValueError: if the numbers do not match the checksum.
    """
    parts = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # the format: a length, JSON, the numbers
    found = _checksum(parts)
    if header.get("__metadata__", {}).get("crc32", found) != found:
        raise ValueError("its checksum differs")
    return parts


def _checksum(parts: Mapping[str, Tensor]) -> str:
    return str(zlib.crc32(b"".join(parts[name].numpy().tobytes() for name in sorted(parts))))
