"""Logged rows in a replay: their share of minibatches, that they stay, what is asked about, and the state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.data.hybrid import hybrid_rows
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError


def logged(drawable: list[int] | None = None) -> Transitions:
    """Three episodes of 4, 2 and 3 rows; row k has obs (-1, k) and the true reward 100 + k; the last is solved."""
    obs = torch.tensor([[-1.0, k] for k in range(9)])
    action = torch.arange(9.0).unsqueeze(1) / 10
    rest = {"drawable": None if drawable is None else torch.tensor(drawable), "success": torch.arange(9) == 8}
    return Transitions.from_columns(obs, action, obs + 1, torch.tensor([0, 4, 6, 9]), 100 + torch.arange(9.0), **rest)


def replay(share: float | None = None, capacity: int = 12, drawable: list[int] | None = None) -> Replay:
    """Two environments with episodes of at most 4 steps, and the nine logged rows behind a ring of 12."""
    return Replay(capacity, 2, 2, 1, 4, {"task": "count"}, logged(drawable), share)


def step(table: Replay, steps: int = 1) -> None:
    """Steps with obs (env, step); all episodes end after 4."""
    for _ in range(steps):
        p = table.steps
        obs = np.array([[0, p], [1, p]], np.float32)
        over = np.full(2, p % 4 == 3)
        table.append(obs, np.zeros((2, 1)), obs, np.array([p, p]), over & False, over, np.zeros(2))


def of_logged(table: Replay, rows: torch.Tensor) -> list[bool]:
    return (table.column("obs")[rows, 0] == -1).tolist()


def grid(n: int) -> torch.Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize(("share", "expected"), [(0.5, 4), (0.25, 2), (0.0, 0), (1.0, 8)])
def test_the_share_of_logged_rows_is_exact(share: float, expected: int) -> None:
    """Of a minibatch of eight, before and after the ring has wrapped; both parts are spread over all their rows."""
    table = replay(share)
    step(table, 3)
    for _ in range(12):
        step(table)
        rows = table.uniform_rows(torch.rand(8, dtype=torch.float64))
        assert of_logged(table, rows) == [True] * expected + [False] * (8 - expected)
    rows = table.uniform_rows(torch.cat([grid(18), grid(18)])) if share == 0.5 else None
    if rows is not None:  # 9 logged rows and 12 own ones
        assert sorted(rows[:18].tolist()) == sorted([*range(12, 21)] * 2)
        assert set(rows[18:].tolist()) == set(range(12))


def test_without_a_share_all_rows_are_equally_likely() -> None:
    table = replay()
    step(table, 2)  # 4 own rows beside 9
    assert table.own == 4 and table.size == table.drawable_count == 13
    rows = table.uniform_rows(grid(26))
    assert sorted(rows.tolist()) == sorted(table.stored.tolist() * 2)
    assert sorted(table.drawable_rows(torch.arange(13)).tolist()) == sorted(table.stored.tolist())


@pytest.mark.parametrize("share", [None, 0.5])
def test_before_the_first_step_there_are_only_logged_rows(share: float | None) -> None:
    rows = replay(share).uniform_rows(grid(9))
    assert rows.tolist() == list(range(12, 21))


@pytest.mark.parametrize("share", [None, 0.5])
def test_rows_without_a_successor_are_not_drawn(share: float | None) -> None:
    table = replay(share, drawable=[0, 1, 2, 6])
    step(table, 2)
    rows = table.uniform_rows(torch.rand(500, dtype=torch.float64))
    assert set(rows[rows >= 12].tolist()) == {12, 13, 14, 18}
    assert table.drawable_count == 8 and table.drawable_part(torch.arange(21)).tolist() == [0, 1, 6, 7, 12, 13, 14, 18]


@pytest.mark.parametrize(("share", "omega", "parts"), [(0.5, 0.5, (10, 5, 5)), (None, 0.5, (0, 10, 10)), (0.25, 1.0, (5, 0, 15))])
def test_hybrid_replay_divides_what_is_the_policys_own(share: float | None, omega: float, parts: tuple[int, int, int]) -> None:
    """20 rows: logged by the share, the others uniform and recent by omega; the recent window is the last step."""
    table = replay(share)
    step(table, 6)
    u = torch.full((20,), 1 - 1e-9, dtype=torch.float64)  # the oldest of each part: logged, own of step 0, step 5
    rows = hybrid_rows(table, u, omega, 2)
    old = [(-1.0, 8.0)] * parts[0] + [(1.0, 0.0) if share is not None else (-1.0, 8.0)] * parts[1]
    assert [tuple(row) for row in table.column("obs")[rows].tolist()] == old + [(1.0, 5.0)] * parts[2]


def test_the_ring_wraps_and_logged_rows_stay() -> None:
    table = replay()
    table.copies.reserve(2, 2)
    before = table.packed[12:21].clone()
    for _ in range(40):  # the ring holds six steps
        step(table)
    assert torch.equal(table.packed[12:21].nan_to_num(7.0), before.nan_to_num(7.0))
    assert table.reward[12:21].tolist() == list(range(100, 109))
    assert before[:, table.layout["learned_reward"][0]].isnan().all()  # until a model or a control has written it
    assert table.success is not None and table.success.nonzero().flatten().tolist() == [20]
    assert table.rows_of_age(torch.arange(table.own)).max() < 12


class Total:
    """Rewards a row with the sum of observation and action."""

    def relabel(self, source: Transitions, rows: torch.Tensor) -> torch.Tensor:
        return source.features()[rows].sum(1)


def test_relabelling_reaches_logged_rows_and_no_copy() -> None:
    table = replay()
    table.copies.reserve(1, 2)
    step(table, 2)
    table.copies.keep(Query("pair", torch.tensor([[12, 18]]), 2), 0)
    table.relabel(Total())
    learned = table.column("learned_reward")
    expected = [-1 + k + k / 10 for k in range(9)]
    assert learned[12:21].tolist() == pytest.approx(expected) and not learned[21:].any()


def test_episodes_that_may_be_asked_about() -> None:
    """Segments of 3 steps begin at rows 12, 13 and 18 of logged episodes of 4, 2 and 3; then there are finished own ones."""
    table = replay()
    assert sorted(table.pool(3).start(torch.arange(3)).tolist()) == [12, 13, 18]
    step(table, 5)
    every = table.pool(3)
    assert sorted(every.start(torch.arange(len(every))).tolist()) == [0, 1, 6, 7, 12, 13, 18]
    newest = {n: table.pool(3, recent=n) for n in (1, 2, 3, 4)}  # of two own episodes; the logged one of two steps is too short
    starts = {n: set(pool.start(torch.arange(len(pool))).tolist()) for n, pool in newest.items()}
    assert starts == {1: {6, 7}, 2: {0, 1, 6, 7}, 3: {0, 1, 6, 7, 18}, 4: {0, 1, 6, 7, 18, 12, 13}}


def test_the_first_row_of_an_episode_and_the_age() -> None:
    table = replay()
    step(table, 6)
    rows = torch.tensor([20, 15, 12, 17, 5, 2])
    assert table.first_of(rows).tolist() == [18, 12, 12, 16, 4, 0]
    assert table.age(rows).tolist() == [6, 6, 6, 6, 0, 3]
    assert math.isclose(table.mean_reward(), 1.5) and replay().mean_reward() == 104.0  # steps 0 to 3; before them the logged rows


def test_copies_lie_behind_logged_rows() -> None:
    table = replay()
    table.copies.reserve(2, 2)
    step(table, 4)
    kept = table.copies.keep(Query("pair", torch.tensor([[13, 0]]), 2), 1)
    assert kept.start.tolist() == [[25, 27]] and [each.tolist() for each in table.copies.named(kept.start)] == [
        [[1, 1]],
        [[0, 1]],
    ]
    assert table.column("obs")[25:29].tolist() == [[-1, 1], [-1, 2], [0, 0], [0, 1]]
    assert table.reward[25:29].tolist() == [101, 102, 0, 1]
    assert table.written.tolist()[-8:] == list(range(21, 29)) and len(table.written) == 8 + 9 + 8


def test_the_state_has_the_learned_reward_of_logged_rows_and_not_the_rows() -> None:
    table = replay()
    step(table, 7)
    table.relabel(Total())
    state = table.state_dict()
    assert sum(value.numel() for value in state["logged"].values() if isinstance(value, torch.Tensor)) == 9
    other = replay()
    other.load_state_dict(state)
    assert torch.equal(other.packed, table.packed) and torch.equal(other.reward, table.reward)
    assert other.success is not None and table.success is not None and torch.equal(other.success, table.success)


def test_a_state_of_other_logged_data_is_refused() -> None:
    table, without = replay(), Replay(12, 2, 2, 1, 4, {"task": "count"})
    table.relabel(Total())
    state = table.state_dict()
    with pytest.raises(UserError, match=r"begun with other logged data: set data\.init_args\.start_from back"):
        without.load_state_dict(state)
    with pytest.raises(UserError, match="begun with no logged data"):
        table.load_state_dict(without.state_dict())
    del (older := without.state_dict())["logged"]
    without.load_state_dict(older)  # of a version without them


def test_novelty_sees_logged_observations() -> None:
    table = replay()
    step(table)
    assert [tuple(part.shape) for part in table.seen()] == [(1, 2), (1, 2), (9, 2)]
