"""Finished episodes of a replay's state, against a slow loop over its steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from replay_toys import empty, step

from lightning_pbrl.data.replayed import logged_episodes
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError

ENDS = {0: (3, 7, 9), 1: (2, 9)}  # last steps of the episodes of two environments; 12 steps in all


def ran(capacity: int) -> dict[str, Any]:
    replay = empty(capacity)
    for p in range(12):
        step(replay, over=tuple(env for env, ends in ENDS.items() if p in ends))
    return replay.state_dict()


def read(state: dict[str, Any], steps: int | None = None) -> Transitions:
    return logged_episodes(state, 2, 1, steps, {})


@pytest.mark.parametrize(
    ("capacity", "steps", "expected"),
    [
        (40, None, [(1, 0, 2), (0, 0, 3), (0, 4, 7), (0, 8, 9), (1, 3, 9)]),
        (40, 16, [(1, 0, 2), (0, 0, 3), (0, 4, 7)]),  # 8 steps of two environments
        (18, None, [(0, 4, 7), (0, 8, 9), (1, 3, 9)]),  # 9 of each are left: the first three are gone
    ],
)
def test_finished_episodes_that_are_whole(capacity: int, steps: int | None, expected: list[tuple[int, int, int]]) -> None:
    data = read(ran(capacity), steps)
    rows = [(env, p) for env, first, last in expected for p in range(first, last + 1)]
    assert data.column("obs").tolist() == [[env, p] for env, p in rows]
    assert data.column("next_obs").tolist() == [[env, p + 1] for env, p in rows]
    assert data.reward.tolist() == [1000.0 * env + p for env, p in rows]
    assert data.episodes.lengths.tolist() == [last - first + 1 for _, first, last in expected]
    ends = data.column("terminated") + data.column("truncated")
    assert ends.tolist() == [float(p in ENDS[env]) for env, p in rows] and data.column("learned_reward").isnan().all()
    assert data.success is None


def test_nothing_whole_is_refused() -> None:
    with pytest.raises(UserError, match="no whole episode"):
        read(ran(40), 4)
    with pytest.raises(UserError, match="has pictures"):
        read({**ran(40), "pictures": torch.zeros(2, 12, 4, 4, 3)})
