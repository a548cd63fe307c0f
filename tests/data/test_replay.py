"""The replay against slow loops: rows by age, legal segments, relabelling, figures of episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from replay_toys import Rule, empty, random_run, step, who

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.errors import UserError

# Rows ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_envs", [1, 2, 3])
def test_rows_by_age_before_and_after_the_ring_is_full(num_envs: int) -> None:
    """Newest first, environments side by side, a lane of 4 steps: after 6 steps the ages are those of steps 5, 4, 3, 2."""
    replay = empty(4 * num_envs, num_envs)
    for p in range(10):
        step(replay)
        stored = [(env, q) for q in range(p, max(-1, p - 4), -1) for env in range(num_envs)]
        assert replay.size == replay.drawable_count == len(stored)
        assert who(replay, replay.rows_of_age(torch.arange(replay.size))) == stored
        assert sorted(who(replay, replay.stored)) == sorted(stored)
        assert replay.stored_column("obs").equal(replay.column("obs")[replay.stored])
        assert replay.stored_column("truncated").equal(replay.column("truncated")[replay.stored])


def test_a_row_by_hand() -> None:
    """Lane 6 of a ring of 12: environment 1's step 8 is row 6 + 8 % 6 = 8."""
    replay = empty()
    for p in range(9):
        step(replay, over=(0, 1) if p % 4 == 3 else ())
    assert replay.rows_of_age(torch.tensor([0, 1, 3])).tolist() == [2, 8, 7]
    row = replay.packed[8]
    assert row.tolist() == pytest.approx([1, 8, 0.08, 1, 9, 0, 0, 0]) and replay.reward[8] == 1008


@pytest.mark.parametrize("steps", [2, 5, 6, 7, 20])
def test_uniform_rows_are_every_stored_row_equally_often(steps: int) -> None:
    replay = empty()
    for _ in range(steps):
        step(replay)
    u = (torch.arange(3 * replay.size, dtype=torch.float64) + 0.5) / (3 * replay.size)
    rows = replay.uniform_rows(u)
    assert sorted(rows.tolist()) == sorted(replay.stored.tolist() * 3)
    assert not replay.packed[replay.uniform_rows(torch.rand(500, 4, dtype=torch.float64))].isnan().any()
    assert replay.uniform_rows(torch.tensor([1 - 2.0**-53], dtype=torch.float64)).tolist() == [
        replay.rows_of_age(torch.tensor(replay.size - 1)).item()
    ]


@pytest.mark.parametrize(("steps", "expected"), [(4, [3, 2, 1]), (7, [6, 5, 4]), (13, [12, 11, 10]), (2, [1, 0])])
def test_the_recent_window_goes_by_age(steps: int, expected: list[int]) -> None:
    """The 6 newest rows of two environments are their 3 last steps, wherever the ring has put them."""
    replay = empty()
    for _ in range(steps):
        step(replay)
    u = (torch.arange(6, dtype=torch.float64) + 0.5) / 6
    assert set(who(replay, replay.recent_rows(u, 6))) == {(env, p) for p in expected for env in (0, 1)}
    assert torch.equal(replay.recent_rows(u, 10**9), replay.uniform_rows(u))


@pytest.mark.parametrize("steps", [4, 6, 11])
def test_relabelling_reaches_every_stored_row_and_no_other(steps: int) -> None:
    replay = empty()
    replay.copies.reserve(2, 2)
    for _ in range(steps):
        step(replay)
    before, version = replay.packed.clone(), replay.version
    replay.relabel(Rule(lambda features: torch.stack([features.sum(1), features.sum(1) + 2.0])))
    rows, learned = replay.stored, replay.column("learned_reward")
    assert torch.allclose(learned[rows], before[rows][:, :3].sum(1) + 1.0)  # mean of the two members
    before[rows, replay.layout["learned_reward"][0]] = learned[rows]
    assert torch.equal(replay.packed, before) or (replay.packed.isnan() == before.isnan()).all()
    assert replay.version > version
    replay.relabel(Rule(lambda features: torch.stack([features[:, 1], features[:, 1] + 2.0]), lambda r: r.amax(0)))
    assert replay.column("learned_reward")[rows].tolist() == [p + 2.0 for _, p in who(replay, rows)]


def test_rows_may_bring_a_learned_reward_and_be_tensors() -> None:
    replay = empty(num_envs=1)
    flag = torch.tensor([False])
    columns = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]]), torch.tensor([[3.0, 4.0]]), torch.tensor([7.0])
    replay.append(*columns, flag, ~flag, torch.tensor([1.0]), learned_reward=torch.tensor([0.25]))
    assert replay.packed[0].tolist() == [1, 2, 0.5, 3, 4, 0.25, 0, 1] and replay.success is not None
    assert replay.success[:2].tolist() == [True, False] and replay.reward[0] == 7
    with pytest.raises(UserError, match="only learned_reward may be written"):
        replay.write("obs", torch.zeros(1))


