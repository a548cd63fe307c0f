"""Segments: every legal start, equally often, never across episodes."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl.data.feedback import Answer, Labels, Query, Status
from lightning_pbrl.data.segments import Episodes, Pieces, SegmentPool, segment_rows
from lightning_pbrl.errors import UserError

EPISODES = Episodes(torch.tensor([0, 5, 7, 11]))  # lengths 5, 2, 4


def test_episodes_of_rows():
    assert len(EPISODES) == 3
    assert EPISODES.lengths.tolist() == [5, 2, 4]
    assert EPISODES.of(torch.tensor([0, 4, 5, 6, 7, 10])).tolist() == [0, 0, 1, 1, 2, 2]


def test_all_legal_starts_and_no_others():
    pool = SegmentPool(EPISODES, length=3)
    # 5 - 3 + 1 = 3 starts in the first episode, none in the second, 4 - 3 + 1 = 2 in the third
    assert len(pool) == 5
    assert pool.start(torch.arange(5)).tolist() == [0, 1, 2, 7, 8]


def test_the_last_legal_start_is_drawn_and_the_law_is_uniform():
    pool, draws = SegmentPool(EPISODES, length=3), 5000
    counts = torch.bincount(pool.draw(draws, torch.Generator().manual_seed(0)), minlength=11)
    assert counts.nonzero()[:, 0].tolist() == [0, 1, 2, 7, 8]
    # each count is binomial with n = 5000 and p = 1/5; 4 sigma
    assert (counts[counts > 0] - draws / 5).abs().max() < 4 * math.sqrt(draws * 0.2 * 0.8)


def test_segments_never_cross_episodes():
    pool = SegmentPool(EPISODES, length=2)
    rows = segment_rows(pool.start(torch.arange(len(pool))), 2)
    owner = EPISODES.of(rows)
    assert torch.equal(owner[:, 0], owner[:, 1])
    assert rows.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [5, 6], [7, 8], [8, 9], [9, 10]]


def test_a_segment_as_long_as_its_episode():
    assert SegmentPool(EPISODES, length=5).draw(3, torch.Generator().manual_seed(0)).tolist() == [0, 0, 0]


def test_only_chosen_episodes():
    pool = SegmentPool(EPISODES, length=2, keep=torch.tensor([1, 2]))
    assert pool.start(torch.arange(len(pool))).tolist() == [5, 7, 8, 9]


def test_pairs_are_two_different_segments_and_uniform():
    pool = SegmentPool(EPISODES, length=3)
    query = pool.pairs(4000, torch.Generator().manual_seed(1))
    assert query.kind == "pair"
    assert query.length == 3
    assert len(query) == 4000
    assert (query.start[:, 0] != query.start[:, 1]).all()
    # 5 * 4 ordered pairs, each binomial with n = 4000 and p = 1/20; 4.5 sigma over 20 cells
    _, counts = (query.start[:, 0] * 100 + query.start[:, 1]).unique(return_counts=True)
    assert len(counts) == 20
    assert (counts - 200).abs().max() < 4.5 * math.sqrt(4000 * 0.05 * 0.95)


def test_context_keeps_steps_free_on_both_sides():
    """Pieces of 6 and 4 rows at 10 and 30, segments of 2 with 1 on each side: 11, 12, 13 and 31."""
    pieces = Pieces(torch.tensor([10, 30, 50]), torch.tensor([6, 4, 0]))
    pool = SegmentPool(pieces, length=2, context=1)
    assert pool.start(torch.arange(len(pool))).tolist() == [11, 12, 13, 31]
    assert len(SegmentPool(pieces, 2, keep=torch.tensor([1]))) == 3
    with pytest.raises(UserError, match="for a segment of 4 steps and 2 more on each side: the longest has 6"):
        SegmentPool(pieces, length=4, context=2)


def test_episodes_shorter_than_a_segment():
    with pytest.raises(UserError, match="segment of 6 steps: the longest has 5; choose a smaller segment_length"):
        SegmentPool(EPISODES, length=6)
    with pytest.raises(UserError, match="A pair needs two different segments"):
        SegmentPool(EPISODES, length=5).pairs(1, torch.Generator())


def test_preferences_leave_out_what_says_nothing_about_order():
    status = torch.tensor([Status.ANSWERED, Status.SKIPPED, Status.EQUAL, Status.PENDING])
    value = torch.tensor([1.0, float("nan"), 0.5, float("nan")])
    labels = Labels(torch.arange(8).reshape(4, 2), 3, value, status)
    kept = labels.preferences()
    assert kept.value.tolist() == [1.0, 0.5]
    assert kept.start.tolist() == [[0, 1], [4, 5]]
    assert len(Labels.empty()) == 0
    assert len(Query("rating", torch.zeros(3, 1, dtype=torch.int64), 2)) == 3
    assert Answer(value, status).status.tolist() == [1, 3, 2, 0]
