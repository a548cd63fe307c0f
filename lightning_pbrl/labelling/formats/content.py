"""Content of a question about data that forget: its segments, as the optional field ``content`` of a record.

In a file of JSON these are nested lists of float32: ``obs`` (C, T, O), ``action`` (C, T, A) and the true ``reward`` (C, T), null
where it is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_pbrl.data.clip_bytes import STORED
from lightning_pbrl.data.jsonl import starts

Content = dict[str, Tensor]
"""Segments of a question: ``obs`` (C, T, O), ``action`` (C, T, A), ``reward`` (C, T), float32."""

DIMENSIONS = {"obs": 3, "action": 3, "reward": 2}
"""Number of dimensions of each part."""


def listed(content: Content) -> dict[str, Any]:
    """Return content as it is written to a file of JSON."""
    lists: dict[str, Any] = {name: content[name].tolist() for name in STORED}
    lists["reward"] = [[None if math.isnan(each) else each for each in row] for row in lists["reward"]]
    return lists


def parsed(value: Any, record: Mapping[str, Any]) -> Content | str:
    """Return the content in a file's entry, or what is wrong with it as the tail of a sentence.

    Args:
        value: what :func:`listed` has returned.
        record: the other fields of the entry, checked.
    """
    if not isinstance(value, dict) or set(value) != set(STORED):
        return f"has a content that is not an object with {', '.join(STORED)}: export the question again"
    shape = (len(starts(record)), record["length"])
    parts: dict[str, Tensor] = {}
    for name in STORED:
        try:
            with np.errstate(over="ignore"):
                part = np.array(value[name], dtype=np.float64).astype(np.float32)  # null becomes NaN
        except (TypeError, ValueError):
            part = np.zeros(0, np.float32)
        known = ~np.isinf(part) if name == "reward" else np.isfinite(part)
        if part.ndim != DIMENSIONS[name] or part.shape[:2] != shape or not known.all():
            told = f"{shape[0]}, {shape[1]}{', size' if name != 'reward' else ''}"
            return f"has a content whose {name} is not ({told}) finite numbers: export it again"
        parts[name] = torch.from_numpy(part)
    return parts
