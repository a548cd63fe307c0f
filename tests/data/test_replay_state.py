"""The state of a replay: as large as what it holds, goes on in any ring, and takes no memory before it is written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from replay_toys import Rule, empty, random_run, step, who

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.errors import UserError


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