# Episodes --------------------------------------------------------------------------------------------------------------


def legal(replay: Replay, finished: list[tuple[int, int, int]], length: int, context: int) -> list[int]:
    """Starts of the segments that may be drawn, by a slow loop over the ring's rows."""
    oldest, found = max(0, replay.steps - replay.lane), []
    for env, begin, end in finished:
        for start in range(max(begin, oldest) + context, end - length - context + 1):
            rows = [env * replay.lane + p % replay.lane for p in range(start - context, start + length + context)]
            if rows == list(range(rows[0], rows[0] + len(rows))):
                found.append(rows[context])
    return sorted(found)


@pytest.mark.parametrize(("length", "context"), [(1, 0), (2, 0), (3, 0), (2, 1)])
@pytest.mark.parametrize("steps", [9, 15, 16, 31, 50])
def test_every_legal_segment_of_finished_episodes_and_no_other(steps: int, length: int, context: int) -> None:
    replay = empty(capacity=32, horizon=6)
    finished = random_run(replay, steps, seed=steps)
    assert replay.finished == len(finished)
    pool = replay.pool(length, context=context)
    starts = pool.start(torch.arange(len(pool)))
    assert sorted(starts.tolist()) == legal(replay, finished, length, context)
    assert set(pool.draw(2000, torch.Generator().manual_seed(0)).tolist()) == set(starts.tolist())


@pytest.mark.parametrize("recent", [1, 3])
@pytest.mark.parametrize("steps", [20, 45])
def test_recent_is_the_newest_finished_episodes_that_hold_a_segment(steps: int, recent: int) -> None:
    replay = empty(capacity=32, horizon=6)
    finished = random_run(replay, steps, seed=1)
    newest = [episode for episode in finished if legal(replay, [episode], 2, 0)][-recent:]
    pool = replay.pool(2, recent=recent)
    assert sorted(pool.start(torch.arange(len(pool))).tolist()) == legal(replay, newest, 2, 0)


def test_the_open_episode_is_not_shown() -> None:
    replay = empty(num_envs=1)
    for p in range(7):
        step(replay, over=(0,) if p == 2 else ())
    pool = replay.pool(2)
    assert pool.start(torch.arange(len(pool))).tolist() == [0, 1] and replay.open_steps == [4]


def test_nothing_to_ask_about_yet() -> None:
    replay = empty(horizon=3)
    step(replay)
    with pytest.raises(UserError, match=r"No episode has ended yet.*act for at least one episode"):
        replay.pool(2)
    step(replay, fall=(0,))
    with pytest.raises(UserError, match="No episode is long enough for a segment of 3 steps: the longest has 2"):
        replay.pool(3, recent=1)


def test_figures_of_finished_episodes_and_how_they_ended() -> None:
    """Environment 0: steps 0 to 2, solved at step 1, then a fall; environment 1: steps 0 and 1, cut off."""
    replay = empty()
    assert replay.finished == 0 and np.isnan(replay.mean_reward())
    step(replay, success=[0, 0])
    step(replay, over=(1,), success=[1, 0])
    step(replay, fall=(0,), success=[0, 0])
    assert replay.recent_returns(10).tolist() == [2001.0, 3.0] and replay.recent_success(10).tolist() == [0, 1]
    assert replay.recent_lengths(10).tolist() == [2, 3] and replay.recent_returns(1).tolist() == [3.0]
    assert replay.mean_reward() == pytest.approx(2004 / 5) and replay.open_steps == [0, 1]
    ends = torch.stack([replay.column("terminated"), replay.column("truncated")], 1)
    assert ends[replay.stored].tolist() == [[0, 0], [0, 0], [1, 0], [0, 0], [0, 1], [0, 0]]
    assert replay.column("next_obs")[2].tolist() == [0, 3]  # what followed, not the next episode's beginning


def test_success_that_is_not_defined() -> None:
    replay = empty(num_envs=1)
    step(replay, over=(0,))
    assert replay.success is None and replay.recent_success(1).isnan().all()


def test_mean_reward_is_of_the_last_ten_episodes() -> None:
    """Episodes of one step with rewards 0 .. 14: the mean of 5 .. 14."""
    replay = empty(num_envs=1)
    for _ in range(15):
        step(replay, over=(0,))
    assert replay.mean_reward() == pytest.approx(9.5)


def test_a_lane_holds_an_episode() -> None:
    with pytest.raises(UserError, match=r"capacity of 7 rows leaves each of 2 environments 4.*to at least 10"):
        Replay(7, 2, 2, 1, horizon=5)
    assert Replay(9, 2, 2, 1, horizon=5).ring == 10  # rounded up
