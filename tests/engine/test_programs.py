"""Several programs of one method: what they share, what they may not move, what stands still, what steps hand on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Follows, Frozen, Group, Normal, Part, Program, UpdateEngine
from lightning_pbrl.engine.program import cosine
from lightning_pbrl.errors import UserError


class Regressions(nn.Module):
    """Two programs of one network: to 1 and to -2; a second network reads the first, and a third stands still."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.f, self.g, self.fixed = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1)

    def up(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"f": (self.f(batch["x"]) - 1.0).square().mean()}

    def down(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"f": (self.f(batch["x"]) + 2.0).square().mean()}

    def towards_fixed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        difference = self.f(batch["x"]) - self.fixed(batch["x"])  # a gradient reaches what stands still, too
        return {"f": difference.square().mean(), "g": (self.g(batch["x"]) - 3 * self.fixed(batch["x"])).square().mean()}

    def engine(self, programs: dict[str, Any], seeds: Sequence[int] = (0,), layout: Any = "loop", **group: Any) -> UpdateEngine:
        parts: dict[str, Part] = {"f": Group(0.05, **group), "g": Group(0.05), "fixed": Frozen()}
        made = {
            name: each if isinstance(each, Program) else Program([each], {"x": Normal(8, 3)}, moves=("f",))
            for name, each in programs.items()
        }
        return UpdateEngine(self, parts, made, seeds, compile=False, layout=layout)


def test_programs_that_share_a_group_share_its_moments() -> None:
    """Two, three and one updates of either in turn, beside one Adam and one schedule of the textbook kind."""
    ours, plain = Regressions(), Regressions()
    engine = ours.engine({"up": ours.up, "down": ours.down}, schedule=cosine(20))
    other = torch.optim.Adam(plain.f.parameters(), lr=0.05)
    done = 0
    for phase, (name, updates) in enumerate((("up", 2), ("down", 3), ("up", 1), ("down", 2))):
        engine.begin([phase])
        batches = engine.drawn(name, updates, 0)
        engine.begin([phase])
        engine.run(name, updates)
        for batch in batches:
            other.param_groups[0]["lr"] = 0.05 * cosine(20)(done)
            other.zero_grad()
            getattr(plain, name)(batch)["f"].backward()
            other.step()
            done += 1
    assert engine.updates == {"up": 3, "down": 5} and engine.state.updates == {"f": 8, "g": 0}
    (moments,) = engine.state_dict()["state"]["moments"]
    assert int(moments["f"]["step"]) == 8 and moments["g"] == {}
    torch.testing.assert_close(moments["f"]["exp_avg"]["f.weight"], other.state[plain.f.weight]["exp_avg"], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.f.weight, plain.f.weight, rtol=0, atol=1e-6)
    assert torch.equal(ours.g.weight, plain.g.weight)


