"""Gradients of one step of an update as flat vectors, one per group: one function, compiled if that saves time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_pbrl.compute.compiling import prepare
from lightning_pbrl.engine.program import Losses, LossStep
from lightning_pbrl.engine.state import FlatState, Reached

Handed = dict[str, Tensor]
"""Tensors that a step hands to later ones, by the name under which these find them in their batch."""
Found = tuple[dict[str, Tensor], dict[str, Reached], Losses, Handed]
"""Flat gradient per group, masks of the parameters that have one (only of groups in which some have none), losses and metrics,
tensors handed on."""
Gradients = Callable[[Any, Handed], Found]
"""Gathered tensors and what earlier steps hand on -> gradients (n, P), losses (n,), of the n replicas that step together."""
View = Callable[[Any], Any]


def own_gradients(state: FlatState, step: LossStep, view: View, groups: Sequence[str]) -> Gradients:
    """Return the gradient function of the bound replica."""
    leaves = {group: state.leaves[group] for group in groups}

    def gradients(rows: Any, handed: Handed) -> Found:
        with torch.enable_grad():
            losses, further = _both(step(_with(view(rows), handed)))
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
                        flat = torch.cat([_flat(part, p) for part, p in zip(own, leaves[name], strict=True)])
                        grads[name] = flat.unsqueeze(0)
        return grads, reached, _detached(losses), _detached(further)

    return gradients


def batched_gradients(owner: nn.Module, state: FlatState, step: LossStep, view: View, groups: Sequence[str]) -> Gradients:
    """Return the gradient function of all replicas at once: the step, written for one seed, under ``torch.vmap``."""
    call = _Call(owner, step)
    stacked: dict[str, Tensor] = {}
    of_group: dict[str, list[str]] = {}
    for key, named in state.names.items():
        at = 0
        for name, p in named.items():
            part = state.storage[key].narrow(1, at, p.numel()).view(state.replicas, *p.shape).detach()
            stacked[f"owner.{name}"] = part.requires_grad_(key in state.groups)
            at += p.numel()
        of_group[key] = [f"owner.{name}" for name in named]

    def one(weights: dict[str, Tensor], rows: Any, handed: Handed) -> tuple[Losses, Handed]:
        return _both(torch.func.functional_call(call, weights, (_with(view(rows), handed),)))

    def gradients(rows: Any, handed: Handed) -> Found:
        with torch.enable_grad():
            losses, further = torch.vmap(one, randomness="different")(stacked, rows, handed)
            grads, reached = {}, {}
            for group, loss in losses.items():
                if group in groups:
                    held = [stacked[name] for name in of_group[group]]
                    parts = torch.autograd.grad(loss.sum(), held, retain_graph=True, allow_unused=True)
                    if any(part is None for part in parts):
                        reached[group] = tuple(part is not None for part in parts)
                    rows_of = [_flat(part, p).view(state.replicas, -1) for part, p in zip(parts, held, strict=True)]
                    grads[group] = torch.cat(rows_of, dim=1)
        return grads, reached, _detached(losses), _detached(further)

    return gradients


class Compiler:
    """Apply ``torch.compile`` with gradients inside the graph; after a failure run eagerly for good, with one warning.

    Guards notice that a setting of the method, or the size of a tensor, has changed since the function was compiled. They and
    the search for what fits cost 3 to 7 % of an update of SAC (``benchmarks/``). So both are done in a block's first update of
    each size only; all others call what was found then.

    Args:
        on: compile at all.
        on_cpu: let C++ rather than Python run what is compiled, which saves another 5 %.
        direct: call what was found by itself; otherwise Dynamo does, which keeps it in the order of :meth:`latest`.

    Attributes:
        on: False once it has failed.
    """

    def __init__(self, on: bool, on_cpu: bool = False, direct: bool = True) -> None:
        self.on, self.direct = on, direct
        self._options: dict[str, Any] | None = {"cpp_wrapper": True} if on_cpu else None
        self._checked: dict[Any, Gradients] = {}

    def begin(self) -> None:
        """Begin a block: whatever is called next evaluates its guards."""
        self._checked.clear()

    def __call__(self, function: Gradients) -> Gradients:
        """Return the function compiled, or itself if compiling is off."""
        if not self.on:
            return function
        prepare()
        fast = torch.compile(function, fullgraph=True, dynamic=False, options=self._options)

        def call(rows: Any, handed: Handed) -> Found:
            if self.on:
                key = fast, _sizes(rows), _sizes(handed)
                try:
                    if key in self._checked:
                        return self._checked[key](rows, handed)
                    found = fast(rows, handed)
                    itself = _compiled_last(function, rows, handed) if self.direct else None
                    self._checked[key] = itself or partial(_without_guards, fast)
                    return found
                except Exception as error:  # noqa: BLE001 - whatever the compiler stumbles over, eager gives the same numbers
                    self.on = False
                    reason = " ".join(str(error).split()) or repr(error)
                    warnings.warn(f"torch.compile failed, running eagerly: {reason}", stacklevel=2)
            return function(rows, handed)

        call.code = function.__code__  # type: ignore[attr-defined]
        return call

    @staticmethod
    def latest(code: CodeType) -> Hashable:
        """Return the identity of what Dynamo has compiled for ``code`` and run last; it keeps these in the order of their use."""
        entries = torch._C._dynamo.eval_frame._debug_get_cache_entry_list(code)
        return id(entries[0].code) if entries else None


def _compiled_last(function: Any, rows: Any, handed: Handed) -> Gradients | None:
    """Return the function with the code that Dynamo ran for it last, to be called by itself; None if that does not fit."""
    entries = torch._C._dynamo.eval_frame._debug_get_cache_entry_list(function.__code__)  # of all learners: they share it
    known = {name: cell.cell_contents for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True)}
    fits = entries and entries[0].guard_manager.check({**known, "rows": rows, "handed": handed})
    return FunctionType(entries[0].code, function.__globals__, closure=function.__closure__) if fits else None


def _sizes(tree: Any) -> tuple[Any, ...]:
    """Return shapes and types of the tensors in nested containers; for a dict of tensors without the slow ``tree_leaves``."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype
    return tuple(map(_sizes, tree.values() if type(tree) is dict else (leaf for leaf in tree_leaves(tree) if leaf is not tree)))


