"""The engine: runs blocks of gradient updates of a :class:`Program` as fast as the device allows.

What makes it fast (each measured in ``benchmarks/``): the ids of a block are drawn in one call; a minibatch is one
``index_select`` of packed rows; losses, gradients and their concatenation are one function, compiled
when that pays; optimiser and target averages work on flat vectors; nothing waits for the device inside a block.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_pbrl.engine.flat import FlatState, Reached
from lightning_pbrl.engine.program import Losses, LossStep, Program

Compile = bool | Literal["auto"]
Layout = Literal["auto", "loop", "batched"]
Gradients = Callable[[Any], tuple[dict[str, Tensor], dict[str, Reached], Losses]]
"""Batch -> flat gradient per group, which parameters have one (groups in which all have are left out), every loss and metric."""

COMPILE_PAYS_AFTER = 12_000
"""Updates after which compiling has paid for itself on a CPU with a cold cache (``benchmarks/README.md``)."""


class UpdateEngine:
    """Runs a program's updates for one or several replicas.

    Args:
        owner: the module that owns the networks and the loss methods.
        program: what an update is.
        generators: one random generator per replica; replica k uses generator k for all its samples.
        compile: True, False, or "auto": on CUDA always, on CPU when ``planned`` is worth it and a C++ compiler exists.
            A failing compiler costs one warning, never a run.
        layout: "loop" runs replicas one after another, bit for bit as alone; "batched" runs them as one leading axis
            (``vmap``), equal to rounding; "auto" loops on CPU and batches on CUDA.
        planned: updates expected in total.
        reduce: averages a flat gradient over ranks in place; None on one device.
    """

    def __init__(
        self,
        owner: nn.Module,
        program: Program,
        generators: list[torch.Generator],
        compile: Compile = "auto",  # noqa: A002 - the name users know from torch and Lightning
        layout: Layout = "auto",
        planned: int = 0,
        reduce: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.owner, self.program, self.generators, self.reduce = owner, program, generators, reduce
        self.flat = FlatState(owner, program.groups, program.targets, replicas=len(generators))
        device = next(iter(self.flat.storage.values())).device
        self.batched = len(generators) > 1 and (layout == "batched" or (layout == "auto" and device.type == "cuda"))
        pays = device.type == "cuda" or (planned > COMPILE_PAYS_AFTER and shutil.which("g++") is not None)
        self.compile = (pays and not program.ragged) if compile == "auto" else bool(compile)
        self.updates = 0
        self._draws_singly: bool | None = None
        self._gradients = [self._prepare(step) for step in program.steps]
        if device.type == "cpu":
            torch.set_flush_denormal(True)  # underflowing moments would slow the fused optimiser threefold

    def _attach(self) -> None:
        """Take in what the modules hold now, if something has re-bound their parameters."""
        if not self.flat.attached():
            self.flat.attach()
            self._gradients = [self._prepare(step) for step in self.program.steps]

    def _prepare(self, step: LossStep) -> Gradients:
        function = self._batched_gradients(step) if self.batched else self._own_gradients(step)
        return self._compiled(function) if self.compile else function

    def _compiled(self, function: Gradients) -> Gradients:
        """``torch.compile`` with gradients inside the graph; the engine turns eager, with one warning, if that fails."""
        torch._dynamo.config.trace_autograd_ops = True  # lets autograd.grad be part of the graph
        # All steps of all engines of a process share the code of `gradients`, and with it one limit (8 by default).
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        compiled = torch.compile(function, fullgraph=True, dynamic=False)

        def call(rows: Any) -> tuple[dict[str, Tensor], dict[str, Reached], Losses]:
            if self.compile:
                try:
                    return compiled(rows)
                except Exception as error:  # noqa: BLE001 - whatever the compiler stumbles over, eager gives the same numbers
                    self.compile = False
                    reason = " ".join(str(error).split()) or repr(error)
                    warnings.warn(f"torch.compile failed, running eagerly: {reason}", stacklevel=2)
            return function(rows)

        return call

    def _own_gradients(self, step: LossStep) -> Gradients:
        """Batch -> flat gradient per group and every loss; one graph when compiled."""
        leaves, view = self.flat.leaves, self.program.view

        def gradients(rows: Any) -> tuple[dict[str, Tensor], dict[str, Reached], Losses]:
            with torch.enable_grad():
                losses = step(view(rows))
                grads: dict[str, Tensor] = {}
                reached: dict[str, Reached] = {}
                for group, loss in losses.items():  # one gradient per loss keeps an actor's out of the critic it flows through
                    if group in leaves and group not in grads:
                        moved = [name for name in losses if name in leaves and losses[name] is loss]  # they share a pass backward
                        wanted = [p for name in moved for p in leaves[name]]
                        parts = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
                        at = 0
                        for name in moved:
                            own = parts[at : at + len(leaves[name])]
                            at += len(own)
                            if any(part is None for part in own):
                                reached[name] = tuple(part is not None for part in own)
                            grads[name] = torch.cat([_flat(part, p) for part, p in zip(own, leaves[name], strict=True)])
            return grads, reached, {name: loss.detach() for name, loss in losses.items()}

        return gradients

    def _batched_gradients(self, step: LossStep) -> Gradients:
        """The same for all replicas at once: (R, P) gradients per group, (R,) losses."""
        flat, view, call = self.flat, self.program.view, _Call(self.owner, step)
        stacked: dict[str, Tensor] = {}
        of_group: dict[str, list[str]] = {}
        for key, named in flat.names.items():
            at = 0
            for name, p in named.items():
                part = flat.storage[key].narrow(1, at, p.numel()).view(flat.replicas, *p.shape).detach()
                stacked[f"owner.{name}"] = part.requires_grad_(key in flat.groups)
                at += p.numel()
            of_group[key] = [f"owner.{name}" for name in named]

        def one(weights: dict[str, Tensor], rows: Any) -> Losses:
            return torch.func.functional_call(call, weights, (view(rows),))

        def gradients(rows: Any) -> tuple[dict[str, Tensor], dict[str, Reached], Losses]:
            with torch.enable_grad():
                losses = torch.vmap(one, randomness="different")(stacked, rows)
                grads, reached = {}, {}
                for group, loss in losses.items():
                    if group in flat.groups:
                        held = [stacked[name] for name in of_group[group]]
                        parts = torch.autograd.grad(loss.sum(), held, retain_graph=True, allow_unused=True)
                        if any(part is None for part in parts):
                            reached[group] = tuple(part is not None for part in parts)
                        rows_of = [_flat(part, p).view(flat.replicas, -1) for part, p in zip(parts, held, strict=True)]
                        grads[group] = torch.cat(rows_of, dim=1)
            return grads, reached, {name: loss.detach() for name, loss in losses.items()}

        return gradients

    def run(self, updates: int, before: Callable[[int], None] | None = None) -> dict[str, Tensor]:
        """Do ``updates`` updates of every replica.

        Args:
            updates: the size of the block.
            before: called with i = 0, 1, ... before update i of the block, when the ids of the whole block are drawn and those
                of update i not yet gathered: this is where a method acts. For one replica alone.

        Returns:
            The mean over the block of each loss and metric, (R,), on the device; nothing here waits for it.
        """
        self._attach()
        with self._one_graph():
            meters = self._run_batched(updates) if self.batched else self._run_looped(updates, before)
        self.updates += updates
        return meters

    def draws_singly(self) -> bool:
        """Whether two updates drawn at once are those drawn one by one, so that no number depends on the size of a block.

        Tried once, with generators of its own; what the owner notes while it samples is forgotten.
        """
        if self._draws_singly is None:
            one, two = (torch.Generator(device=self.generators[0].device).manual_seed(0) for _ in range(2))
            sample = self.program.sample
            with _forgetting(self.owner):
                together = list(sample(2, one))
            with _forgetting(self.owner):
                apart = [*sample(1, two), *sample(1, two)]
            pairs = zip(tree_leaves(together), tree_leaves(apart), strict=True)
            self._draws_singly = all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)
        return self._draws_singly

    def _one_graph(self) -> AbstractContextManager[Any]:
        """Keep Dynamo from splitting our functions where DDP would exchange buckets: the engine averages gradients itself."""
        several = self.compile and self.reduce is not None
        return torch._dynamo.config.patch(optimize_ddp=False) if several else nullcontext()

    def _run_looped(self, updates: int, before: Callable[[int], None] | None) -> dict[str, Tensor]:
        columns = []
        for replica, generator in enumerate(self.generators):
            if self.flat.replicas > 1:
                self.flat.bind(replica)
            columns.append(self._run_bound(updates, generator, before))
        return {key: torch.stack([column[key] for column in columns]) for key in columns[0]}

    def _run_bound(self, updates: int, generator: torch.Generator, before: Callable[[int], None] | None) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        ran: dict[str, set[int]] = {}
        for number, ids in enumerate(self.program.sample(updates, generator)):
            if before is not None:
                before(number)
            whole = None if self._in_tiles(ids) else self.program.gather(ids)
            for gradients in self._due(self.updates + number):
                grads, reached, losses = self._tiled(gradients, ids) if whole is None else gradients(whole)
                if self.reduce is not None:
                    grads = self._reduced(grads)
                grads = self._clipped_jointly(grads)
                _count(ran, losses, number)
                _accumulate(total, losses)  # before anything moves: a metric may be a view of a parameter
                for group, grad in grads.items():
                    self.flat.step(group, grad, self.updates + number, reached.get(group))
            if gradients is self._gradients[-1] and self._follows(self.updates + number):
                self.flat.follow()
        return {key: value / len(ran[key]) for key, value in total.items()}

    def _due(self, update: int) -> list[Gradients]:
        """The steps that update number ``update`` (from 0) consists of."""
        every = self.program.every or (1,) * len(self._gradients)
        return [step for step, interval in zip(self._gradients, every, strict=True) if update % interval == 0]

    def _follows(self, update: int) -> bool:
        """Whether the targets move in update number ``update`` (from 0)."""
        return update % self.program.follow_every == 0

    def _in_tiles(self, ids: Any) -> bool:
        """Whether an update is so wide that it is evaluated in tiles."""
        return self.program.tile is not None and ids.shape[-1] > self.program.tile

    def _tiled(self, gradients: Gradients, ids: Tensor) -> tuple[dict[str, Tensor], dict[str, Reached], Losses]:
        """Gradients of one update, summed over its tiles, each with its share of the ids."""
        sums: tuple[dict[str, Tensor], Losses] = ({}, {})
        found: list[dict[str, Reached]] = []
        for part in ids.split(self.program.tile, dim=-1):
            share = part.shape[-1] / ids.shape[-1]
            grads, reached, losses = gradients(self.program.gather(part))
            found.append(reached)
            for into, values in zip(sums, (grads, losses), strict=True):
                _accumulate(into, values, share)
        in_all = set.intersection(*map(set, found))  # any other group is reached whole by some tile
        return sums[0], {group: tuple(map(any, zip(*(each[group] for each in found), strict=True))) for group in in_all}, sums[1]

    def _reduced(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        bucket = torch.cat(list(grads.values()))  # one message per step
        assert self.reduce is not None  # noqa: S101 - checked by the caller
        self.reduce(bucket)
        return dict(zip(grads, bucket.split([g.numel() for g in grads.values()]), strict=True))

    def _clipped_jointly(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scale the groups that are clipped by their common norm; each one's own norm is then within the bound, too."""
        joint = [group for group in grads if self.flat.groups[group].clip_jointly]
        clip = self.flat.groups[joint[0]].clip if joint else None
        if clip is None:
            return grads
        norm = torch.stack([grads[group].norm() for group in joint]).norm()
        scale = clip / norm.clamp(min=clip)
        return {group: grad * scale if group in joint else grad for group, grad in grads.items()}

    def _run_batched(self, updates: int) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        ran: dict[str, set[int]] = {}
        sampled = [self.program.sample(updates, generator) for generator in self.generators]
        for number, ids in enumerate(zip(*sampled, strict=True)):
            rows = self._gather_all(ids)
            for gradients in self._due(self.updates + number):
                grads, reached, losses = gradients(rows)
                _count(ran, losses, number)
                _accumulate(total, losses)
                for replica in range(self.flat.replicas):
                    self.flat.bound = replica
                    for group, grad in self._clipped_jointly({g: grad[replica] for g, grad in grads.items()}).items():
                        self.flat.step(group, grad, self.updates + number, reached.get(group))
            if gradients is self._gradients[-1] and self._follows(self.updates + number):
                for replica in range(self.flat.replicas):
                    self.flat.bound = replica
                    self.flat.follow()
        self.flat.bind(0)
        return {key: value / len(ran[key]) for key, value in total.items()}

    def _gather_all(self, ids: Sequence[Any]) -> Any:
        """What all replicas gather for one update, stacked; ids of several parts are gathered one replica after another."""
        if all(torch.is_tensor(own) for own in ids):
            return self.program.gather(torch.stack(tuple(ids)))
        return tree_map(lambda *parts: torch.stack(parts), *map(self.program.gather, ids))

    def reset(self, group: str, values: Mapping[str, Tensor] | None = None) -> None:
        """Give a group new weights (the present ones when None) and a fresh optimiser; targets that follow it equal it.

        Args:
            group: which group.
            values: weights by their names in the owner's ``state_dict``.
        """
        self._attach()
        self.flat.reset(group, values)

    def state_dict(self) -> dict[str, Any]:
        """Everything a later process needs to go on exactly here."""
        return {
            "flat": self.flat.state_dict(),
            "updates": self.updates,
            "generators": [generator.get_state() for generator in self.generators],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.flat.load_state_dict(state["flat"])
        self.updates = int(state["updates"])
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.cpu())


