"""Scoring on several ranks: threads stand in for processes, each with a barrier between what it gives and what it gets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from synthetic import synthetic_transitions
from torch import Tensor

from lightning_pbrl import shared_scoring
from lightning_pbrl.asking import waiting
from lightning_pbrl.rewards.scoring import ReturnScorer
from lightning_pbrl.shared_scoring import Ranks, led, tiled


def together(count: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What each of ``count`` ranks returns."""
    barrier, held = threading.Barrier(count, timeout=30), [None] * count

    def ranks(rank: int) -> Ranks:
        def exchanged(mine: Any) -> list[Any]:
            held[rank] = mine
            barrier.wait()
            found = list(held)
            barrier.wait()
            return found

        return Ranks(
            rank,
            count,
            broadcast=lambda thing: exchanged(thing)[0],
            gather=lambda tensor: torch.stack(exchanged(tensor)),
            agree=lambda here: all(exchanged(here)),
        )

    with ThreadPoolExecutor(count) as pool:
        return [each.result() for each in [pool.submit(work, ranks(rank)) for rank in range(count)]]


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_tiles_are_shared_out(count: int, dim: int) -> None:
    """Every tile is passed by one rank, and the result is that of one process; also of an empty tile, and of fewer than ranks."""
    rows = torch.randn(23, generator=torch.Generator().manual_seed(0))

    class Model:
        def __init__(self) -> None:
            self.passed: list[Tensor] = []

        def returns(self, rows: Tensor) -> Tensor:
            def function(tile: Tensor) -> Tensor:
                self.passed.append(tile)
                return torch.stack([tile.sin(), tile.cos(), -tile], dim=1 - dim)

            return tiled(function, rows.split(5), dim)

    for size in (23, 20, 7, 5, 3, 0):
        one = Model().returns(rows[:size])

        def work(ranks: Ranks, size: int = size) -> tuple[Tensor, list[Tensor]]:
            session = SimpleNamespace(model=Model())
            own = session.model
            found = led(ranks, session, lambda: session.model.returns(rows[:size]))
            assert session.model is own
            return found, own.passed

        results = together(count, work)
        assert all(torch.equal(found, one) for found, _ in results)
        tiles = max(-(-size // 5), 1)
        assert max(len(passed) for _, passed in results) == -(-tiles // count)


def test_a_rank_that_has_kept_what_others_have_not() -> None:
    """Rank 0 scored alone before, so its sums are there and the others' are not: all score again, and none waits for ever."""
    data = synthetic_transitions(10, 30)
    query = data.pool(5).pairs(40, torch.Generator().manual_seed(1))

    def work(ranks: Ranks) -> tuple[Tensor, int]:
        rows: list[int] = []

        def reward(features: Tensor) -> Tensor:
            rows.append(len(features))
            return features.sin()[:, :3].T

        scorer = ReturnScorer(reward, data, lambda: 0, tile=64)
        if ranks.rank == 0:
            scorer.returns(query)
        rows.clear()
        session = SimpleNamespace(model=scorer)

        def lead() -> Tensor:
            first = session.model.returns(query)
            assert torch.equal(session.model.returns(query), first)  # kept on all ranks now
            assert torch.equal(session.model.observations(query), data.segments(query.start, 5)[..., :5])  # of one rank
            return first

        return led(ranks, session, lead), sum(rows)

    (one, mine), (two, other) = together(2, work)
    assert torch.equal(one, two) and (mine, other) == (192, 108)
    expected = ReturnScorer(lambda features: features.sin()[:, :3].T, data, lambda: 0, tile=64).returns(query)
    assert torch.equal(one, expected)


def test_ranks_are_told_that_people_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collective operation of theirs would end with an error after half an hour."""
    monkeypatch.setattr(waiting, "POLL", 0.0)
    monkeypatch.setattr(waiting, "STILL", -1.0)

    def work(ranks: Ranks) -> tuple[int, int]:
        looks, heard = iter(range(4)), list[Any]()

        def broadcast(thing: Any) -> Any:
            heard.append(ranks.broadcast(thing))
            return heard[-1]

        def lead() -> int:
            waiting.wait(lambda: (3, next(looks)), lambda asked, answered: answered >= asked)
            return 7

        return led(ranks._replace(broadcast=broadcast), SimpleNamespace(model=None), lead), len(heard)

    assert together(2, work) == [(7, 4), (7, 4)]
    alone = iter(range(4))
    waiting.wait(lambda: (3, next(alone)), lambda asked, answered: answered >= asked)  # of one rank, nobody is told


def test_an_error_where_questions_are_asked() -> None:
    """It ends rank 0, which leaves its model as it was; nothing is told to the others, whose connection breaks."""
    model, told = SimpleNamespace(returns=len), list[Any]()
    session = SimpleNamespace(model=model)
    ranks = Ranks(0, 2, told.append, torch.stack, bool)

    def lead() -> Any:
        assert session.model is not model and session.model.returns("abc") == 3
        raise KeyError("store")

    with pytest.raises(KeyError, match="store"):
        led(ranks, session, lead)
    assert session.model is model and len(told) == 1
    assert shared_scoring.known(True) and not shared_scoring.known(False)


def test_what_is_shared_is_what_strategies_ask_for() -> None:
    """Names of methods, which a strategy needs and a reward model has."""
    from lightning_pbrl.registry import classes

    needed = set[str]().union(*(cls.needs for cls in classes("queries").values()))  # type: ignore[attr-defined]
    needed |= {"posterior"}  # by BALD, depending on what it asks
    assert needed - {"observations"} == shared_scoring.SHARED
