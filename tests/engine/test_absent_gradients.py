"""Parameters that a loss does not reach: torch's optimisers leave them alone, and so does the engine."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Group, Program, UpdateEngine
from lightning_pbrl.rng import stream

DATA = torch.randn(64, 3, generator=torch.Generator().manual_seed(3))
OPTIMIZERS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.AdamW, {"weight_decay": 0.1}),
    (torch.optim.Adam, {"weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
]


class Heads(nn.Module):
    """A trunk with two heads in one group; in every third update the loss reaches the second head, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)])

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = torch.tanh(self.net[0](batch["x"]))
        loss = (self.net[1](hidden) - 1.0).square().mean()
        if "both" in batch:
            loss = loss + (self.net[2](hidden) + 2.0).square().mean()
        return {"net": loss}

    def program(self, optimizer: type[torch.optim.Optimizer], options: dict[str, Any]) -> Program:
        def sample(updates: int, rng: torch.Generator) -> list[tuple[Tensor, Tensor]]:
            rows = torch.randint(64, (updates, 8), generator=rng)
            return [(ids, torch.tensor(0)) for ids in rows]

        def gather(ids: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            self.seen += 1
            return {"x": DATA[ids[0]], **({"both": ids[1]} if self.seen % 3 == 0 else {})}

        self.seen = 0
        return Program({"net": Group(0.05, optimizer, options)}, [self.losses], sample, gather)


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_equals_torch_s_own_loop(optimizer: type[torch.optim.Optimizer], options: dict[str, Any]) -> None:
    """Ten updates beside ``loss.backward(); optimizer.step()``: weights, moments and step counts of every parameter."""
    ours, plain = Heads(), Heads()
    program = ours.program(optimizer, options)
    engine = UpdateEngine(ours, program, [stream(0, "x")], compile=False)
    engine.run(10)
    make: Any = optimizer
    other = make(plain.parameters(), lr=0.05, **options)
    for number, (ids, _) in enumerate(program.sample(10, stream(0, "x"))):
        batch = {"x": DATA[ids], **({"both": ids} if number % 3 == 2 else {})}
        other.zero_grad()
        plain.losses(batch)["net"].backward()
        other.step()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    if optimizer is not torch.optim.SGD:
        first, second = engine.state_dict()["flat"]["moments"][0]["net"]
        assert (int(first["step"]), int(second["step"])) == (10, 3)
        torch.testing.assert_close(second["exp_avg"]["net.2.weight"], other.state[plain.net[2].weight]["exp_avg"])


def test_a_head_that_is_never_reached_never_moves() -> None:
    """Weight decay inside Adam would move it by the whole learning rate in every update."""
    learner = Heads()
    program = learner.program(torch.optim.Adam, {"weight_decay": 1e-3})
    before = copy.deepcopy(learner.net[2])
    UpdateEngine(learner, program, [stream(0, "x")], compile=False).run(2)
    assert torch.equal(learner.net[2].weight, before.weight) and torch.equal(learner.net[2].bias, before.bias)


def test_stop_and_resume_is_bit_exact() -> None:
    straight, first = Heads(), Heads()
    engine = UpdateEngine(straight, straight.program(*OPTIMIZERS[0]), [stream(0, "x")], compile=False)
    engine.run(6)
    state = engine.state_dict()
    engine.run(6)
    other = UpdateEngine(first, first.program(*OPTIMIZERS[0]), [stream(5, "y")], compile=False)
    other.load_state_dict(state)
    other.run(6)
    for mine, theirs in zip(straight.parameters(), first.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("layout", ["loop", "batched"])
def test_replicas_leave_it_alone_too(layout: Any) -> None:
    """Ids of several parts, as a program may have, in both layouts: each replica equals its seed alone, to rounding."""
    many = Heads()
    engine = UpdateEngine(many, many.program(*OPTIMIZERS[0]), [stream(k, "x") for k in (0, 1)], False, layout)
    assert engine.batched == (layout == "batched")
    untouched = many.net[2].weight.detach().clone()
    engine.run(1)  # replicas gather in turn: neither has reached the second head yet
    for k in (0, 1):
        alone = Heads()
        UpdateEngine(alone, alone.program(*OPTIMIZERS[0]), [stream(k, "x")], compile=False).run(1)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(engine.state.weights(k)[name], value, rtol=0, atol=1e-6)
        assert torch.equal(engine.state.weights(k)["net.2.weight"], untouched)
