"""Composition of hybrid minibatches: how many rows of each kind, and which, also when the ring has wrapped around."""

from __future__ import annotations

import pytest
import torch
from pebble_toys import filled, steps_of

from lightning_pbrl.data.hybrid import hybrid_rows


def grid(n: int) -> torch.Tensor:
    """n numbers in the middle of n equal parts of [0, 1)."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize(("steps", "oldest"), [(14, 0), (47, 27)])  # before and after the ring of 20 rows has wrapped
def test_uniform_part_then_recent_part(steps: int, oldest: int) -> None:
    replay = filled(steps)
    size = steps - oldest
    u = torch.cat([grid(size), grid(6)])
    drawn = steps_of(replay, hybrid_rows(replay, u, 6 / (size + 6) + 1e-9, window=6))
    assert drawn[:size] == list(range(steps - 1, oldest - 1, -1))  # everything stored, each once
    assert drawn[size:] == list(range(steps - 1, steps - 7, -1))  # the six newest, each once


def test_recent_rows_of_several_environments_are_the_newest_of_each() -> None:
    replay = filled(23, capacity=40, num_envs=2)  # lanes of 20
    ids = hybrid_rows(replay, grid(6), 1.0, window=6)
    found = replay.column("obs")[ids].long().tolist()
    assert found == [[22, 0], [22, 1], [21, 0], [21, 1], [20, 0], [20, 1]]


@pytest.mark.parametrize(("size", "share", "recent"), [(8, 0.5, 4), (7, 0.5, 3), (10, 0.29, 2), (8, 0.0, 0), (8, 1.0, 8)])
def test_counts(size: int, share: float, recent: int) -> None:
    """int(B omega) recent rows and a batch of B in any case; u just below 1 is the oldest row of either part."""
    replay = filled(20)
    drawn = steps_of(replay, hybrid_rows(replay, torch.full((size,), 0.999, dtype=torch.float64), share, window=5))
    assert drawn == [0] * (size - recent) + [15] * recent


def test_a_window_larger_than_what_is_stored_is_everything() -> None:
    replay = filled(7)
    assert steps_of(replay, hybrid_rows(replay, grid(7), 1.0, window=100)) == [6, 5, 4, 3, 2, 1, 0]
