"""One update of the engine, by hand: schedules, clipping, targets, order of steps, whose gradient moves what."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Group, Program, UpdateEngine
from lightning_pbrl.engine.program import cosine
from lightning_pbrl.rng import stream


class Scalars(nn.Module):
    """Weights whose losses are written out in the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([10.0]))
        self.a_target = nn.Parameter(torch.tensor([0.0, 0.0]), requires_grad=False)


def scalar_engine(
    owner: Scalars, steps: list[Callable[[Tensor], dict[str, Tensor]]], groups: dict[str, Group], **rest: Any
) -> UpdateEngine:
    program = Program(groups, steps, lambda n, rng: torch.zeros(n, 1, dtype=torch.int64).unbind(0), lambda ids: ids, **rest)
    return UpdateEngine(owner, program, [stream(0, "x")], compile=False)


def test_cosine_schedule_by_hand() -> None:
    half = cosine(100)
    assert [half(0), half(50), half(100), half(150)] == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-15)
    assert half(25) == pytest.approx(0.5 + 0.25 * math.sqrt(2))


def test_schedule_and_target_by_hand() -> None:
    """SGD on sum(a): gradient 1; lr 1 then 1/2 (cosine of 2); target moves by a quarter of the way after each."""
    owner = Scalars()
    sgd = Group(1.0, optimizer=torch.optim.SGD, schedule=cosine(2))
    engine = scalar_engine(owner, [lambda _: {"a": owner.a.sum()}], {"a": sgd}, targets={"a_target": ("a", 0.25)})
    engine.run(1)
    assert owner.a.tolist() == [0.0, 1.0] and owner.a_target.tolist() == [0.0, 0.25]
    engine.run(1)
    assert owner.a.tolist() == [-0.5, 0.5] and owner.a_target.tolist() == [-0.125, 0.3125]
    engine.run(1)
    assert owner.a.tolist() == [-0.5, 0.5]  # the schedule has ended at 0


def test_clipping_by_hand() -> None:
    """Gradient (3, 4) has norm 5: clipped to norm 1 it is (.6, .8); under a clip of 10 it stays."""
    for clip, expected in ((1.0, [1 - 0.6, 2 - 0.8]), (10.0, [-2.0, -2.0]), (None, [-2.0, -2.0])):
        owner = Scalars()
        group = Group(1.0, optimizer=torch.optim.SGD, clip=clip)
        scalar_engine(owner, [lambda _, a=owner.a: {"a": (a * torch.tensor([3.0, 4.0])).sum()}], {"a": group}).run(1)
        assert owner.a.tolist() == pytest.approx(expected, abs=1e-6)


def test_clipping_a_zero_gradient_stays_finite() -> None:
    owner = Scalars()
    scalar_engine(owner, [lambda _: {"a": (owner.a * 0).sum()}], {"a": Group(1.0, clip=1.0)}).run(1)
    assert owner.a.tolist() == [1.0, 2.0]


def test_a_later_step_sees_the_moved_parameters() -> None:
    """Step 1 moves a from (1, 2) to (0, 1); step 2's loss b * sum(a) then has gradient 1, in one step it would be 3."""
    sgd = Group(1.0, optimizer=torch.optim.SGD)

    def first(batch: Tensor) -> dict[str, Tensor]:
        return {"a": owner.a.sum()}

    def second(batch: Tensor) -> dict[str, Tensor]:
        return {"b": (owner.b * owner.a.detach().sum()).sum()}

    owner = Scalars()
    scalar_engine(owner, [first, second], {"a": sgd, "b": sgd}).run(1)
    assert owner.a.tolist() == [0.0, 1.0] and owner.b.tolist() == [9.0]
    owner = Scalars()
    scalar_engine(owner, [lambda batch: {**second(batch), **first(batch)}], {"a": sgd, "b": sgd}).run(1)
    assert owner.a.tolist() == [0.0, 1.0] and owner.b.tolist() == [7.0]


def test_one_groups_loss_leaves_another_group_alone() -> None:
    """SAC's actor loss flows through Q: a plays Q, b the actor; a's gradient is that of its own loss, 1, only."""
    owner, sgd = Scalars(), Group(1.0, optimizer=torch.optim.SGD)

    def losses(batch: Tensor) -> dict[str, Tensor]:
        return {"a": owner.a.sum(), "b": -(owner.a.sum() * owner.b).sum()}

    scalar_engine(owner, [losses], {"a": sgd, "b": sgd}).run(1)
    assert owner.a.tolist() == [0.0, 1.0]  # not + 10
    assert owner.b.tolist() == [13.0]  # gradient of b: -(1 + 2)


def test_a_group_of_several_modules() -> None:
    owner = Scalars()
    group = Group(1.0, optimizer=torch.optim.SGD, modules=("a", "b"))
    scalar_engine(owner, [lambda _: {"both": owner.a.sum() + 2 * owner.b.sum()}], {"both": group}).run(1)
    assert owner.a.tolist() == [0.0, 1.0] and owner.b.tolist() == [8.0]


def test_target_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target 'a_target' and its source 'b' differ in shape"):
        scalar_engine(Scalars(), [], {"b": Group(1.0)}, targets={"a_target": ("b", 0.1)})


def test_reduce_is_called_once_per_step_with_all_gradients() -> None:
    """Its result is what the optimisers get: doubling gradients doubles SGD's step."""
    seen: list[list[float]] = []

    def reduce(flat: Tensor) -> None:
        seen.append(flat.tolist())
        flat.mul_(2)

    owner, sgd = Scalars(), Group(1.0, optimizer=torch.optim.SGD)
    program = Program(
        {"a": sgd, "b": sgd},
        [lambda _: {"a": owner.a.sum(), "b": 3 * owner.b.sum()}, lambda _: {"b": owner.b.sum()}],
        lambda n, rng: torch.zeros(n, 1, dtype=torch.int64).unbind(0),
        lambda ids: ids,
    )
    UpdateEngine(owner, program, [stream(0, "x")], compile=False, reduce=reduce).run(2)
    assert seen == [[1.0, 1.0, 3.0], [1.0]] * 2
    assert owner.a.tolist() == [-3.0, -2.0] and owner.b.tolist() == [10.0 - 2 * (6 + 2)]


def test_meters_are_block_means() -> None:
    owner, sgd = Scalars(), Group(1.0, optimizer=torch.optim.SGD)
    engine = scalar_engine(owner, [lambda _: {"a": owner.a.sum(), "first": owner.a[0].detach()}], {"a": sgd})
    meters = engine.run(3)  # a_0 = 1, 0, -1; sums 3, 1, -1
    assert meters["a"].tolist() == [1.0] and meters["first"].tolist() == [0.0]
    assert engine.updates == 3


def test_an_error_of_the_method_itself_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    owner = Scalars()

    def wrong(batch: Tensor) -> dict[str, Tensor]:
        raise IndexError("the author's mistake")

    program = Program({"a": Group(1.0)}, [wrong], lambda n, rng: torch.zeros(n, 1).unbind(0), lambda ids: ids)
    engine = UpdateEngine(owner, program, [stream(0, "x")], compile=True)
    with pytest.warns(UserWarning, match="running eagerly"), pytest.raises(IndexError, match="the author's mistake"):
        engine.run(1)
