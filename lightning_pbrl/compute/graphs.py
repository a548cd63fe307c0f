"""Updates replayed as CUDA graphs: one launch in place of hundreds.

An update is a list of sections: the gather, and for every step its gradients and its move. The first updates of a kind run as
always and are watched. Then those sections that a graph may hold are recorded, and later updates replay them.

Replays run no Python. So the first update of every block runs as always again. If it differs from what was recorded, in an
operator, a size, a constant, an address or compiled code, the update is recorded anew.

CUDA is behind :class:`Recorder`, so that a test can record on a CPU. It has been tested in this way alone, not yet on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from types import CodeType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

WARM_UP = 3
"""Updates of a kind before it is recorded: libraries choose kernels and reserve memory in the first."""
MOST_TRIES = 24
"""Updates of a kind that are watched in vain before it is left alone."""
MOST_KINDS = 32
"""Kinds of update whose graphs are kept; the oldest goes first."""
PLAIN = (bool, int, float, str, tuple, type(None))
INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


@dataclass
class Board:
    """Tensors that the sections of one update hand to each other.

    Attributes:
        drawn: random input of the update.
        number: number of the update in its block.
        rows: what was gathered.
        handed: what earlier steps hand to later ones.
        found: gradients and losses by the place of their step.
        counted: names of losses and metrics that the update has added to the meter.
    """

    drawn: Any
    number: int = 0
    rows: Any = None
    handed: dict[str, Tensor] = field(default_factory=dict)
    found: dict[int, Any] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)


class Section(NamedTuple):
    """Part of an update.

    Attributes:
        run: does it.
        inside: True if a graph may hold it.
        code: code that is compiled for it; None if it runs uncompiled.
    """

    run: Callable[[Board], None]
    inside: bool = True
    code: CodeType | None = None


class Recorder(Protocol):
    """Everything that recording needs of a device."""

    def warm_up(self, run: Callable[[], None]) -> None:
        """Run a function where it will be recorded."""

    def record(self, run: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        """Record a function that draws from ``generators``, without executing it; return what replays it."""


class CudaRecorder:
    """Record on a CUDA device, on a stream of its own; all graphs share one pool of memory.

    They may, because they run one after another, and tensors that outlive a replay are referenced as long as the graph is kept.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream, self.pool = device, torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], None]) -> None:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            run()
        current.wait_stream(self.stream)

    def record(self, run: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:  # the default generator is registered by itself
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            run()
        replay: Callable[[], None] = graph.replay
        return replay


class Watch(TorchDispatchMode):
    """Note what uncompiled sections do.

    Attributes:
        calls: operators in order, each with sizes, constants, and the addresses of tensors made outside.
        waits: name of an operator for which the host waits, or that reads the host's memory; None if there is none.
        generators: generators that are drawn from.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Hashable] = []
        self.waits: str | None = None
        self.generators: list[torch.Generator] = []
        self._made: set[int] = set()

    def made(self, tree: Any) -> None:
        """Take these tensors, which compiled code has made, for made inside: their addresses differ from update to update."""
        self._made |= {_storage(leaf) for leaf in tree_leaves(tree) if torch.is_tensor(leaf)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs))
        call = func, *map(self._key, given)
        found = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in given if torch.is_tensor(leaf)]
        made = [leaf for leaf in tree_leaves(found) if torch.is_tensor(leaf)]
        self._made |= {_storage(leaf) for leaf in made} - {_storage(leaf) for leaf in tensors}
        self.calls.append(call)
        if self.waits is None and _waits(func, [*tensors, *made]):
            self.waits = str(func)
        return found

    def _key(self, leaf: Any) -> Hashable:
        if torch.is_tensor(leaf):
            address = None if _storage(leaf) in self._made else leaf.data_ptr()
            return address, leaf.shape, leaf.stride(), leaf.dtype
        if isinstance(leaf, torch.Generator):
            if leaf not in self.generators:
                self.generators.append(leaf)
            return id(leaf)
        return repr(leaf)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _waits(func: Any, tensors: Sequence[Tensor]) -> bool:
    """Return True if a call waits for the device or reads the host's memory: a graph cannot hold it."""
    if len({tensor.device for tensor in tensors}) > 1:
        return True
    if func in INDEXING:  # a mask is counted first
        return any(tensor.dtype == torch.bool for tensor in tensors[1:])
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))


class Kind:
    """Updates that do the same, with inputs of the same sizes.

    Attributes:
        drawn: the input that every such update reads; it stays in place.
        rows: the same of a gather that no graph holds; None if one does.
        board: what the recorded sections hand to each other.
        seen: what the last watched update did.
        generators: what it drew from.
        watched: True once an update of the present block has been watched.
        warm: number of watched updates in a row that did the same.
        tries: number of watched updates since there were as many in a row as recording needs.
        apart: True if the gather stays outside.
        off: True if the whole update does.
        replays: what a replayed update calls, in order; empty before it is recorded.
    """

    def __init__(self, drawn: Any, apart: bool) -> None:
        self.drawn = tree_map(_copied, drawn)
        self.rows: Any = None
        self.board = Board(self.drawn)
        self.seen: tuple[Hashable, ...] = ()
        self.generators: list[torch.Generator] = []
        self.watched, self.warm, self.tries, self.apart, self.off = False, 0, 0, apart, False
        self.replays: list[Callable[[], None]] = []


