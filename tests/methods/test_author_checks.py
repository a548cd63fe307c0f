"""What the base refuses of an outside method: shared copies, numbers that depend on the block, a name that is taken."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.engine import Draw, Frozen, Group, Part, Program
from lightning_pbrl.engine.draws import Place
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method, Phase
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.teachers.base import Teacher, make_answer

SMALL: dict[str, Any] = {"updates": 4, "hidden": (8,), "batch_size": 8}


class FrozenCopy(BC):
    """Keeps its first policy, as methods with a reference policy do, and names it in no group."""

    def build(self) -> None:
        super().build()
        self.first = copy.deepcopy(self.actor).requires_grad_(False)


class DeclaredCopy(FrozenCopy):
    """Names it."""

    def groups(self) -> dict[str, Part]:
        return {**super().groups(), "first": Frozen()}


class TwoGroups(BC):
    """Names its policy twice."""

    def groups(self) -> dict[str, Part]:
        return {**super().groups(), "again": Group(1e-3, modules=("actor.mean",))}


class SeededBuffer(BC):
    """Random features that depend on the seed."""

    def build(self) -> None:
        super().build()
        self.register_buffer("directions", torch.randn(3))


class CountingBuffer(BC):
    """Statistics that move while it learns."""

    def build(self) -> None:
        super().build()
        self.register_buffer("seen", torch.zeros(()))

    def programs(self) -> dict[str, Program]:
        (name, program), *_ = super().programs().items()

        def gather(drawn: dict[str, Tensor]) -> Any:
            self.seen += 1
            return program.gather(drawn)

        return {name: replace(program, gather=gather)}


class Centred(Draw):
    """Noise whose mean over the block is 0, so that an update's noise depends on the others."""

    width = 3

    def __call__(self, u: Tensor, place: Place) -> Tensor:
        return u - u.mean(0)


class BlockNoise(BC):
    """Draws such noise beside its rows."""

    def programs(self) -> dict[str, Program]:
        (name, program), *_ = super().programs().items()
        return {name: replace(program, draws={**program.draws, "noise": Centred()})}


class OwnBlock(BlockNoise):
    """Says how many updates are drawn at once."""

    def plan(self, round_number: int) -> list[Phase]:
        return [phase._replace(block=2) for phase in super().plan(round_number)]


class MayEnd(BC):
    """Ends a phase by its metrics, after any block."""

    def plan(self, round_number: int) -> list[Phase]:
        return [phase._replace(done=lambda metrics: False) for phase in super().plan(round_number)]


def fit(cls: type[Method], folder: Path, **settings: Any) -> Method:
    method = cls(SPEC, **{**SMALL, **settings})
    make_trainer(folder).fit(method, ToyData())
    return method


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (SeededBuffer, "SeededBuffer cannot train replicas .* because the buffer directions depends on the seed"),
        (CountingBuffer, "CountingBuffer cannot train replicas .* because its updates change a buffer"),
    ],
)
def test_replicas_share_nothing_in_silence(cls: type[Method], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        fit(cls, tmp_path / "two", replicas=2)
    fit(cls, tmp_path / "one")  # alone it is right


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_parameter_belongs_to_one_group(replicas: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"FrozenCopy's parameter first\.\S+ is in none of its groups\(\), .* give 'first' a"):
        fit(FrozenCopy, tmp_path, replicas=replicas)
    with pytest.raises(UserError, match=r"TwoGroups's parameter actor\.mean\.\S+ belongs to two of its groups\(\), 'actor' and"):
        fit(TwoGroups, tmp_path, replicas=replicas)


@pytest.mark.parametrize("layout", ["loop", "batched"])
def test_replicas_keep_a_frozen_copy_each(layout: Any, tmp_path: Path) -> None:
    method = fit(DeclaredCopy, tmp_path, replicas=2, layout=layout, seed=5)
    for replica in range(2):
        alone = DeclaredCopy(SPEC, **SMALL, seed=5 + replica)
        alone.configure_model()
        weights = method.running.state.weights(replica)
        for name, value in alone.first.named_parameters():
            assert torch.equal(weights[f"first.{name}"], value)
            assert not torch.equal(weights[f"actor.{name}"], value)


def test_numbers_do_not_depend_on_the_block(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"BlockNoise's program 'policy' draws other numbers for 'noise' when two updates"):
        fit(BlockNoise, tmp_path)
    fit(OwnBlock, tmp_path / "own")
    with pytest.raises(UserError, match=r"MayEnd's phase '.*' may end after any block .* give the Phase a block"):
        fit(MayEnd, tmp_path)


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(UserError, match=r"test_author_checks defines a method IQL and so does lightning_pbrl\.methods\.iql"):
        type("IQL", (BC,), {"__module__": "test_author_checks"})
    assert Method.registry["IQL"] is IQL
    again = type("FrozenCopy", (BC,), {"__module__": __name__})  # a notebook cell that is run twice
    assert Method.registry["FrozenCopy"] is again


class Private(Teacher):
    """Keeps its settings where no record looks."""

    def __init__(self, eps: float, *, gap: float = 0.5, **more: int) -> None:
        self._eps, self._gap = eps, gap

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        never = torch.zeros(len(keys), dtype=torch.bool)
        return make_answer(torch.ones(len(keys)), never, never)


def test_settings_are_recorded_wherever_an_author_keeps_them() -> None:
    """Two teachers of other settings have other records; a class of another package says where it is from."""
    first, second = Private(0.1, patience=3).describe(), Private(0.2).describe()
    assert first == {"class": "Private", "module": __name__, "eps": 0.1, "gap": 0.5, "patience": 3}
    assert second == {"class": "Private", "module": __name__, "eps": 0.2, "gap": 0.5}
    assert copy.deepcopy(Private(0.3)).describe()["eps"] == 0.3
    assert UniformQuery().describe() == {"class": "UniformQuery"}  # ours: the name alone
    changed = Private(0.4)
    changed.gap = 0.9  # what it holds now is what it answers by
    assert changed.describe()["gap"] == 0.9
