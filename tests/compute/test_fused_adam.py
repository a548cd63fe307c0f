"""A step without bookkeeping has the numbers of the optimiser's own, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lightning_pbrl.compute import fused_adam

ADAMS = [
    (cls, options) for cls in (torch.optim.Adam, torch.optim.AdamW) for options in ({}, {"amsgrad": True}, {"maximize": True})
]


class Own(torch.optim.Adam):
    """An Adam whose step is another one."""

    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            p.data.fill_(7.0)


def made(optimizer: type[torch.optim.Optimizer], **options: Any) -> torch.optim.Optimizer:
    torch.manual_seed(0)
    return optimizer([nn.Parameter(torch.randn(1, n)) for n in (40, 17)], lr=0.01, **options)


def give_gradients(optimizer: torch.optim.Optimizer, step: int) -> None:
    """The second vector has no gradient in odd steps."""
    torch.manual_seed(step)
    for number, p in enumerate(optimizer.param_groups[0]["params"]):
        p.grad = torch.randn_like(p) if number == 0 or step % 2 == 0 else None


@pytest.mark.parametrize(("optimizer", "options"), [*ADAMS, (torch.optim.RMSprop, {}), (torch.optim.SGD, {"momentum": 0.9})])
def test_equals_the_optimizers_own_step(optimizer: type[torch.optim.Optimizer], options: dict[str, Any]) -> None:
    fused = {"fused": True, "weight_decay": 0.1} if issubclass(optimizer, torch.optim.Adam) else {}
    ours, theirs = made(optimizer, **options, **fused), made(optimizer, **options, **fused)
    for number in range(6):
        for each in (ours, theirs):
            each.param_groups[0]["lr"] = 0.01 / (1 + number)  # a schedule
            give_gradients(each, number)
        fused_adam.step(ours)
        theirs.step()
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], rtol=0, atol=0)


def test_the_kernel_is_called_at_once_from_the_second_step_on() -> None:
    optimizer, own = made(torch.optim.Adam, fused=True), []
    optimizer.register_step_pre_hook(lambda *_: own.append(True))
    for _ in range(3):
        give_gradients(optimizer, 0)
        fused_adam.step(optimizer)
    assert len(own) == 1 and all(state["step"] == 3 for state in optimizer.state.values())


def test_a_step_of_ones_own_is_made() -> None:
    optimizer = made(Own, fused=True)
    optimizer.state.update(copy.copy(made(torch.optim.Adam).state))
    for _ in range(2):
        give_gradients(optimizer, 0)
        fused_adam.step(optimizer)
    assert all((p == 7.0).all() for p in optimizer.param_groups[0]["params"])
