"""One update of the engine, by hand: schedules, clipping, targets, order of steps, whose gradient moves what."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Follows, Group, Part, Program, UpdateEngine
from lightning_pbrl.engine.program import cosine


class Scalars(nn.Module):
    """Weights whose losses are written out in the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([10.0]))
        self.a_target = nn.Parameter(torch.tensor([0.0, 0.0]), requires_grad=False)


def scalar_engine(
    owner: Scalars, steps: list[Callable[[Any], dict[str, Tensor]]], parts: Mapping[str, Part], **rest: Any
) -> UpdateEngine:
    return UpdateEngine(owner, parts, {"main": Program(steps, {})}, [0], compile=False, **rest)


def test_cosine_schedule_by_hand() -> None:
    half = cosine(100)
    assert [half(0), half(50), half(100), half(150)] == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-15)
    assert half(25) == pytest.approx(0.5 + 0.25 * math.sqrt(2))


def test_schedule_and_target_by_hand() -> None:
    """SGD on sum(a): gradient 1; lr 1 then 1/2 (cosine of 2); target moves by a quarter of the way after each."""
    owner = Scalars()
    sgd = Group(1.0, optimizer=torch.optim.SGD, schedule=cosine(2))
    engine = scalar_engine(owner, [lambda _: {"a": owner.a.sum()}], {"a": sgd, "a_target": Follows("a", 0.25)})
    engine.run("main", 1)
    assert owner.a.tolist() == [0.0, 1.0] and owner.a_target.tolist() == [0.0, 0.25]
    engine.run("main", 1)
    assert owner.a.tolist() == [-0.5, 0.5] and owner.a_target.tolist() == [-0.125, 0.3125]
    engine.run("main", 1)
    assert owner.a.tolist() == [-0.5, 0.5]  # the schedule has ended at 0


def test_clipping_by_hand() -> None:
    """Gradient (3, 4) has norm 5: clipped to norm 1 it is (.6, .8); under a clip of 10 it stays."""
    for clip, expected in ((1.0, [1 - 0.6, 2 - 0.8]), (10.0, [-2.0, -2.0]), (None, [-2.0, -2.0])):
        owner = Scalars()
        group = Group(1.0, optimizer=torch.optim.SGD, clip=clip)
        scalar_engine(owner, [lambda _, a=owner.a: {"a": (a * torch.tensor([3.0, 4.0])).sum()}], {"a": group}).run("main", 1)
        assert owner.a.tolist() == pytest.approx(expected, abs=1e-6)


def test_clipping_a_zero_gradient_stays_finite() -> None:
    owner = Scalars()
    scalar_engine(owner, [lambda _: {"a": (owner.a * 0).sum()}], {"a": Group(1.0, clip=1.0)}).run("main", 1)
    assert owner.a.tolist() == [1.0, 2.0]


def test_a_later_step_sees_the_moved_parameters() -> None:
    """Step 1 moves a from (1, 2) to (0, 1); step 2's loss b * sum(a) then has gradient 1, in one step it would be 3."""
    sgd = Group(1.0, optimizer=torch.optim.SGD)

    def first(batch: Any) -> dict[str, Tensor]:
        return {"a": owner.a.sum()}

    def second(batch: Any) -> dict[str, Tensor]:
        return {"b": (owner.b * owner.a.detach().sum()).sum()}

    owner = Scalars()
    scalar_engine(owner, [first, second], {"a": sgd, "b": sgd}).run("main", 1)
    assert owner.a.tolist() == [0.0, 1.0] and owner.b.tolist() == [9.0]
    owner = Scalars()
    scalar_engine(owner, [lambda batch: {**second(batch), **first(batch)}], {"a": sgd, "b": sgd}).run("main", 1)
    assert owner.a.tolist() == [0.0, 1.0] and owner.b.tolist() == [7.0]


def test_one_groups_loss_leaves_another_group_alone() -> None:
    """SAC's actor loss flows through Q: a plays Q, b the actor; a's gradient is that of its own loss, 1, only."""
    owner, sgd = Scalars(), Group(1.0, optimizer=torch.optim.SGD)

    def losses(batch: Any) -> dict[str, Tensor]:
        return {"a": owner.a.sum(), "b": -(owner.a.sum() * owner.b).sum()}

    scalar_engine(owner, [losses], {"a": sgd, "b": sgd}).run("main", 1)
    assert owner.a.tolist() == [0.0, 1.0]  # not + 10
    assert owner.b.tolist() == [13.0]  # gradient of b: -(1 + 2)


def test_a_group_of_several_modules() -> None:
    owner = Scalars()
    group = Group(1.0, optimizer=torch.optim.SGD, modules=("a", "b"))
    scalar_engine(owner, [lambda _: {"both": owner.a.sum() + 2 * owner.b.sum()}], {"both": group}).run("main", 1)
    assert owner.a.tolist() == [0.0, 1.0] and owner.b.tolist() == [8.0]


def test_target_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target 'a_target' and its source 'b' differ in shape"):
        scalar_engine(Scalars(), [], {"b": Group(1.0), "a_target": Follows("b", 0.1)})


def test_reduce_is_called_once_per_step_with_all_gradients() -> None:
    """Its result is what the optimisers get: doubling gradients doubles SGD's step."""
    seen: list[list[float]] = []

    def reduce(flat: Tensor) -> None:
        seen.append(flat.tolist())
        flat.mul_(2)

    owner, sgd = Scalars(), Group(1.0, optimizer=torch.optim.SGD)
    steps = [lambda _: {"a": owner.a.sum(), "b": 3 * owner.b.sum()}, lambda _: {"b": owner.b.sum()}]
    scalar_engine(owner, steps, {"a": sgd, "b": sgd}, reduce=reduce).run("main", 2)
    assert seen == [[1.0, 1.0, 3.0], [1.0]] * 2
    assert owner.a.tolist() == [-3.0, -2.0] and owner.b.tolist() == [10.0 - 2 * (6 + 2)]


def test_meters_are_block_means() -> None:
    owner, sgd = Scalars(), Group(1.0, optimizer=torch.optim.SGD)
    engine = scalar_engine(owner, [lambda _: {"a": owner.a.sum(), "first": owner.a[0].detach()}], {"a": sgd})
    meters = engine.run("main", 3)  # a_0 = 1, 0, -1; sums 3, 1, -1
    assert meters["a"].tolist() == [1.0] and meters["first"].tolist() == [0.0]
    assert engine.updates == {"main": 3}


def test_an_error_of_the_method_itself_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    owner = Scalars()

    def wrong(batch: Any) -> dict[str, Tensor]:
        raise IndexError("the author's mistake")

    engine = UpdateEngine(owner, {"a": Group(1.0)}, {"main": Program([wrong], {})}, [0], compile=True)
    with pytest.warns(UserWarning, match="running eagerly"), pytest.raises(IndexError, match="the author's mistake"):
        engine.run("main", 1)