def _without_guards(fast: Gradients, rows: Any, handed: Handed) -> Found:
    with torch.compiler.set_stance("default", skip_guard_eval_unsafe=True):
        return fast(rows, handed)


def in_tiles(gradients: Gradients, tiles: Iterable[tuple[float, Any]]) -> Found:
    """Sum the gradients of one update over its tiles: pairs of a tile's fraction of the update and its gathered tensors."""
    grads: dict[str, Tensor] = {}
    losses: Losses = {}
    found: list[dict[str, Reached]] = []
    for share, rows in tiles:
        own, reached, values, _ = gradients(rows, {})
        found.append(reached)
        accumulate(grads, own, share)
        accumulate(losses, values, share)
    in_all = set.intersection(*map(set, found))  # any other group is reached whole by some tile
    return grads, {group: tuple(map(any, zip(*(each[group] for each in found), strict=True))) for group in in_all}, losses, {}


def accumulate(total: dict[str, Tensor], values: Mapping[str, Tensor], share: float = 1.0) -> None:
    """Add ``share`` times every value to its total."""
    for key, value in values.items():
        if key in total:
            total[key] = total[key].add_(value, alpha=share)
        else:
            total[key] = value * share


class _Call(nn.Module):
    """A loss method as a module, for ``torch.func.functional_call``."""

    def __init__(self, owner: nn.Module, step: LossStep) -> None:
        super().__init__()
        self.owner, self.step = owner, step

    def forward(self, batch: Any) -> Losses | tuple[Losses, Handed]:
        return self.step(batch)


def _both(found: Losses | tuple[Losses, Handed]) -> tuple[Losses, Handed]:
    """Return losses and what is handed on, from a step that returns either the first or both."""
    return found if isinstance(found, tuple) else (found, {})


def _with(batch: Any, handed: Handed) -> Any:
    return {**batch, **handed} if handed else batch


def _detached(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}


def _flat(grad: Tensor | None, p: Tensor) -> Tensor:
    """Return a gradient as a vector; zeros if there is none, which :class:`FlatState` leaves out of the step."""
    return torch.zeros_like(p).reshape(-1) if grad is None else grad.reshape(-1)
