"""Parameters that a loss does not reach: torch's optimisers leave them alone, and so does the engine."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Below, Group, Program, Uniform, UpdateEngine

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

    def engine(
        self, optimizer: type[torch.optim.Optimizer], options: dict[str, Any], seeds: Sequence[int] = (0,), layout: Any = "loop"
    ) -> UpdateEngine:
        def gather(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
            self.seen += 1
            return {"x": DATA[drawn["rows"]], **({"both": drawn["both"]} if self.seen % 3 == 0 else {})}

        self.seen = 0
        program = Program([self.losses], {"rows": Below(64, 8), "both": Uniform()}, gather)
        return UpdateEngine(self, {"net": Group(0.05, optimizer, options)}, {"main": program}, seeds, False, layout)


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_equals_torch_s_own_loop(optimizer: type[torch.optim.Optimizer], options: dict[str, Any]) -> None:
    """Ten updates beside ``loss.backward(); optimizer.step()``: weights, moments and step counts of every parameter."""
    ours, plain = Heads(), Heads()
    engine = ours.engine(optimizer, options)
    engine.run("main", 10)
    make: Any = optimizer
    other = make(plain.parameters(), lr=0.05, **options)
    for number, drawn in enumerate(ours.engine(optimizer, options).drawn("main", 10, 0)):
        batch = {"x": DATA[drawn["rows"]], **({"both": drawn["both"]} if number % 3 == 2 else {})}
        other.zero_grad()
        plain.losses(batch)["net"].backward()
        other.step()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    if optimizer is not torch.optim.SGD:
        first, second = engine.state_dict()["state"]["moments"][0]["net"]
        assert (int(first["step"]), int(second["step"])) == (10, 3)
        torch.testing.assert_close(second["exp_avg"]["net.2.weight"], other.state[plain.net[2].weight]["exp_avg"])


def test_a_head_that_is_never_reached_never_moves() -> None:
    """Weight decay inside Adam would move it by the whole learning rate in every update."""
    learner = Heads()
    before = copy.deepcopy(learner.net[2])
    learner.engine(torch.optim.Adam, {"weight_decay": 1e-3}).run("main", 2)
    assert torch.equal(learner.net[2].weight, before.weight) and torch.equal(learner.net[2].bias, before.bias)


def test_stop_and_resume_is_bit_exact() -> None:
    straight, first = Heads(), Heads()
    engine = straight.engine(*OPTIMIZERS[0])
    engine.run("main", 6)
    state = engine.state_dict()
    engine.begin([8])
    engine.run("main", 6)
    other = first.engine(*OPTIMIZERS[0], seeds=[5])
    other.load_state_dict(state)
    other.begin([8])
    other.run("main", 6)
    for mine, theirs in zip(straight.parameters(), first.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("layout", ["loop", "batched"])
def test_replicas_leave_it_alone_too(layout: Any) -> None:
    """Two draws, in both layouts: each replica equals its seed alone, to rounding."""
    many = Heads()
    engine = many.engine(*OPTIMIZERS[0], seeds=(0, 1), layout=layout)
    assert engine.batched == (layout == "batched")
    untouched = many.net[2].weight.detach().clone()
    engine.run("main", 1)  # replicas gather in turn or at once: neither has reached the second head yet
    for k in (0, 1):
        alone = Heads()
        alone.engine(*OPTIMIZERS[0], seeds=[k]).run("main", 1)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(engine.state.weights(k)[name], value, rtol=0, atol=1e-6)
        assert torch.equal(engine.state.weights(k)["net.2.weight"], untouched)
