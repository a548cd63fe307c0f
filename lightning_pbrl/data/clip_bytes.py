"""Serialisation of a question's segments to bytes, for the label store."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from lightning_pbrl.data.feedback import Clips

STORED = ("obs", "action", "reward")
"""Fields of a segment that are kept always; ``frames`` are kept where a replay stores images."""
FAST = 1
"""Level of zlib: lossless, and as fast as images are drawn."""


def pack(clips: Clips, i: int) -> bytes:
    """Write the segments of question ``i`` as safetensors, with a checksum (CRC-32) of their numbers; frames are compressed."""
    parts = {name: getattr(clips, name)[i].detach().cpu().contiguous() for name in STORED}
    if clips.frames is not None:
        compressed = zlib.compress(clips.frames[i].cpu().contiguous().numpy().tobytes(), FAST)
        parts["frames"] = torch.from_numpy(np.frombuffer(compressed, np.uint8).copy())
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
    if "frames" in parts:
        images = np.frombuffer(zlib.decompress(parts["frames"].numpy().tobytes()), np.uint8).copy()
        side = math.isqrt(images.size // (3 * parts["reward"].numel()))
        parts["frames"] = torch.from_numpy(images).view(*parts["reward"].shape, side, side, 3)
    return parts


def _checksum(parts: Mapping[str, Tensor]) -> str:
    return str(zlib.crc32(b"".join(parts[name].numpy().tobytes() for name in sorted(parts))))
