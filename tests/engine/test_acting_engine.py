"""What learners that act ask of the engine: calls before updates, late gathering, slow targets, fresh starts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Draw, Follows, Group, Normal, Program, UpdateEngine
from lightning_pbrl.engine.draws import Place


class Noted(Draw):
    """The middles of K equal parts of [0, 1], and the number of each; notes when it is asked."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def __call__(self, u: Tensor, place: Place) -> list[tuple[float, str]]:
        self.events.append(f"draw {len(u)}")
        return [((i + 0.5) / len(u), f"noise {i}") for i in range(len(u))]


class Point(nn.Module):
    """One weight w, loss w x, plain gradient descent with rate 1: every update takes x off the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.w.weight, 0.0)
        self.target = copy.deepcopy(self.w).requires_grad_(False)
        self.events: list[str] = []
        self.data = [1.0]

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        return {"w": self.w.weight.sum() * x}

    def again(self, x: Tensor) -> dict[str, Tensor]:
        return {"second": self.w.weight.detach().sum() * x}

    def gather(self, drawn: dict[str, tuple[float, str]]) -> Tensor:
        u, noise = drawn["place"]
        self.events.append(f"gather {noise} of {len(self.data)}")
        return torch.tensor(self.data[int(u * len(self.data))])

    def engine(self, **changes: Any) -> UpdateEngine:
        parts = {"w": Group(1.0, torch.optim.SGD, {"fused": False}), "target": Follows("w", 0.5)}
        program = Program([self.loss, self.again], {"place": Noted(self.events)}, self.gather, **changes)
        return UpdateEngine(self, parts, {"policy": program}, [0], False)


def test_acting_comes_between_drawing_and_gathering() -> None:
    point = Point()
    engine = point.engine()

    def act(i: int) -> None:
        point.events.append(f"act {i}")
        point.data.append(10.0 ** (i + 1))

    engine.run("policy", 2, before=act)
    # u = .25 of two rows is row 0 (x = 1), u = .75 of three rows is row 2 (x = 100); each is gathered once for two loss steps
    assert point.events == ["draw 2", "act 0", "gather noise 0 of 2", "act 1", "gather noise 1 of 3"]
    assert point.w.weight.item() == -101.0


def test_blocks_count_their_own_updates() -> None:
    seen: list[int] = []
    engine = Point().engine()
    engine.run("policy", 2, before=seen.append)
    engine.run("policy", 3, before=seen.append)
    assert seen == [0, 1, 0, 1, 2] and engine.updates == {"policy": 5}


@pytest.mark.parametrize("every", [1, 2, 3])
def test_targets_follow_in_updates_0_k_2k(every: int) -> None:
    """After update i the weight is -(i + 1); the target goes half way there in the updates 0, k, 2 k ..."""
    point = Point()
    engine = point.engine(follow_every=every)
    target, expected, found = 0.0, [], []
    for update in range(7):
        if update % every == 0:
            target += 0.5 * (-(update + 1) - target)
        expected.append(target)
    for block in (3, 2, 1, 1):  # the count goes on over blocks
        engine.run("policy", block)
        found.append(point.target.weight.item())
    assert found == pytest.approx([expected[2], expected[4], expected[5], expected[6]])


class Pair(nn.Module):
    """Two groups under Adam, one of them with a target and inside a submodule."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.ModuleDict({"q": nn.Linear(3, 1)})
        self.pi = nn.Linear(3, 1)
        self.q_target = copy.deepcopy(self.inner["q"]).requires_grad_(False)

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        return {"q": (self.inner["q"](x) - 1.0).square().mean(), "pi": (self.pi(x) - 2.0).square().mean()}

    def engine(self) -> UpdateEngine:
        parts = {"q": Group(1e-2, modules=("inner.q",)), "pi": Group(1e-2), "q_target": Follows("q", 0.1)}
        program = Program([self.losses], {"x": Normal(8, 3)}, lambda drawn: drawn["x"])
        return UpdateEngine(self, parts, {"policy": program}, [0], False)


def test_reset_gives_new_weights_a_fresh_optimiser_and_an_equal_target() -> None:
    pair = Pair()
    engine = pair.engine()
    engine.run("policy", 5)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    moments = engine.state_dict()["state"]["moments"][0]
    new = {"inner.q.weight": torch.tensor([[1.0, 2.0, 3.0]]), "inner.q.bias": torch.tensor([4.0])}
    engine.state.reset("q", new)
    assert pair.inner["q"].weight.tolist() == pair.q_target.weight.tolist() == [[1.0, 2.0, 3.0]]
    assert pair.inner["q"].bias.item() == pair.q_target.bias.item() == 4.0
    assert engine.state.attached() and engine.updates == {"policy": 5}
    after = engine.state_dict()["state"]["moments"][0]
    assert after["q"] == {}
    assert torch.equal(after["pi"]["exp_avg"]["pi.weight"], moments["pi"]["exp_avg"]["pi.weight"])
    assert torch.equal(pair.pi.weight, before["pi.weight"])

    engine.run("policy", 1)  # Adam's first step is lr in every direction, whatever the gradient
    moved = pair.inner["q"].weight - new["inner.q.weight"]
    torch.testing.assert_close(moved.abs(), torch.full((1, 3), 1e-2), rtol=1e-4, atol=0)
    expected = new["inner.q.weight"] + 0.1 * moved
    torch.testing.assert_close(pair.q_target.weight, expected, rtol=0, atol=1e-6)


def test_reset_without_values_keeps_the_weights() -> None:
    pair = Pair()
    engine = pair.engine()
    engine.run("policy", 3)
    before = pair.inner["q"].weight.clone()
    engine.state.reset("q")
    assert torch.equal(pair.inner["q"].weight, before) and torch.equal(pair.q_target.weight, before)
    assert engine.state_dict()["state"]["moments"][0]["q"] == {}


def test_reset_after_the_modules_were_rebound() -> None:
    """A dtype round trip breaks the views; a reset must not leave gradients of parameters that are gone."""
    pair = Pair()
    engine = pair.engine()
    engine.run("policy", 1)
    pair.double().float()
    engine.state.reset("q", {"inner.q.weight": torch.zeros(1, 3), "inner.q.bias": torch.zeros(1)})
    pi = pair.pi.weight.clone()
    engine.run("policy", 1)
    assert pair.inner["q"].weight.abs().min() > 0.9e-2 and not torch.equal(pair.pi.weight, pi)
