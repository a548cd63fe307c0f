"""Update engine: runs blocks of gradient updates of a method's programs as fast as the device allows.

It is fast because (each measured in ``benchmarks/``) random numbers of a block are drawn in one call; a minibatch is one
``index_select`` of packed rows; losses, gradients and their concatenation are one function, compiled if that saves time;
optimiser and target averages work on flat vectors; nothing waits for the device inside a block.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from lightning_pbrl.compute.graphs import Board, CudaRecorder, Graphs, Recorder, Section, settings
from lightning_pbrl.compute.precision import Precision, check_precision, flush_denormals, products, step_in
from lightning_pbrl.engine.draws import Drawn, Streams, minibatch, updates_of, updates_of_all
from lightning_pbrl.engine.gradients import Compiler, Gradients, batched_gradients, in_tiles, own_gradients
from lightning_pbrl.engine.program import Part, Program
from lightning_pbrl.engine.state import FlatState
from lightning_pbrl.errors import UserError

Compile = bool | Literal["auto", "graph"]
Layout = Literal["auto", "loop", "batched"]
COMPILE_PAYS_AFTER = 12_000
"""Updates after which compiling has saved its own time on a CPU with a cold cache (``benchmarks/README.md``)."""


class Tiles(list[tuple[float, Drawn]]):
    """Parts of a wide update, each with its fraction of it; empty for an update that is evaluated whole."""


class UpdateEngine:
    """Run a method's programs for one or several replicas; all programs move one state.

    Args:
        owner: module that owns the networks and the loss methods.
        parts: groups with their optimisers, targets and frozen networks.
        programs: kinds of update, by name.
        seeds: one per replica; used until :meth:`begin` gives others.
        compile: True, False, or "auto": on CUDA always, on CPU when ``planned`` is large enough and a C++ compiler exists.
            A failing compiler costs one warning, never a run. "graph" compiles and replays updates as CUDA graphs.
        layout: "loop" runs replicas one after another, bit for bit as alone; "batched" runs them as one leading axis
            (``vmap``), equal to rounding; "auto" loops on CPU and batches on CUDA.
        planned: updates expected in total.
        reduce: averages a flat gradient over ranks in place; None on one device.
        precision: of matrix products and convolutions.
        recorder: records graphs; None for the device's own with "graph", and for no graphs without.

    Raises:
        UserError: if graphs or TF32 are wanted on another device than CUDA.

    Attributes:
        state: weights, targets and optimisers.
        updates: updates done so far, by program.
    """

    def __init__(
        self,
        owner: nn.Module,
        parts: Mapping[str, Part],
        programs: Mapping[str, Program],
        seeds: Sequence[int],
        compile: Compile = "auto",  # noqa: A002 - the name users know from torch and Lightning
        layout: Layout = "auto",
        planned: int = 0,
        reduce: Callable[[Tensor], None] | None = None,
        precision: Precision = "float32",
        recorder: Recorder | None = None,
    ) -> None:
        device = next(owner.parameters(), torch.empty(0)).device
        self.batched = len(seeds) > 1 and (layout == "batched" or (layout == "auto" and device.type == "cuda"))
        self.owner, self.programs, self.reduce, self.precision = owner, dict(programs), reduce, precision
        check_precision(precision, device)
        self.state = FlatState(owner, parts, len(seeds), self.batched)
        pays = device.type == "cuda" or (planned > COMPILE_PAYS_AFTER and shutil.which("g++") is not None)
        self._auto = compile in ("auto", "graph")
        if compile == "graph" and recorder is None:
            recorder = _recorder(owner, device)
        self._compiler = Compiler(pays if compile == "auto" else bool(compile), device.type == "cpu", direct=recorder is None)
        self._graphs = None if recorder is None else Graphs(recorder, self._compiler.latest)
        self._meters: dict[tuple[str, int], dict[str, Tensor]] = {}
        self.updates = dict.fromkeys(programs, 0)
        self._steps: dict[Any, Gradients] = {}
        self._attached = self.state.leaves
        self._apart: set[str] = set()
        self.begin(seeds)
        flush_denormals(device)

    @property
    def _device(self) -> torch.device:
        return next(self.owner.parameters(), torch.empty(0)).device

    @property
    def compile(self) -> bool:
        """True while losses and gradients are compiled."""
        return self._compiler.on

    def begin(self, seeds: Sequence[int]) -> None:
        """Start a phase with one seed per replica: draw from new streams, passes from their beginning."""
        self._done = 0
        self._streams = [Streams(seed) for seed in seeds]

    def moved(self, program: str) -> Sequence[str]:
        """Return the groups that a program moves."""
        return self.programs[program].moves or tuple(self.state.groups)

    def _attach(self) -> None:
        """Attach the modules' present values, if their parameters were re-bound."""
        self.state.reattach()
        if self._attached is not self.state.leaves:
            self._attached = self.state.leaves
            self._steps.clear()
            if self._graphs is not None:
                self._graphs.clear()

    def _gradients(self, name: str) -> list[Gradients]:
        """One function per step; programs that share a step, a view and what they move share it."""
        program, moved, found = self.programs[name], tuple(self.moved(name)), []
        for step in program.steps:
            key = step, program.view, moved
            if key not in self._steps:
                computed = step_in(self.precision, step, self._device)
                if self.batched:
                    function = batched_gradients(self.owner, self.state, computed, program.view, moved)
                else:
                    function = own_gradients(self.state, computed, program.view, moved)
                ragged = program.ragged and self._auto
                self._steps[key] = function if ragged else self._compiler(function)
            found.append(self._steps[key])
        return found

    def drawn(self, program: str, updates: int, replica: int | None = None) -> list[Drawn]:
        """Draw the next block for one replica, or for all on a leading axis; return one mapping by name per update."""
        which = range(self.state.replicas) if replica is None else [replica]
        draws = self.programs[program].draws
        blocks = [self._streams[k].block(draws, updates, self._done, self._device) for k in which]
        return updates_of(blocks[0], updates) if replica is not None else updates_of_all(blocks, updates)

    def run(self, program: str, updates: int, before: Callable[[int], None] | None = None) -> dict[str, Tensor]:
        """Do ``updates`` updates of every replica; return the mean of each loss and metric, (R,), without waiting for the device.

        Where the last minibatch of a pass is shorter, updates count by the sizes of their minibatches.

        Args:
            program: name of the program.
            updates: size of the block.
            before: called with i = 0, 1, ... before update i gathers, after the block's numbers are drawn: a method acts here.
                For one replica alone.

        Raises:
            UserError: if there is a loss of a group that the program does not move.
        """
        self._attach()
        with self._one_graph(), products(self.precision, self._device):
            if self.batched:
                meters = self._run(program, updates, self.drawn(program, updates), 0, before)
                self.state.bind(0)
            else:
                columns = []
                for replica in range(self.state.replicas):
                    if self.state.replicas > 1:
                        self.state.bind(replica)
                    columns.append(self._run(program, updates, self.drawn(program, updates, replica), replica, before))
                meters = {key: torch.stack([column[key] for column in columns]) for key in columns[0]}
        if stray := [key for key in meters if key in self.state.groups and key not in self.moved(program)]:
            raise UserError(
                f"{type(self.owner).__name__}'s program {program!r} has a loss of {stray[0]!r} and moves "
                f"{', '.join(self.moved(program))} alone: name it in moves, or rename a metric."
            )
        self.updates[program] += updates
        self._done += updates
        for group in self.moved(program):
            self.state.updates[group] += updates
        return meters

    def _one_graph(self) -> AbstractContextManager[Any]:
        """Keep Dynamo from splitting our functions where DDP would exchange buckets: the engine averages gradients itself."""
        several = self.compile and self.reduce is not None
        return torch._dynamo.config.patch(optimize_ddp=False) if several else nullcontext()

    def _run(
        self, name: str, updates: int, drawn: list[Drawn], block: int, before: Callable[[int], None] | None
    ) -> dict[str, Tensor]:
        """Run a block of updates of the replicas that step together."""
        program, done, moved = self.programs[name], self.updates[name], self.moved(name)
        steps, graphs = self._gradients(name), self._graphs
        self._compiler.begin()
        if graphs is not None:
            graphs.begin()
            self.state.keep_rates_on_device()
        every = program.every or (1,) * len(steps)
        meter = self._meters.setdefault((name, block), {})
        for value in meter.values():
            value.zero_()
        ran: dict[str, int] = {}
        made: dict[tuple[tuple[int, ...], bool], list[Section]] = {}
        before_it = None if before is None or graphs is None else settings(self.owner)
        for number, ids in enumerate(drawn):
            if before is not None:
                before(number)
                if graphs is not None and before_it != (before_it := settings(self.owner)):
                    graphs.begin()
            due = tuple(place for place, interval in enumerate(every) if (done + number) % interval == 0)
            follows = (done + number) % program.follow_every == 0
            board = Board(ids, number)
            if (due, follows) not in made:
                made[due, follows] = self._sections(name, block, due, follows, meter, acting=before is not None)
            sections = made[due, follows]
            if graphs is None:
                for section in sections:
                    section.run(board)
                counted = board.counted
            else:
                self.state.schedule(moved, number, block)
                counted = graphs.update((name, block, due, follows), board, sections)
            size = minibatch(program.draws, ids)
            for key in counted:
                ran[key] = ran.get(key, 0) + size
        return {key: meter[key] / ran[key] for key in meter if key in ran}

    def _sections(
        self, name: str, block: int, due: Sequence[int], follows: bool, meter: dict[str, Tensor], acting: bool
    ) -> list[Section]:
        """Return one update as sections: the gather, then gradients and move of every step that is due.

        A graph may hold a gather unless the method acts in between, which changes what may be drawn. It may hold a move if the
        optimisers count their steps on the device and nothing is averaged over ranks.
        """
        program, state, moved, steps = self.programs[name], self.state, self.moved(name), self._gradients(name)
        compiled = self._compiler.on and not (program.ragged and self._auto)

        def gather(board: Board) -> None:
            tiles = self._tiles(program, board.drawn)
            board.rows = tiles or self._gathered(name, board.drawn)
            board.handed = {}

        def losses(place: int, board: Board) -> None:
            gradients = steps[place]
            if isinstance(board.rows, Tiles):
                found = in_tiles(gradients, ((share, self._gathered(name, part)) for share, part in board.rows))
            else:
                found = gradients(board.rows, board.handed)
            board.found[place], board.handed = found, board.handed | found[3]
            size = minibatch(program.draws, board.drawn)
            _count(meter, found[2], size)  # before anything moves: a metric may be a view of a parameter
            board.counted |= found[2].keys()

        def move(place: int, board: Board) -> None:
            grads, reached, *_ = board.found[place]
            if self.reduce is not None:
                grads = self._reduced(grads)
            for group, grad in state.clipped(grads).items():
                state.step(group, grad, board.number, block, reached.get(group))
            if place == len(steps) - 1 and follows:
                state.follow(moved, block)

        inside = self.reduce is None and all(state.counts_on_device(group, block) for group in moved)
        sections = [Section(gather, not acting)]
        for place in due:
            sections += [
                Section(partial(losses, place), code=getattr(steps[place], "code", None) if compiled else None),
                Section(partial(move, place), inside),
            ]
        return sections

    def _gathered(self, name: str, drawn: Drawn) -> Any:
        """Gather the tensors of one update, of all replicas at once if these are batched."""
        gather = self.programs[name].gather
        if not self.batched:
            return gather(drawn)
        if name not in self._apart:
            try:
                return torch.vmap(gather)(drawn)
            except (RuntimeError, ValueError):  # data-dependent code cannot be mapped
                self._apart.add(name)
        each = [gather(tree_map(lambda value, k=k: value[k], drawn)) for k in range(self.state.replicas)]
        return tree_map(_stacked, *each)

    @staticmethod
    def _tiles(program: Program, drawn: Drawn) -> Tiles:
        """Cut a wide update into tiles along the last axis of its draws; return fractions and parts."""
        if program.tile is None:
            return Tiles()
        leaves, structure = tree_flatten(drawn)
        size = min(leaf.shape[-1] for leaf in leaves)
        if size <= program.tile:
            return Tiles()
        parts = list(zip(*(leaf[..., :size].split(program.tile, dim=-1) for leaf in leaves), strict=True))
        return Tiles((part[0].shape[-1] / size, tree_unflatten(list(part), structure)) for part in parts)

    def _reduced(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        bucket = torch.cat(list(grads.values()), dim=-1)  # one message per step
        assert self.reduce is not None  # noqa: S101 - checked by the caller
        self.reduce(bucket.squeeze(0))
        return dict(zip(grads, bucket.split([g.shape[-1] for g in grads.values()], dim=-1), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which a later process goes on at the edge of a phase: tensors and plain types."""
        return {"state": self.state.state_dict(), "updates": dict(self.updates)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.state.load_state_dict(saved["state"])
        self.updates.update(saved["updates"])


def _recorder(owner: nn.Module, device: torch.device) -> Recorder:
    if device.type != "cuda":
        raise UserError(
            f"compile=graph records CUDA graphs and {type(owner).__name__} is on the {device.type} device: set compile to auto, "
            "or use conf/trainer/gpu.yaml."
        )
    return CudaRecorder(device)


def _count(meter: dict[str, Tensor], losses: Mapping[str, Tensor], size: int) -> None:
    """Add losses and metrics of an update to their sums, ``size`` times."""
    for key, value in losses.items():
        if key not in meter:
            meter[key] = torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
    if losses:
        torch._foreach_add_([meter[key] for key in losses], list(losses.values()), alpha=size)


def _stacked(*parts: Tensor) -> Tensor:
    return torch.stack(parts)
