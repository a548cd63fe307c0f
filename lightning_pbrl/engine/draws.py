"""Random numbers of an update, declared by name: row ids, noise, minibatches of passes.

A draw turns uniform numbers into the entries of a block of updates. Uniform numbers come from one stream per draw, in order. The
order of a pass belongs to the number of the pass. An update therefore gets the same numbers in any block, and one more draw moves
none of the others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from lightning_pbrl.rng import derive, stream


class Place(NamedTuple):
    """Position of a block in its phase.

    Attributes:
        seed: seed of this draw's streams in this phase.
        first: updates of the phase before the block.
    """

    seed: int
    first: int


class Draw(ABC):
    """One kind of random input of an update; a subclass is one function of uniform numbers.

    Attributes:
        width: uniform numbers per update.
    """

    width: int = 0

    @abstractmethod
    def __call__(self, u: Tensor, place: Place) -> Any:
        """Return the entries of K updates.

        Args:
            u: uniform numbers in [0, 1), (K, ``width``), float64, on the engine's device.
            place: position of the block; only passes need it.

        Returns:
            Tensors with a leading axis of K, nested in tuples or mappings, or a list of K entries if they differ in size. Entry k
            must depend on row k of ``u`` and on ``place.first`` + k only.
        """


class Uniform(Draw):
    """Uniform numbers in [0, 1), float64, of any shape per update.

    Args:
        *shape: shape of an update; a function in place of a size is called when a block is drawn.
    """

    def __init__(self, *shape: int | Callable[[], int]) -> None:
        self.sizes = shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an update's numbers."""
        return tuple(size() if callable(size) else size for size in self.sizes)

    @property
    def width(self) -> int:  # type: ignore[override]
        """Number of uniform numbers per update."""
        return math.prod(self.shape)

    def __call__(self, u: Tensor, place: Place) -> Tensor:
        return u.view(len(u), *self.shape)


class Normal(Uniform):
    """Standard normal numbers, float32, by the inverse distribution function.

    They are sqrt(2) erfinv(2 u - 1), which takes a CPU a quarter of the time of ``ndtri``. Numbers u are multiples of 2^-53, so
    that 2 u - 1 is exact.
    """

    def __call__(self, u: Tensor, place: Place) -> Tensor:
        return super().__call__(u, place).mul(2.0).sub_(1.0).clamp_(min=-1.0 + 2.0**-53).erfinv_().mul_(math.sqrt(2.0)).float()


class Below(Uniform):
    """Whole numbers 0 .. ``count`` - 1, uniform with replacement, int64, of any shape per update.

    Args:
        count: number of values, or a function that returns it when a block is drawn.
        *shape: shape of an update.
    """

    def __init__(self, count: int | Callable[[], int], *shape: int) -> None:
        super().__init__(*shape)
        self.count = count

    def __call__(self, u: Tensor, place: Place) -> Tensor:
        count = self.count() if callable(self.count) else self.count
        return (super().__call__(u, place) * count).long()


class Rows(Below):
    """Ids of transitions, uniform with replacement among those that may be drawn, (``size``,), int64.

    Args:
        source: transitions with ``drawable_count`` and ``drawable_rows``.
        size: transitions per update.
    """

    def __init__(self, source: Any, size: int) -> None:
        super().__init__(lambda: source.drawable_count, size)
        self.source = source

    def __call__(self, u: Tensor, place: Place) -> Tensor:
        rows: Tensor = self.source.drawable_rows(super().__call__(u, place))
        return rows


class Among(Below):
    """Ids of a table, uniform with replacement.

    Args:
        ids: table, (n,), int64.
        *shape: shape of an update.
    """

    def __init__(self, ids: Tensor, *shape: int) -> None:
        super().__init__(len(ids), *shape)
        self.ids = ids

    def __call__(self, u: Tensor, place: Place) -> Tensor:
        return self.ids[super().__call__(u, place).to(self.ids.device)]


