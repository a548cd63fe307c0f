"""Scoring of candidate questions by all ranks of a fit, for the one that asks.

Rank 0 alone asks: it runs the strategy and holds the label store. Where the strategy asks the model for what takes passes through
networks (:data:`SHARED`), rank 0 tells the others. Every rank then calls the same method of its own model, whose weights are the
same, and passes its share of the tiles (:func:`tiled`). Tiles are those of one process, so the numbers are its, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

SHARED = frozenset({"returns", "posterior", "embed"})
"""Methods of a model that ranks compute together."""

Found = TypeVar("Found")


class Ranks(NamedTuple):
    """The processes of a fit.

    Attributes:
        rank: number of this one.
        world: number of all.
        broadcast: returns rank 0's object on every rank.
        gather: returns the equally large tensors of all ranks, (world, ...).
        agree: returns True on every rank if the argument is true on all.
    """

    rank: int
    world: int
    broadcast: Callable[[Any], Any]
    gather: Callable[[Tensor], Tensor]
    agree: Callable[[bool], bool]


class _Call(NamedTuple):
    """A method that every rank is to call now."""

    name: str
    args: tuple[Any, ...]


class _Over(NamedTuple):
    """The end of a lead, with what it has found."""

    found: Any


class _Waiting(NamedTuple):
    """Nothing to do yet."""


_together: ContextVar[Ranks | None] = ContextVar("together", default=None)
_leading: ContextVar[Ranks | None] = ContextVar("leading", default=None)


def led(ranks: Ranks, session: Any, lead: Callable[[], Found]) -> Found:
    """Let rank 0 ask, while the others help it to score.

    Args:
        ranks: of the fit.
        session: scores with its ``model``, which is equal on all ranks.
        lead: asks in the session; called on rank 0.

    Returns:
        What ``lead`` returns on rank 0, on every rank.
    """
    model = session.model
    if ranks.world == 1:
        return lead()
    if ranks.rank == 0:
        session.model = _Led(model, ranks)
        try:
            with _set(_leading, ranks):
                found = lead()
        finally:
            session.model = model
        return ranks.broadcast(_Over(found)).found
    while not isinstance(told := ranks.broadcast(None), _Over):
        if isinstance(told, _Call):
            with _set(_together, ranks):
                getattr(model, told.name)(*told.args)
    return told.found


def still_waiting() -> None:
    """Tell the other ranks that the one that asks waits for people, who may take longer than a collective operation may."""
    if (ranks := _leading.get()) is not None:
        ranks.broadcast(_Waiting())


class _Led:
    """A model of rank 0, of whose methods the others compute their share."""

    def __init__(self, model: Any, ranks: Ranks) -> None:
        self._model, self._ranks = model, ranks

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if name not in SHARED:
            return found

        def everywhere(*args: Any) -> Any:
            self._ranks.broadcast(_Call(name, args))
            with _set(_together, self._ranks):
                return found(*args)

        return everywhere


@contextmanager
def _set(variable: ContextVar[Ranks | None], ranks: Ranks) -> Iterator[None]:
    token = variable.set(ranks)
    try:
        yield
    finally:
        variable.reset(token)


def known(here: bool) -> bool:
    """Return True if something need not be computed again: it is kept here and, in a call that is shared, on all ranks."""
    ranks = _together.get()
    return here if ranks is None else ranks.agree(here)


def tiled(function: Callable[[Tensor], Tensor], tiles: Sequence[Tensor], dim: int) -> Tensor:
    """Return what a function gives for each tile, joined; in a call that is shared, each rank computes some of them.

    Args:
        function: of a tile, (n, ...), to a tensor with n entries along ``dim``.
        tiles: at least one; all but the last equally large.
        dim: along which results are joined.
    """
    ranks = _together.get()
    if ranks is None:
        return torch.cat([function(tile) for tile in tiles], dim)
    share = -(-len(tiles) // ranks.world)
    mine = tiles[ranks.rank * share :][:share] or tiles[:1]  # a rank without a share still needs its shape
    part = torch.cat([function(tile) for tile in mine], dim)
    missing = share * len(tiles[0]) - part.shape[dim]
    padded = F.pad(part.movedim(dim, -1), (0, missing))
    every = ranks.gather(padded.contiguous()).movedim(0, -2).flatten(-2)
    return every[..., : sum(map(len, tiles))].movedim(-1, dim)
