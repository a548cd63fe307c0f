"""Input of reward models at steps: state and action, or image and action. Every model asks for it here.

An image and its action are one row of bytes: S * S * 3 of the image, then the action's float32 numbers. A batch of steps is one
tensor whatever is seen. Images stay bytes until a network reads them, and nothing is stored twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.errors import UserError
from lightning_pbrl.nn.picture import shifted


def steps_of(source: Any, rows: Tensor, pictures: bool, shift: Tensor | None = None) -> Tensor:
    """Return what a model reads of rows of a table, any shape of ids: (...,) -> (..., F).

    Args:
        source: the table, :class:`~lightning_pbrl.data.transitions.Transitions`.
        rows: ids.
        pictures: True for images in place of states: F = S * S * 3 + 4 A bytes; else F = O + A, float32.
        shift: moves of the images by whole pixels, (..., 2), for :func:`~lightning_pbrl.nn.picture.shifted`; None for none.
    """
    flat = rows.reshape(-1)
    if not pictures:
        return source.features().index_select(0, flat).unflatten(0, rows.shape)
    images = source.pictures(source.frame_ids(flat))
    if shift is not None:
        images = shifted(images, shift.reshape(-1, 2))
    return joined(images, source.column("action").index_select(0, flat)).unflatten(0, rows.shape)


def segments_of(source: Any, start: Tensor, length: int, pictures: bool, shift: Tensor | None = None) -> Tensor:
    """Return what a model reads of segments: (...,) starts -> (..., length, F); see :func:`steps_of`."""
    return steps_of(source, segment_rows(start.to(source.device), length), pictures, shift)


def joined(images: Tensor, action: Tensor) -> Tensor:
    """Return images and actions as rows of bytes: (n, S, S, 3) uint8 and (n, A) float32 -> (n, S S 3 + 4 A)."""
    return torch.cat([images.flatten(1), action.contiguous().view(torch.uint8)], 1)


def apart(steps: Tensor, action_dim: int) -> tuple[Tensor, Tensor]:
    """Return flat images and actions of steps, (..., S S 3) of any type and (..., A) float32.

    ``steps`` are bytes of :func:`joined`, or floats: S S 3 numbers from 0 to 255, then the action.
    """
    if steps.dtype == torch.uint8:
        images, action = steps.split([steps.shape[-1] - 4 * action_dim, 4 * action_dim], -1)
        return images, action.contiguous().view(torch.float32)
    images, action = steps.split([steps.shape[-1] - action_dim, action_dim], -1)
    return images, action


def flat_pictures(source: Any, rows: Tensor, ahead: int = 0) -> Tensor:
    """Return the images at rows of the data (``ahead`` = 1: one step later), flat: (...,) -> (..., S S 3), uint8."""
    ids = source.frame_ids(rows.reshape(-1)) + ahead
    found: Tensor = source.pictures(ids).to(rows.device).view(*rows.shape, -1)
    return found


def shown(source: Any, rows: Tensor, pictures: bool) -> Tensor:
    """Return the observations of a policy at rows of a table, states or :func:`flat_pictures`: (n,) -> (n, O)."""
    found: Tensor = flat_pictures(source, rows) if pictures else source.column("obs")[rows]
    return found


def check_pictures(source: Any, side: int, what: str) -> None:
    """Raise a UserError, which begins with ``what``, unless a table has images of ``side`` pixels."""
    there = math.isqrt(source.shown_dim // 3) if source.has_pictures else 0
    if there != side:
        found = f"images of {there} pixels" if there else "no images"
        raise UserError(f"{what} sees images of {side} pixels and these data have {found}: give data with Pixels of size {side}.")