@contextmanager
def _forgetting(owner: nn.Module) -> Iterator[None]:
    """Give a module's own attributes back as they were, lists and mappings with their content."""
    of_torch = vars(nn.Module())
    kept = {name: value for name, value in vars(owner).items() if name not in of_torch}
    content = [(value, copy(value)) for value in kept.values() if isinstance(value, list | dict)]
    try:
        yield
    finally:
        for name in [name for name in vars(owner) if name not in kept and name not in of_torch]:
            del owner.__dict__[name]
        owner.__dict__.update(kept)
        for value, before in content:
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)


class _Call(nn.Module):
    """Makes a loss method callable through ``torch.func.functional_call``."""

    def __init__(self, owner: nn.Module, step: LossStep) -> None:
        super().__init__()
        self.owner, self.step = owner, step

    def forward(self, batch: Any) -> Losses:
        return self.step(batch)


def _flat(grad: Tensor | None, p: Tensor) -> Tensor:
    """A gradient as a vector; zeros where there is none, which :class:`FlatState` leaves out of the step."""
    return torch.zeros_like(p).reshape(-1) if grad is None else grad.reshape(-1)


def _count(ran: dict[str, set[int]], losses: Losses, number: int) -> None:
    """Note in which updates of the block each loss was computed: its mean is over those alone."""
    for key in losses:
        ran.setdefault(key, set()).add(number)


def _accumulate(total: dict[str, Tensor], values: Mapping[str, Tensor], share: float = 1.0) -> None:
    for key, value in values.items():
        if key in total:
            total[key] = total[key].add_(value, alpha=share)
        else:
            total[key] = value * share
