"""The packed table: what goes in comes out, and what was observed cannot be overwritten."""

from __future__ import annotations

import pytest
import torch
from synthetic import synthetic_transitions, true_reward

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.data.transitions import Transitions, row_layout, unpack
from lightning_pbrl.errors import UserError


def small() -> Transitions:
    """Two episodes of 2 and 3 steps; obs (i, 10 i), action (i / 10), reward i."""
    i = torch.arange(5.0)
    return Transitions.from_columns(
        torch.stack([i, 10 * i], 1),
        (i / 10)[:, None],
        torch.stack([i + 1, 10 * i + 10], 1),
        torch.tensor([0, 2, 5]),
        reward=i,
        terminated=torch.tensor([0, 1, 0, 0, 0]),
        truncated=torch.tensor([0, 0, 0, 0, 1]),
    )


def test_layout_by_hand():
    assert row_layout(2, 1) == {
        "obs": (0, 2),
        "action": (2, 1),
        "next_obs": (3, 2),
        "learned_reward": (5, 1),
        "terminated": (6, 1),
        "truncated": (7, 1),
    }


def test_pack_and_unpack():
    data = small()
    assert data.packed.shape == (5, 8)
    assert data.packed[3, :5].tolist() == pytest.approx([3, 30, 0.3, 4, 40])
    assert data.packed[:, 6].tolist() == [0, 1, 0, 0, 0]
    assert data.packed[:, 7].tolist() == [0, 0, 0, 0, 1]
    rows = unpack(data.packed[torch.tensor([4, 0])], data.layout)
    assert rows["obs"].tolist() == [[4, 40], [0, 0]]
    assert rows["action"].shape == (2, 1)  # of size one, and still a vector
    assert rows["terminated"].shape == rows["learned_reward"].shape == (2,)
    assert rows["learned_reward"].isnan().all()


def test_true_reward_is_not_in_the_packed_row():
    data = synthetic_transitions()
    poisoned = synthetic_transitions()
    poisoned.reward.fill_(float("nan"))
    assert torch.equal(data.packed.nan_to_num(-7), poisoned.packed.nan_to_num(-7))


@pytest.mark.parametrize("column", ["obs", "action", "next_obs", "terminated", "truncated", "reward"])
def test_observed_columns_are_guarded(column: str):
    data = small()
    with pytest.raises(UserError, match="only learned_reward may be written"):
        data.write(column, torch.zeros(5))
    assert data.version == 0


def test_write_learned_reward():
    data = small()
    before = data.packed.clone()
    data.write("learned_reward", torch.arange(5.0))
    data.write("learned_reward", torch.tensor([9.0, 8.0]), index=torch.tensor([3, 1]))
    assert data.column("learned_reward").tolist() == [0, 8, 2, 9, 4]
    assert data.version == 2
    before[:, 5] = torch.tensor([0.0, 8, 2, 9, 4])
    assert torch.equal(data.packed, before)


def test_fingerprint_is_of_what_was_observed():
    data = small()
    same = small()
    same.write("learned_reward", torch.ones(5))
    assert data.fingerprint == same.fingerprint
    assert len(data.fingerprint) == 32
    for column, row in (("obs", 0), ("action", 2), ("next_obs", 3)):
        other = small()
        other.packed[row, other.layout[column][0]] += 1
        assert other.fingerprint != data.fingerprint, column
    other = small()
    other.reward[4] += 1
    assert other.fingerprint != data.fingerprint
    other = small()
    other.episodes.offsets[1] = 3
    assert other.fingerprint != data.fingerprint


def test_rows_that_may_be_drawn():
    data = small()
    number, values = torch.tensor([[2, 0], [1, 1]]), torch.arange(5.0) * 10
    assert data.drawable_count == 5 and torch.equal(data.drawable_rows(number), number)
    assert torch.equal(data.drawable_part(values), values)
    whole = data.fingerprint
    data = small()
    data.drawable = torch.tensor([0, 2, 3])
    assert data.to("cpu").drawable_count == 3
    assert data.drawable_rows(number).tolist() == [[3, 0], [2, 2]]
    assert data.drawable_part(values).tolist() == [0, 20, 30]
    assert data.fingerprint == whole  # what was observed is the same, so labels stay valid


def test_segments_clips_and_returns():
    data = small()
    query = Query("pair", torch.tensor([[0, 3], [2, 0]]), 2)
    assert data.segments(query.start, 2)[0, 1].tolist() == [pytest.approx([3, 30, 0.3]), pytest.approx([4, 40, 0.4])]
    assert data.true_returns(query).tolist() == [[0 + 1, 3 + 4], [2 + 3, 0 + 1]]
    clips = data.clips(query)
    assert clips.obs.shape == (2, 2, 2, 2)
    assert clips.action[1, 0, :, 0].tolist() == pytest.approx([0.2, 0.3])
    assert clips.reward.tolist() == [[[0, 1], [3, 4]], [[2, 3], [0, 1]]]


def test_a_table_that_forgets_nothing_keeps_nothing_beside():
    table = small()
    assert not table.forgets and not hasattr(table, "copies")
    assert table.mean_reward() == pytest.approx(float(table.reward.double().mean()))


def test_recent_pool_is_of_the_newest_episodes():
    pool = small().pool(2, recent=1)
    assert pool.start(torch.arange(len(pool))).tolist() == [2, 3]
    assert len(small().pool(2, recent=100)) == 3


def test_unknown_reward_is_nan():
    data = Transitions.from_columns(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([0, 2]))
    assert data.reward.isnan().all()


def test_synthetic_data_are_what_they_say():
    data = synthetic_transitions(episodes=3, length=4, obs_dim=5, action_dim=2)
    assert len(data) == 12
    assert data.episodes.offsets.tolist() == [0, 4, 8, 12]
    obs, action, next_obs = (data.column(name) for name in ("obs", "action", "next_obs"))
    assert torch.equal(data.reward, true_reward(obs, action))
    assert torch.equal(next_obs[:3], obs[1:4])
    assert action.abs().max() <= 1
    assert data.column("truncated").nonzero()[:, 0].tolist() == [3, 7, 11]
    assert data.fingerprint == synthetic_transitions(episodes=3, length=4).fingerprint
    assert data.fingerprint != synthetic_transitions(episodes=3, length=4, seed=1).fingerprint