@pytest.mark.parametrize("layout", ["loop", "batched"])
@pytest.mark.parametrize("metric", [False, True])
def test_a_loss_of_a_group_that_a_program_does_not_move_is_refused(layout: str, metric: bool) -> None:
    """Also a metric without gradient that has the name of a group; the group has not moved."""

    def losses(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        other = nets.g(batch["x"]).square().mean()
        return {**nets.up(batch), "g": other.detach() if metric else other}

    nets = Regressions()
    before = nets.g.weight.clone()
    engine = nets.engine({"policy": losses}, (0, 1), layout)
    refused = r"Regressions's program 'policy' has a loss of 'g' and moves f alone: name it in moves, or rename a metric\."
    with pytest.raises(UserError, match=refused):
        engine.run("policy", 1)
    assert torch.equal(nets.g.weight, before)


@pytest.mark.parametrize("layout", ["loop", "batched"])
def test_what_stands_still_differs_between_replicas_and_never_moves(layout: str) -> None:
    """Each replica is its seed alone, which has its own network that stands still."""
    nets = Regressions()
    program = {"policy": Program([nets.towards_fixed], {"x": Normal(8, 3)})}
    engine = nets.engine(program, (0, 1, 2), layout)
    for k in range(3):
        engine.state.set_weights(k, Regressions(k).state_dict())
    engine.run("policy", 5)
    for k in range(3):
        alone = Regressions(k)
        alone.engine({"policy": Program([alone.towards_fixed], {"x": Normal(8, 3)})}, (k,)).run("policy", 5)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(engine.state.weights(k)[name], value, rtol=0, atol=1e-6)
        assert torch.equal(engine.state.weights(k)["fixed.weight"], Regressions(k).fixed.weight)
        assert (alone.f.weight - Regressions(k).f.weight).abs().max() > 0.05
    assert not torch.equal(engine.state.storage["fixed"][0], engine.state.storage["fixed"][1])
    assert set(engine.state_dict()["state"]["moments"][0]) == {"f", "g"}


# Handed on -----------------------------------------------------------------------------------------------------------------


class Hands(nn.Module):
    """Plain descent with rate 1: the first step moves a by -x, the second b by -(what a was before) and a by its own gradient."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.full((1,), start)), nn.Parameter(torch.zeros(1))

    def first(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert "before" not in batch  # of the update before
        return {"a": self.a.sum() * batch["x"].sum()}, {"before": 2.0 * self.a}

    def second(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"b": self.b.sum() * batch["before"].sum(), "a": batch["before"].sum() * self.a.sum()}

    def engine(self, seeds: Sequence[int] = (0,), layout: Any = "loop", compiled: bool = False) -> UpdateEngine:
        sgd = Group(1.0, torch.optim.SGD)
        programs = {"policy": Program([self.first, self.second], {"x": Normal(2)})}
        return UpdateEngine(self, {"a": sgd, "b": sgd}, programs, seeds, compiled, layout)


def by_hand(start: float, drawn: list[dict[str, Tensor]]) -> tuple[float, float]:
    a, b = start, 0.0
    for batch in drawn:
        before = 2.0 * a
        a -= float(batch["x"].sum())
        a, b = a - before, b - before  # no gradient flows through what was handed on
    return a, b


@pytest.mark.parametrize("layout", ["loop", "batched"])
def test_a_step_hands_tensors_to_later_steps_of_its_update(layout: str) -> None:
    check_handed_on(layout, compiled=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_hand_on_too() -> None:
    check_handed_on("loop", compiled=True)


def check_handed_on(layout: str, compiled: bool) -> None:
    """Three updates of three replicas, each with a start of its own, against the arithmetic."""
    hands = Hands()
    engine = hands.engine((0, 1, 2), layout, compiled)
    starts = (1.0, -2.0, 0.5)
    for k, start in enumerate(starts):
        engine.state.set_weights(k, Hands(start).state_dict())
    engine.run("policy", 3)
    for k, start in enumerate(starts):
        expected = by_hand(start, hands.engine((k,)).drawn("policy", 3, 0))
        found = engine.state.weights(k)
        assert (found["a"].item(), found["b"].item()) == pytest.approx(expected, abs=1e-5)
    assert engine.compile == compiled


# Intervals -----------------------------------------------------------------------------------------------------------------


class Delayed(nn.Module):
    """TD3's order: a is moved in every update, b in every second, the target of a in every third."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.a_target = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1).requires_grad_(False)

    def first(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"a": (self.a(batch["x"]) - 1.0 - self.a_target(batch["x"])).square().mean()}

    def second(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"b": (self.b(batch["x"]) - self.a(batch["x"])).square().mean(), "size": self.b.weight.square().sum()}

    def engine(self, seeds: Sequence[int], layout: Any, **changes: Any) -> UpdateEngine:
        parts = {"a": Group(0.05), "b": Group(0.05), "a_target": Follows("a", 0.25)}
        program = Program([self.first, self.second], {"x": Normal(3, 8)}, lambda drawn: {"x": drawn["x"].mT}, **changes)
        return UpdateEngine(self, parts, {"policy": program}, seeds, compile=False, layout=layout)


@pytest.mark.parametrize("layout", ["loop", "batched"])
@pytest.mark.parametrize("tile", [None, 3])
def test_intervals_and_tiles_of_replicas_are_a_plain_loop(layout: str, tile: int | None) -> None:
    """Seven updates in blocks of four and three; tiles of three, three and two of the eight rows, in both layouts."""
    ours = Delayed()
    engine = ours.engine((0, 1, 2), layout, every=(1, 2), follow_every=3, tile=tile)
    for k in range(3):
        engine.state.set_weights(k, Delayed(k).state_dict())
    meters = [engine.run("policy", updates) for updates in (4, 3)]
    for k in range(3):
        plain, sizes = Delayed(k), []
        adams = {name: torch.optim.Adam(getattr(plain, name).parameters(), lr=0.05) for name in ("a", "b")}
        for number, drawn in enumerate(Delayed().engine((k,), "loop").drawn("policy", 7, 0)):
            for name, step in (("a", plain.first), ("b", plain.second)):
                if name == "a" or number % 2 == 0:
                    losses = step({"x": drawn["x"].mT})
                    adams[name].zero_grad()
                    losses[name].backward()
                    sizes += [losses["size"].item()] if name == "b" else []
                    adams[name].step()
            # the last step of an update moves the targets, where it runs and the interval says so
            if number % 2 == 0 and number % 3 == 0:
                with torch.no_grad():
                    for source, target in zip(plain.a.parameters(), plain.a_target.parameters(), strict=True):
                        target += 0.25 * (source - target)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(engine.state.weights(k)[name], value, rtol=0, atol=1e-6)
        for found, expected in zip(meters, (sizes[:2], sizes[2:]), strict=True):
            assert found["size"][k].item() == pytest.approx(sum(expected) / 2, abs=1e-6)
