"""The replay against slow loops: rows by age, legal segments, relabelling, copies, and its state."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.data.relabel import mean_of_members, predict_reward
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError

NAN = float("nan")


def empty(capacity: int = 12, num_envs: int = 2, horizon: int = 4, poison: bool = True) -> Replay:
    """A replay whose unwritten memory is NaN, so that reading it shows."""
    replay = Replay(capacity, num_envs, obs_dim=2, action_dim=1, horizon=horizon, about={"task": "count"})
    if poison:
        replay.packed.fill_(NAN)
        replay.reward.fill_(NAN)
    return replay


def step(replay: Replay, over: tuple[int, ...] = (), fall: tuple[int, ...] = (), success: list[float] | None = None) -> None:
    """One step: obs (env, step), action step / 100, reward 1000 env + step; ``over`` are cut off, ``fall`` terminated."""
    n, p = replay.num_envs, replay.steps
    envs = np.arange(n)
    obs = np.stack([envs, np.full(n, p)], 1)
    after = obs + np.array([0, 1])
    replay.append(obs, np.full((n, 1), p / 100), after, 1000.0 * envs + p, np.isin(envs, fall), np.isin(envs, over), success)


def random_run(replay: Replay, steps: int, seed: int) -> list[tuple[int, int, int]]:
    """Steps with episodes of 1 to ``horizon`` steps; gives the finished ones: environment, first step, end."""
    rng, begin, finished = random.Random(seed), [0] * replay.num_envs, []
    for p in range(steps):
        over = [i for i in range(replay.num_envs) if p + 1 - begin[i] == replay.horizon or rng.random() < 0.15]
        step(replay, over=tuple(over))
        for i in over:
            finished.append((i, begin[i], p + 1))
            begin[i] = p + 1
    return finished


def who(replay: Replay, rows: torch.Tensor) -> list[tuple[int, int]]:
    """(environment, step) of rows, as their observations say."""
    return [(int(env), int(p)) for env, p in replay.column("obs")[rows].reshape(-1, 2).tolist()]


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


class Rule:
    """A reward of single steps by a rule, two rows at a time."""

    def __init__(self, reward: Callable[[Tensor], Tensor], combine: Callable[[Tensor], Tensor] = mean_of_members) -> None:
        self.reward, self.combine = reward, combine

    def relabel(self, source: Transitions, rows: Tensor) -> Tensor:
        return predict_reward(source, self.reward, 2, self.combine, rows)


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


# Copies -------------------------------------------------------------------------------------------------------------


def asked(replay: Replay, count: int, length: int = 2, context: int = 0) -> Query:
    return replay.pool(length, context=context).pairs(count, torch.Generator().manual_seed(replay.steps))


def test_places_by_hand() -> None:
    """A ring of 12 rows, segments of 2 steps with 1 on each side: question 3 begins at 12 + 6 * 4 + 1 and 4 further."""
    replay = empty()
    replay.copies.reserve(5, 2, context=1)
    assert replay.copies.placed(torch.zeros(1, 2), 3).tolist() == [[37, 41]] and len(replay) == 12 + 5 * 2 * 4
    assert replay.copies.placed(torch.zeros(2, 1), 0).tolist() == [[13], [21]]  # ratings show one segment


@pytest.mark.parametrize("context", [0, 1])
def test_what_was_asked_about_outlives_the_ring(context: int) -> None:
    replay = empty(capacity=16, horizon=6)
    replay.copies.reserve(5, 2, context)
    for p in range(6):
        step(replay, over=(0, 1) if p == 5 else ())
    first = asked(replay, 3, context=context)
    kept = replay.copies.keep(first, 0)
    wide = [replay.segments(query.start - context, 2 + 2 * context).clone() for query in (first, kept)]
    assert torch.equal(*wide) and torch.equal(replay.true_returns(first), replay.true_returns(kept))
    clips, returns = replay.clips(kept), replay.true_returns(kept)
    for p in range(40):
        step(replay, over=(0, 1) if p % 6 == 5 else ())
        if p == 20:
            replay.copies.keep(asked(replay, 2, context=context), 3)
    assert torch.equal(replay.segments(kept.start - context, 2 + 2 * context), wide[0])
    assert torch.equal(replay.true_returns(kept), returns)
    again = replay.clips(kept)
    assert (
        torch.equal(clips.obs, again.obs) and torch.equal(clips.action, again.action) and torch.equal(clips.reward, again.reward)
    )
    assert clips.frames is None and again.frames is None  # a replay draws nothing
    assert clips.obs.shape == (3, 2, 2, 2) and clips.action.shape == (3, 2, 2, 1) and clips.reward.shape == (3, 2, 2)


def test_copies_are_brought_back_from_what_was_stored() -> None:
    """Into a replay of another capacity, where places differ and contents do not."""
    replay, other = empty(capacity=20, horizon=6), empty(capacity=38, horizon=6)
    replay.copies.reserve(4, 2, 1)
    other.copies.reserve(4, 2, 1)
    for p in range(8):
        step(replay, over=(0, 1) if p == 5 else ())
    kept = replay.copies.keep(asked(replay, 4, context=1), 0)
    content = replay.copies.content(kept)
    assert content.obs.shape == (4, 2, 4, 2)
    other.copies.restore(0, content)
    start = other.copies.placed(kept.start, 0)
    assert (start == kept.start + 18).all()  # the ring is 18 rows longer
    assert torch.equal(other.segments(start - 1, 4), replay.segments(kept.start - 1, 4))
    assert torch.equal(other.true_returns(Query("pair", start, 2)), replay.true_returns(kept))
    with pytest.raises(UserError, match=r"holds segments of 3 steps and this run shows 4"):
        other.copies.restore(
            0, content._replace(obs=content.obs[:, :, :3], action=content.action[:, :, :3], reward=content.reward[:, :, :3])
        )


def test_room_for_copies_grows_and_keeps_what_it_has() -> None:
    replay = empty()
    random_run(replay, 9, seed=0)
    before = replay.packed[replay.stored].clone()
    first = replay.copies.keep(asked(replay, 2), 0)  # no room was made before
    seen = replay.segments(first.start, 2).clone()
    replay.copies.reserve(10, 2)
    assert len(replay) == 12 + 40 and torch.equal(replay.segments(first.start, 2), seen)
    assert torch.equal(replay.packed[replay.stored], before)
    assert len(replay.copies.keep(Query("pair", torch.zeros(0, 2, dtype=torch.int64), 2), 2)) == 0
    with pytest.raises(UserError, match=r"keeps segments of 2 steps \(context 0\) and is asked to keep others of 3"):
        replay.copies.reserve(10, 3)


def test_segments_longer_than_an_episode_are_refused_before_anything_is_collected() -> None:
    with pytest.raises(UserError, match="has 3 steps and 1 more on each side and an episode at most 4: choose a smaller"):
        empty().copies.reserve(1, 3, context=1)


# State -----------------------------------------------------------------------------------------------------------------


def saved(replay: Replay) -> dict:
    file = io.BytesIO()
    torch.save(replay.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def contents(replay: Replay) -> list:
    rows = replay.rows_of_age(torch.arange(replay.size))
    pool = replay.pool(2)
    figures = [replay.steps, replay.finished, replay.recent_returns(99).tolist(), replay.open_steps, replay.mean_reward()]
    solved = None if replay.success is None else replay.success[rows].tolist()
    return [*figures, solved, replay.packed[rows].tolist(), replay.reward[rows].tolist(), len(pool)]


def test_a_state_is_as_large_as_what_is_stored() -> None:
    """4 (2 O + A + 4) bytes per env step, whatever the capacity (docs/online.md)."""
    replay = empty(10_000)
    random_run(replay, 17, seed=0)
    tensors = [value for value in saved(replay).values() if isinstance(value, torch.Tensor)]
    assert sum(value.untyped_storage().nbytes() for value in tensors) == 34 * 4 * (2 * 2 + 1 + 4)


@pytest.mark.parametrize("steps", [5, 6, 17])
@pytest.mark.parametrize("capacity", [12, 40])
def test_a_state_goes_on_as_if_nothing_had_happened(steps: int, capacity: int) -> None:
    """Also into a larger ring, which then forgets later: compared while it holds the same."""
    replay, other = empty(), empty(capacity)
    random_run(replay, steps, seed=0)
    other.load_state_dict(saved(replay))
    assert contents(replay)[:-1] == contents(other)[:-1]
    for p in range(1 if capacity > 12 else 20):
        ends = (0, 1) if p % 4 == 0 else ()
        step(replay, over=ends, success=[0, 1])
        step(other, over=ends, success=[0, 1])
    same = slice(None) if capacity == 12 else slice(5)
    assert contents(replay)[same] == contents(other)[same]
    assert who(other, other.rows_of_age(torch.arange(12))) == who(replay, replay.rows_of_age(torch.arange(12)))


def test_a_larger_ring_counts_no_row_that_it_never_got() -> None:
    """12 of 34 rows were kept; the larger ring has those, then the new ones until its 40 are there, and moves them alone."""
    replay, other = empty(), empty(capacity=40)
    random_run(replay, 17, seed=0)
    other.load_state_dict(saved(replay))
    for more in range(20):
        assert other.own == min(12 + 2 * more, 40) and len(other.stored.unique()) == other.own
        newest = who(other, other.rows_of_age(torch.arange(other.own)))
        assert newest == [(env, 16 + more - back) for back in range(other.own // 2) for env in range(2)]
        assert sorted(who(other, other.stored)) == sorted(newest)
        assert sum(map(len, other.seen())) == other.own
        again = empty(capacity=40)
        again.load_state_dict(saved(other))
        assert contents(again) == contents(other)
        before = other.packed[other.stored].clone()
        other.move("cpu")
        assert torch.equal(other.packed[other.stored], before)
        for query in other.pool(2).pairs(20, torch.Generator().manual_seed(more)).start.flatten().tolist():
            assert {query, query + 1} <= set(other.stored.tolist())
        step(other, over=(0, 1) if more % 4 == 0 else (), success=[0, 1])


def test_a_smaller_ring_takes_the_newest_rows() -> None:
    replay, other = empty(capacity=40), empty(capacity=8)
    random_run(replay, 15, seed=0)
    other.load_state_dict(saved(replay))
    assert who(other, other.rows_of_age(torch.arange(8))) == who(replay, replay.rows_of_age(torch.arange(8)))


def test_a_state_holds_stored_rows_only_and_of_these_environments() -> None:
    replay = empty(capacity=200_000)
    random_run(replay, 5, seed=0)
    state = replay.state_dict()
    assert state["rows"].shape == (2, 5, 8) and len(state["rows"].untyped_storage()) == 2 * 5 * 8 * 4
    with pytest.raises(UserError, match="is of 2 environments with rows of 8 entries, this one of 1 with 8: resume with"):
        empty(num_envs=1).load_state_dict(state)


def test_an_empty_state() -> None:
    other = empty()
    other.load_state_dict(saved(empty()))
    assert other.steps == other.size == len(other.stored) == 0


def test_labels_are_bound_to_who_acts_where_not_to_rows() -> None:
    replay, other = empty(), empty(capacity=40)
    random_run(replay, 5, seed=0)
    assert replay.fingerprint == other.fingerprint
    assert replay.fingerprint != Replay(12, 2, 2, 1, 4, {"task": "other"}).fingerprint


def test_memory_is_taken_when_it_is_written() -> None:
    """Two million rows of 57 numbers would be 456 MB; using a few of them takes next to nothing."""
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("needs /proc")

    def resident() -> float:
        return int(status.read_text().split()[1]) * 4096 / 1e6

    before = resident()
    replay = Replay(2_000_000, 2, 24, 6, horizon=4)
    for p in range(40):
        zeros = np.zeros((2, 24))
        replay.append(zeros, zeros[:, :6], zeros, zeros[:, 0], np.zeros(2, bool), np.full(2, p % 4 == 3), np.zeros(2))
    replay.relabel(Rule(lambda features: features[None, :, 0]))
    replay.copies.reserve(100_000, 3)
    replay.copies.keep(replay.pool(3).pairs(10, torch.Generator()), 0)
    replay.uniform_rows(torch.rand(100, dtype=torch.float64))
    replay.load_state_dict(replay.state_dict())
    assert resident() - before < 60
