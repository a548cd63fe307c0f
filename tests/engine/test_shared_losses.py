"""Groups that share a loss, and groups that are clipped by their common norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Group, Program, UpdateEngine


class Two(nn.Module):
    """loss(step 1) = 3 a + 4 b, loss(step 2) = 3 a."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.passes = 0

    def both(self, batch: Tensor) -> dict[str, Tensor]:
        loss = Watched.apply(3 * self.a.sum() + 4 * self.b.sum(), self)
        return {"a": loss, "b": loss}

    def first(self, batch: Tensor) -> dict[str, Tensor]:
        return {"a": 3 * self.a.sum()}

    def engine(self, steps: list[Any], **group: Any) -> UpdateEngine:
        settings = {"lr": 1.0, "optimizer": torch.optim.SGD, **group}
        parts = {"a": Group(**settings), "b": Group(**settings)}
        return UpdateEngine(self, parts, {"main": Program(steps, {})}, [0], compile=False)


class Watched(torch.autograd.Function):
    """The identity; counts passes backward."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, owner: Two) -> Tensor:
        ctx.owner = owner
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.owner.passes += 1
        return grad, None


def test_a_shared_loss_is_differentiated_once() -> None:
    two = Two()
    two.engine([two.both]).run("main", 1)
    assert (two.a.item(), two.b.item(), two.passes) == (-3, -4, 1)


def test_common_norm_by_hand() -> None:
    # |(3, 4)| = 5, clipped to 0.25: (0.15, 0.2). Each alone would be clipped to 0.25.
    two = Two()
    two.engine([two.both], clip=0.25, clip_jointly=True).run("main", 1)
    assert (two.a.item(), two.b.item()) == pytest.approx((-0.15, -0.2))
    apart = Two()
    apart.engine([apart.both], clip=0.25).run("main", 1)
    assert (apart.a.item(), apart.b.item()) == (-0.25, -0.25)
    short = Two()
    short.engine([short.both], clip=6.0, clip_jointly=True).run("main", 1)
    assert (short.a.item(), short.b.item()) == (-3, -4)


def test_a_step_clips_what_it_moves() -> None:
    two = Two()
    two.engine([two.first], clip=0.25, clip_jointly=True).run("main", 2)
    assert (two.a.item(), two.b.item()) == (-0.5, 0)