class Graphs:
    """Run updates, recorded where that is possible; the others run as always, with one warning.

    Args:
        recorder: the device's.
        latest: identity of the compiled code that ran last for a function's own code: another one if a setting or a size has
            changed.

    Attributes:
        recorded: number of graphs recorded so far.
    """

    def __init__(self, recorder: Recorder, latest: Callable[[CodeType], Hashable]) -> None:
        self.recorder, self.latest, self.recorded = recorder, latest, 0
        self._kinds: dict[Hashable, Kind] = {}
        self._warned = False

    def begin(self) -> None:
        """Let the next update of every kind be watched: settings may have changed."""
        for kind in self._kinds.values():
            kind.watched = False

    def clear(self) -> None:
        """Forget all graphs."""
        self._kinds.clear()

    def update(self, key: Hashable, board: Board, sections: Sequence[Section]) -> set[str]:
        """Do one update on ``board.drawn``; return the names that it has counted.

        Args:
            key: kind of update, apart from the sizes of its input.
            board: input and number of the update.
            sections: the update; the first gathers.
        """
        kind = self._kind(key, board.drawn, not sections[0].inside)
        if kind.off:
            _all(sections, board)()
            return board.counted
        _copy(kind.drawn, board.drawn)
        if not kind.watched or kind.warm < WARM_UP:
            return self._watch(kind, board.number, sections)
        kind.board.number = board.number
        if kind.apart and not self._gather(kind, kind.board, sections[0]):
            _all(sections[1:], kind.board)()
        elif kind.replays or self._record(kind, sections[kind.apart :]):
            for replay in kind.replays:
                replay()
        else:
            _all(sections[kind.apart :], kind.board)()
        return kind.board.counted

    def _kind(self, key: Hashable, drawn: Any, apart: bool) -> Kind:
        key = key, apart, *_sizes(drawn)
        if key not in self._kinds:
            if len(self._kinds) == MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[key] = Kind(drawn, apart)
        return self._kinds[key]

    def _gather(self, kind: Kind, board: Board, section: Section) -> bool:
        """Gather as always, into the tensors that the graph reads; return False if they have other sizes."""
        section.run(board)
        if kind.rows is None:
            kind.rows = tree_map(_copied, board.rows)
        elif _sizes(kind.rows) != _sizes(board.rows):
            self._leave(kind, "what is gathered differs in size from update to update")
            return False
        else:
            _copy(kind.rows, board.rows)
        board.rows = kind.rows
        return True

    def _watch(self, kind: Kind, number: int, sections: Sequence[Section]) -> set[str]:
        """Do an update as always and compare it with the one before."""
        watch, board = Watch(), Board(kind.drawn, number)

        def run() -> None:
            if not kind.apart:
                with watch:
                    sections[0].run(board)
                if watch.waits is not None:
                    kind.apart, kind.warm = True, 0
                    watch.waits = None
                    watch.calls.clear()
            if kind.apart:
                self._gather(kind, board, sections[0])
            for section in sections[1:]:
                if section.code is None and section.inside:
                    with watch:
                        section.run(board)
                else:
                    section.run(board)
                if section.code is not None:
                    watch.calls.append(self.latest(section.code))
                    watch.made(board.found)

        self.recorder.warm_up(run)
        seen = tuple(watch.calls)
        if seen != kind.seen:
            kind.warm, kind.replays = 0, []
        kind.seen, kind.watched, kind.generators = seen, True, watch.generators
        kind.warm += 1
        kind.tries = 0 if kind.warm >= WARM_UP else kind.tries + 1
        if watch.waits is not None:
            self._leave(kind, f"{watch.waits} waits for the device")
        elif kind.tries == MOST_TRIES:
            self._leave(kind, f"no {WARM_UP} updates of {MOST_TRIES} did the same")
        kind.board.counted = board.counted
        return board.counted

    def _record(self, kind: Kind, sections: Sequence[Section]) -> bool:
        """Record the sections, those that lie side by side in one graph; return True if that worked."""
        replays: list[Callable[[], None]] = []
        try:
            for inside, together in groupby(sections, key=lambda section: section.inside):
                run = _all(list(together), kind.board)
                replays.append(self.recorder.record(run, kind.generators) if inside else run)
                self.recorded += inside
        except Exception as error:  # noqa: BLE001 - whatever recording stumbles over, the same updates run without it
            self._leave(kind, " ".join(str(error).split()) or repr(error))
            return False
        kind.replays = replays
        return True

    def _leave(self, kind: Kind, reason: str) -> None:
        """Run updates of a kind as always from now on."""
        kind.off, kind.replays = True, []
        if not self._warned:
            self._warned = True
            warnings.warn(f"Updates could not be recorded as a CUDA graph, running them without: {reason}", stacklevel=2)


def _all(sections: Sequence[Section], board: Board) -> Callable[[], None]:
    def run() -> None:
        for section in sections:
            section.run(board)

    return run


def _copied(leaf: Any) -> Any:
    return leaf.clone() if torch.is_tensor(leaf) else leaf


def _copy(kept: Any, fresh: Any) -> None:
    """Copy every tensor of ``fresh`` to its place in ``kept``."""
    pairs = [(a, b) for a, b in zip(tree_leaves(kept), tree_leaves(fresh), strict=True) if torch.is_tensor(a)]
    if pairs:
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])


def _sizes(tree: Any) -> list[Hashable]:
    return [(leaf.shape, leaf.dtype, leaf.device) if torch.is_tensor(leaf) else repr(leaf) for leaf in tree_leaves(tree)]


def settings(owner: nn.Module) -> Hashable:
    """Return the plain attributes of a module and its parts: another value when one of them has changed."""
    return tuple(
        (id(module), name, repr(value))
        for module in owner.modules()
        for name, value in vars(module).items()
        if name == "_hparams" or isinstance(value, PLAIN)
    )
