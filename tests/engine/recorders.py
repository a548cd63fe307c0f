"""Stand-ins for a CUDA device's recorder: they record on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Run = Callable[[], None]


class Caller:
    """Record the function itself; a replay calls it."""

    def __init__(self) -> None:
        self.warmed = self.recorded = self.replayed = 0
        self.generators: list[torch.Generator] = []

    def warm_up(self, run: Run) -> None:
        self.warmed += 1
        run()

    def record(self, run: Run, generators: Sequence[torch.Generator]) -> Run:
        self.recorded += 1
        self.generators += generators

        def replay() -> None:
            self.replayed += 1
            run()

        return replay


class Failing(Caller):
    """Record nothing."""

    def record(self, run: Run, generators: Sequence[torch.Generator]) -> Run:
        raise RuntimeError("operation not permitted when stream is capturing")


class Tape(Caller, TorchDispatchMode):
    """Record operators as a CUDA graph does: a replay repeats them on the very same tensors and runs no Python.

    Recording executes them, so whatever they wrote in place is restored. An operator for which the host would wait is refused.

    Attributes:
        calls: operators of the latest recording, with their arguments and results.
    """

    def __init__(self) -> None:
        Caller.__init__(self)
        TorchDispatchMode.__init__(self)
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if {torch.Tag.data_dependent_output} & set(func.tags):
            raise RuntimeError(f"{func} waits for the device")
        for place, argument in zip(func._schema.arguments, args, strict=False):
            if place.alias_info is not None and place.alias_info.is_write:
                for tensor in tree_leaves(argument):
                    key = tensor.untyped_storage().data_ptr()
                    self.kept.setdefault(key, (tensor.untyped_storage(), tensor.untyped_storage().clone()))
        found = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, found))
        return found

    def record(self, run: Run, generators: Sequence[torch.Generator]) -> Run:
        self.recorded += 1
        self.generators += generators
        self.calls, self.kept = [], {}
        state = torch.get_rng_state()
        with self:
            run()
        torch.set_rng_state(state)
        for storage, before in self.kept.values():
            storage.copy_(before)
        calls = self.calls

        def replay() -> None:
            self.replayed += 1
            with torch.no_grad():
                for func, args, kwargs, held in calls:
                    for old, new in zip(tree_leaves(held), tree_leaves(func(*args, **kwargs)), strict=True):
                        if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():
                            old.copy_(new)

        return replay


@contextmanager
def counted() -> Iterator[list[str]]:
    """Collect the names of the aten operators that are called."""
    names: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    with Count():
        yield names


def addresses(engine: Any) -> dict[str, int]:
    """Return where an engine's weights, moments, step counts, rates and sums lie."""
    found: dict[str, Tensor] = {f"weights of {key}": value for key, value in engine.state.storage.items()}
    for block, optimizers in enumerate(engine.state.optimizers):
        for group, optimizer in optimizers.items():
            found[f"rate of {group} {block}"] = optimizer.param_groups[0]["lr"]
            for state in optimizer.state.values():
                found |= {f"{key} of {group} {block}": value for key, value in state.items()}
    for (name, block), meter in engine._meters.items():
        found |= {f"sum of {key} {name} {block}": value for key, value in meter.items()}
    return {key: value.data_ptr() for key, value in found.items() if torch.is_tensor(value)}
