"""Copies of the segments that were asked about: placed by hand, outlive the ring, brought back from the store."""

from __future__ import annotations

import pytest
import torch
from replay_toys import empty, random_run, step

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.errors import UserError


def asked(replay: Replay, count: int, length: int = 2, context: int = 0) -> Query:
    return replay.pool(length, context=context).pairs(count, torch.Generator().manual_seed(replay.steps))


def test_places_by_hand() -> None:
    """A ring of 12 rows, segments of 2 steps with 1 on each side: question 3 begins at 12 + 6 * 4 + 1 and 4 further."""
    replay = empty()
    replay.copies.reserve(5, 2, context=1)
    assert replay.copies.placed(torch.zeros(1, 2), 3).tolist() == [[37, 41]] and len(replay) == 12 + 5 * 2 * 4
    assert replay.copies.placed(torch.zeros(2, 1), 0).tolist() == [[13], [21]]  # ratings show one segment


def test_places_of_questions_about_several_segments() -> None:
    """A ring of 12 rows, segments of 2 steps with 1 on each side, three to a question: question 2 begins at 12 + 6 * 4 + 1."""
    replay = empty()
    replay.copies.reserve(5, 2, context=1, clips=3)
    places = replay.copies.placed(torch.zeros(2, 3), 2)
    assert places.tolist() == [[37, 41, 45], [49, 53, 57]] and len(replay) == 12 + 5 * 3 * 4
    assert replay.copies.placed(torch.zeros(1, 2), 1).tolist() == [[25, 29]]  # a pair leaves its third place free
    number, which = replay.copies.named(places)
    assert number.tolist() == [[2] * 3, [3] * 3] and which.tolist() == [[0, 1, 2]] * 2
    random_run(replay, 12, seed=0)
    pool = replay.pool(2, context=1)
    three = Query("best", pool.start(torch.tensor([[0, 1, 0]])), 2)
    seen = replay.segments(three.start - 1, 4).clone()
    kept = replay.copies.keep(three, 0)
    assert kept.start.tolist() == [[13, 17, 21]] and torch.equal(replay.segments(kept.start - 1, 4), seen)
    replay.copies.reserve(40, 2, context=1)  # more room, of the same width
    assert len(replay) == 12 + 40 * 3 * 4 and torch.equal(replay.segments(kept.start - 1, 4), seen)
    with pytest.raises(UserError, match="keeps at most 3 segments of a question and now gets one about 4: let the attribute"):
        replay.copies.keep(Query("best", pool.start(torch.tensor([[0, 1, 0, 1]])), 2), 1)


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