class Passes(Draw):
    """Minibatches of endless passes over ``count`` items, each pass in a new random order; the first begins with the phase.

    Args:
        count: function that returns the number of items.
        size: items per minibatch.
        ends: short: the last minibatch of a pass is smaller. full: one that begins at the end of a pass goes on with the next. A
            function: returns the number of minibatches of a pass, which are then of nearly equal size.
        members: orders side by side, one for each member of an ensemble; None for a single one.
        order: generator -> the items of one pass in its order, (..., n), in place of their numbers; n is ``count``.
    """

    def __init__(
        self,
        count: Callable[[], int],
        size: int,
        ends: Literal["short", "full"] | Callable[[], int] = "short",
        members: int | None = None,
        order: Callable[[torch.Generator], Tensor] | None = None,
    ) -> None:
        self.count, self.size, self.ends, self.members = count, size, ends, members
        self.order = order or self.shuffled
        self._newest: tuple[tuple[int, int] | None, Tensor] = None, torch.empty(0)

    def shuffled(self, rng: torch.Generator) -> Tensor:
        """Return the numbers 0 .. ``count`` - 1 in random order, (n,), or (members, n)."""
        if self.members is None:
            return torch.randperm(self.count(), generator=rng)
        return torch.stack([torch.randperm(self.count(), generator=rng) for _ in range(self.members)])

    def one_pass(self, seed: int, number: int) -> Tensor:
        """Return the order of pass ``number``, (..., n)."""
        if self._newest[0] != (seed, number):
            self._newest = (seed, number), self.order(stream(seed, "pass", number))
        return self._newest[1]

    def __call__(self, u: Tensor, place: Place) -> Any:
        updates = range(place.first, place.first + len(u))
        if place.first == 0:  # a phase begins: the items may be others
            self._newest = None, torch.empty(0)
        if self.ends == "full":
            return self.joined(updates, place.seed, u.device)
        if self.ends == "short":
            number = max(math.ceil(self.count() / self.size), 1)
        else:
            assert callable(self.ends)  # noqa: S101 - the third of three
            number = self.ends()
        batches: list[Tensor] = []
        while len(batches) < len(u):
            at = place.first + len(batches)
            order = self.one_pass(place.seed, at // number).to(u.device)
            parts = order.split(self.size, dim=-1) if self.ends == "short" else order.tensor_split(number, dim=-1)
            batches += parts[at % number :]
        return batches[: len(u)]

    def joined(self, updates: range, seed: int, device: torch.device) -> Tensor:
        """Return equally large minibatches across the ends of passes, (K, ..., size)."""
        at, end, parts, length = updates.start * self.size, updates.stop * self.size, list[Tensor](), self.count()
        while at < end:
            order = self.one_pass(seed, at // length)
            parts.append(order[..., at % length : at % length + end - at])
            at += parts[-1].shape[-1]
        return torch.cat(parts, dim=-1).unflatten(-1, (len(updates), self.size)).movedim(-2, 0).to(device)


Drawn = dict[str, Any]
"""Random input of one update, by the names of its draws."""


def minibatch(draws: Mapping[str, Draw], drawn: Drawn) -> int:
    """Return the size of an update's minibatch where the last one of a pass is shorter, at least 1; 1 without such passes."""
    passes = (name for name, draw in draws.items() if isinstance(draw, Passes) and draw.ends == "short")
    return max((drawn[name].shape[-1] for name in passes), default=1) or 1


class Streams:
    """Uniform numbers of one replica in one phase, a stream for each draw.

    Args:
        seed: seed of all of them.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def block(
        self, draws: Mapping[str, Draw], updates: int, first: int = 0, device: torch.device | str = "cpu"
    ) -> dict[str, Any]:
        """Return what each draw gives for K = ``updates`` updates, by name, on ``device``; ``first`` updates came before.

        The numbers come from streams on the CPU, so that every device gets the same.
        """
        found = {}
        for name, draw in draws.items():
            if name not in self._generators:
                self._generators[name] = stream(self.seed, name)
            u = torch.rand(updates, draw.width, generator=self._generators[name], dtype=torch.float64)
            found[name] = draw(u.to(device), Place(derive(self.seed, name), first))
        return found


def updates_of(block: Mapping[str, Any], updates: int) -> list[Drawn]:
    """Split a block into its updates."""
    columns = [_entries(found) for found in block.values()]
    return [dict(zip(block, each, strict=True)) for each in zip(*columns, strict=True)] or [{}] * updates


def updates_of_all(blocks: Sequence[Mapping[str, Any]], updates: int) -> list[Drawn]:
    """Stack the blocks of several replicas on a leading axis, update by update."""
    joined = {}
    for name, first in blocks[0].items():
        each = [block[name] for block in blocks]
        if isinstance(first, list):
            joined[name] = [tree_map(lambda *parts: torch.stack(parts), *entry) for entry in zip(*each, strict=True)]
        else:
            joined[name] = tree_map(lambda *parts: torch.stack(parts, dim=1), *each)
    return updates_of(joined, updates)


def block_dependent(draws: Mapping[str, Draw], device: torch.device | str = "cpu") -> str | None:
    """Return the name of a draw that gives two updates other numbers at once than one by one; None if there is none."""
    for name in draws:
        own = {name: draws[name]}
        together = updates_of(Streams(0).block(own, 2, device=device), 2)
        streams = Streams(0)
        apart = [updates_of(streams.block(own, 1, first, device), 1)[0] for first in range(2)]
        pairs = zip(tree_leaves(together), tree_leaves(apart), strict=True)
        if not all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs):
            return name
    return None


def _entries(found: Any) -> Sequence[Any]:
    """Split what a draw gives for a block into its updates."""
    if isinstance(found, list):
        return found
    leaves, structure = tree_flatten(found)
    return [tree_unflatten(list(each), structure) for each in zip(*(leaf.unbind(0) for leaf in leaves), strict=True)]
