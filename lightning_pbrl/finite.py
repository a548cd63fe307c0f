"""Checks for NaN and infinity, with errors that name the quantity, the place and the cure."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.errors import UserError


def check_finite(values: Tensor, what: str, cure: str, item: str = "row") -> None:
    """Refuse NaN and infinity anywhere in ``values``, (n, ...), with a single reduction on the device if all are finite.

    Args:
        values: numbers, one ``item`` per entry of the first axis.
        what: subject of the sentence.
        cure: end of the sentence, without a full stop.
        item: name of an entry.

    Raises:
        UserError: with the number of items that are not finite, and the first of them.
    """
    finite = torch.isfinite(values)
    if finite.all():
        return
    bad = ~finite.reshape(len(finite), -1).all(1)
    count, first = int(bad.sum()), int(bad.int().argmax())
    raise UserError(f"{what} is NaN or infinite in {count} of {len(bad)} {item}s, the first is {item} {first}: {cure}.")


def all_finite(tree: Any) -> bool:
    """Return True if every floating-point number in nested dicts, lists and tuples of tensors is finite."""
    if isinstance(tree, dict):
        return all(all_finite(part) for part in tree.values())
    if isinstance(tree, list | tuple):
        return all(all_finite(part) for part in tree)
    if torch.is_tensor(tree):
        return not tree.is_floating_point() or bool(torch.isfinite(tree).all())
    return not isinstance(tree, float) or math.isfinite(tree)
