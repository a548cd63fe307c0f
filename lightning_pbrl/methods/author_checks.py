"""What the base refuses of a method whose numbers would depend on what must not matter: block size, replicas, its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.errors import UserError

if TYPE_CHECKING:
    from lightning_pbrl.methods.base import Method, Phase


def check_name(cls: type[Method], registry: Mapping[str, type[Method]]) -> None:
    """Refuse an outside method that takes the name of one of this library, whichever of the two is imported first.

    Raises:
        UserError: naming both modules.
    """
    other = registry.get(cls.__name__)
    modules = [] if other is None else sorted({cls.__module__, other.__module__})
    if len(modules) > 1 and any(module.partition(".")[0] == "lightning_pbrl" for module in modules):
        raise UserError(
            f"{cls.__module__} defines a method {cls.__name__} and so does {other.__module__}: checkpoints name their method in "
            "this way, so give yours another name."
        )


def check_phase(method: Method, phase: Phase) -> None:
    """Refuse a phase that may end after any block and leaves the size of a block to the user.

    Raises:
        UserError: naming method and phase.
    """
    if phase.done is not None and phase.block is None:
        raise UserError(
            f"{type(method).__name__}'s phase {phase.name!r} may end after any block (done) and has no block of its own, so that "
            "its length would depend on the setting block: give the Phase a block."
        )


def check_block_draws(method: Method, program: str, engine: UpdateEngine) -> None:
    """Refuse a program whose minibatches depend on how many are drawn at once.

    Raises:
        UserError: naming method and program.
    """
    if not engine.draws_singly():
        raise UserError(
            f"{type(method).__name__}'s program {program!r} draws other minibatches when two are drawn at once than one by one, "
            "so that its numbers would depend on the setting block: draw each update by itself, or give the Phase a block."
        )


def no_replicas(method: Method, why: str) -> UserError:
    """The error of a method whose replicas would share something in silence."""
    return UserError(
        f"{type(method).__name__} cannot train replicas in one process, because {why} and they would share it: run its seeds as "
        "processes (`lightning-pbrl run EXPERIMENT --seeds 0-4`)."
    )


def check_shared_parameters(method: Method) -> None:
    """Refuse replicas of a method with parameters that no program holds (frozen copies ...), or that two hold.

    Raises:
        UserError: naming one of them.
    """
    held = [name for engine in method.engines.values() for named in engine.flat.names.values() for name in named]
    alone = [name for name, _ in method.named_parameters() if name not in held]
    if alone:
        raise no_replicas(method, f"the parameter {alone[0]} is neither moved nor followed by a program")
    if len(held) > len(set(held)):
        twice = next(name for name in held if held.count(name) > 1)
        raise no_replicas(method, f"the parameter {twice} is moved by two programs")


def check_shared_buffers(method: Method, first: Method, other: Method) -> None:
    """Refuse replicas of a method with a buffer that differs between seeds.

    Args:
        method: for the message.
        first: the same, just built.
        other: the same of another seed, just built.

    Raises:
        UserError: naming the buffer.
    """
    own = dict(first.named_buffers())
    for name, buffer in other.named_buffers():
        if not torch.equal(buffer, own[name]):
            raise no_replicas(method, f"the buffer {name} depends on the seed")


def buffer_versions(method: Method) -> list[tuple[int, int]]:
    """Which tensors the buffers are and how often each was written to, where replicas share them."""
    return [(id(buffer), buffer._version) for buffer in method.buffers()] if method.replicas > 1 else []
