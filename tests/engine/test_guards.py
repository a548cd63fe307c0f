"""Guards of a compiled function are evaluated once a block, and notice what must be noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Draw, Group, Program, UpdateEngine
from lightning_pbrl.engine.draws import Place


class Sizes(Draw):
    """Batches of 2, 2, 3, 2 ... rows of ones: every third has another size."""

    def __call__(self, u: Tensor, place: Place) -> list[Tensor]:
        return [torch.ones(3 if (place.first + k) % 3 == 2 else 2) for k in range(len(u))]


class Slope(nn.Module):
    """Loss: w times factor times the number of rows, so that SGD with lr 1 lowers w by factor times rows."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"w": self.w * self.factor * batch["rows"].sum()}

    def engine(self) -> UpdateEngine:
        parts = {"w": Group(1.0, optimizer=torch.optim.SGD)}
        return UpdateEngine(self, parts, {"main": Program([self.losses], {"rows": Sizes()})}, [0], compile=True)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile by Dynamo alone: the guards are its."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, backend="eager", **options))
    torch._dynamo.reset()


def test_another_size_within_a_block_is_noticed(compiled: None) -> None:
    slope = Slope()
    engine = slope.engine()
    engine.run("main", 7)
    assert engine.compile and slope.w.item() == -(2 + 2 + 3 + 2 + 2 + 3 + 2)


def test_a_setting_that_changes_between_blocks_is_noticed(compiled: None) -> None:
    slope = Slope()
    engine = slope.engine()
    engine.run("main", 2)
    slope.factor = 10.0
    engine.run("main", 3)
    assert engine.compile and slope.w.item() == -(2 + 2 + 10 * (3 + 2 + 2))


def test_a_setting_that_acting_changes_is_noticed_with_the_next_block(compiled: None) -> None:
    slope = Slope()
    engine = slope.engine()
    engine.run("main", 2, before=lambda number: setattr(slope, "factor", 10.0**number))
    assert engine.compile and slope.w.item() == -(2 + 2)
    engine.run("main", 2)
    assert engine.compile and slope.w.item() == -(2 + 2 + 30 + 20)


def test_two_learners_side_by_side_keep_their_settings(compiled: None) -> None:
    first, second = Slope(), Slope()
    second.factor = 10.0
    engines = [first.engine(), second.engine()]
    for _ in range(2):
        for engine in engines:
            engine.run("main", 3)
    assert (first.w.item(), second.w.item()) == (-14.0, -140.0)


@pytest.mark.parametrize("direct", [True, False])
def test_guards_are_evaluated_once_a_block_and_size(compiled: None, monkeypatch: pytest.MonkeyPatch, direct: bool) -> None:
    """Other updates call what was found then: by itself, or by Dynamo, which does not evaluate them."""
    real, calls = torch.compile, []

    def watching(function: Callable[..., Any], **options: object) -> Callable[..., Any]:
        fast = real(function, **options)

        def call(rows: Any, handed: Any) -> Any:
            calls.append((len(rows["rows"]), torch._dynamo.eval_frame._stance.skip_guard_eval_unsafe))
            return fast(rows, handed)

        return call

    monkeypatch.setattr(torch, "compile", watching)
    slope = Slope()
    engine = slope.engine()
    engine._compiler.direct = direct
    engine.run("main", 6)  # of 2, 2, 3, 2, 2, 3 rows
    engine.run("main", 2)
    assert slope.w.item() == -(2 + 2 + 3 + 2 + 2 + 3 + 2 + 2)
    guarded = [rows for rows, skipped in calls if not skipped]
    assert guarded == [2, 3, 2] and len(calls) == (3 if direct else 8)
    assert not torch._dynamo.eval_frame._stance.skip_guard_eval_unsafe


def test_what_is_called_by_itself_reads_the_replica_that_is_bound(compiled: None) -> None:
    """Two replicas run the same code in turns; its weights are those of the moment."""
    slope = Slope()
    parts = {"w": Group(1.0, optimizer=torch.optim.SGD)}
    program = Program([lambda batch: {"w": (slope.w + 1).square() * batch["rows"].sum()}], {"rows": Sizes()})
    engine = UpdateEngine(slope, parts, {"main": program}, [0, 1], compile=True, layout="loop")
    engine.state.set_weights(1, {"w": torch.tensor(-1.0)})  # already at the minimum
    engine.run("main", 2)
    assert [float(engine.state.weights(k)["w"]) for k in (0, 1)] == [-4.0 + 12.0, -1.0]
