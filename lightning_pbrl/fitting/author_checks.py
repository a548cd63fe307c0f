"""Checks of an author's method: its numbers must depend neither on block size nor on replicas, its name must be free."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from lightning_pbrl.engine import Part
from lightning_pbrl.engine.draws import block_dependent
from lightning_pbrl.errors import UserError


def check_name(cls: type, registry: Mapping[str, type]) -> None:
    """Raise a UserError that names both modules if an outside method has a name of this library, in any order of imports."""
    other = registry.get(cls.__name__)
    modules = [] if other is None else sorted({cls.__module__, other.__module__})
    if len(modules) > 1 and any(module.partition(".")[0] == "lightning_pbrl" for module in modules):
        raise UserError(
            f"{cls.__module__} defines a method {cls.__name__} and so does {other.__module__}: checkpoints name their method in "
            "this way, so give yours another name."
        )


def check_population(method: Any, replicas: int) -> None:
    """Refuse replicas of a method that asks or acts while it trains."""
    if replicas > 1 and not method.population:
        raise UserError(
            f"{type(method).__name__} asks or acts while it trains, so its seeds run as processes: use "
            "`lightning-pbrl run EXPERIMENT --seeds 0-4` instead of replicas."
        )


def check_phase(method: Any, phase: Any) -> None:
    """Raise a UserError if a phase may end after any block and leaves the size of a block to the user."""
    if phase.done is not None and phase.block is None:
        raise UserError(
            f"{type(method).__name__}'s phase {phase.name!r} may end after any block (done) and has no block of its own, so that "
            "its length would depend on the setting block: give the Phase a block."
        )


def check_block_draws(method: Any, program: str) -> None:
    """Raise a UserError that names the draw if a program's random numbers depend on how many updates are drawn at once."""
    key = f"_checked_{program}"
    if key not in method.__dict__ and (draw := block_dependent(method.running.programs[program].draws, method.device)):
        raise UserError(
            f"{type(method).__name__}'s program {program!r} draws other numbers for {draw!r} when two updates are drawn at once "
            "than one by one, so that they would depend on the setting block: let entry k depend on row k of the uniform numbers "
            "alone, or give the Phase a block."
        )
    method.__dict__[key] = True


def no_replicas(method: Any, why: str) -> UserError:
    """Return the error of a method whose replicas would share something silently."""
    return UserError(
        f"{type(method).__name__} cannot train replicas in one process, because {why} and they would share it: run its seeds as "
        "processes (`lightning-pbrl run EXPERIMENT --seeds 0-4`)."
    )


def check_parts(method: Any, parts: Mapping[str, Part]) -> None:
    """Raise a UserError that names a parameter if it belongs to no part of the method's state, or to two."""
    name, at = type(method).__name__, {id(p): key for key, p in method.named_parameters(remove_duplicate=False)}
    held: dict[str, str] = {}
    for part, about in parts.items():
        for attribute in about.modules or (part,):
            value = attrgetter(attribute)(method)
            for p in [value] if isinstance(value, nn.Parameter) else value.parameters():
                if at[id(p)] in held:
                    raise UserError(
                        f"{name}'s parameter {at[id(p)]} belongs to two of its groups(), {held[at[id(p)]]!r} and {part!r}: "
                        "programs may share a group, so name it once."
                    )
                held[at[id(p)]] = part
    alone = [key for key in at.values() if key not in held]
    if alone:
        raise UserError(
            f"{name}'s parameter {alone[0]} is in none of its groups(), so that no update moves it and replicas would share it: "
            f"give {alone[0].split('.')[0]!r} a Group, a Follows or, if it stands still, Frozen() there."
        )


def check_shared_buffers(method: Any, first: Any, other: Any) -> None:
    """Raise a UserError that names a buffer if it differs between the ``first`` replica and another seed's, both just built."""
    own = dict(first.named_buffers())
    for name, buffer in other.named_buffers():
        if not torch.equal(buffer, own[name]):
            raise no_replicas(method, f"the buffer {name} depends on the seed")


def buffer_versions(method: Any) -> list[tuple[int, int]]:
    """Return identity and number of writes of each buffer, if replicas share them; else an empty list."""
    return [(id(buffer), buffer._version) for buffer in method.buffers()] if method.replicas > 1 else []
