"""Predicted returns: prefix sums, the two paths, and when the cache is renewed."""

from __future__ import annotations

import numpy as np
import torch
from synthetic import synthetic_transitions
from torch import Tensor

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.rewards.scoring import PrefixSums, ReturnScorer


class Reward:
    """An ensemble of three small networks that counts the rows it sees."""

    def __init__(self, features: int) -> None:
        rng = torch.Generator().manual_seed(0)
        self.first = torch.randn(3, features, 8, generator=rng)
        self.second = torch.randn(3, 8, 1, generator=rng)
        self.rows, self.version, self.largest = 0, 0, 0

    def __call__(self, features: Tensor) -> Tensor:
        self.rows += len(features)
        self.largest = max(self.largest, len(features))
        return (features @ self.first).tanh().matmul(self.second).squeeze(-1).tanh()


def ragged(lengths: list[int]) -> Transitions:
    data = synthetic_transitions(1, sum(lengths))
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Transitions.from_columns(data.column("obs"), data.column("action"), data.column("next_obs"), offsets)


def slow_returns(model: Reward, data: Transitions, query: Query) -> Tensor:
    out = torch.zeros(3, *query.start.shape, dtype=torch.float64)
    for b, pair in enumerate(query.start.tolist()):
        for c, start in enumerate(pair):
            for row in range(start, start + query.length):
                out[:, b, c] += model(data.features()[row : row + 1])[:, 0].double()
    return out


def setup(n_pairs: int) -> tuple[Reward, ReturnScorer, Transitions, Query]:
    data = synthetic_transitions(10, 30)
    model = Reward(7)
    scorer = ReturnScorer(model, data, lambda: model.version, tile=64)
    return model, scorer, data, data.pool(5).pairs(n_pairs, torch.Generator().manual_seed(1))


def test_prefix_sums_stay_within_the_episode() -> None:
    # Integer rewards: sums are exact. Every legal segment of ragged episodes, against its own rows.
    data = ragged([5, 3, 9])
    reward = torch.arange(34).reshape(2, 17).float() ** 2
    sums = PrefixSums(reward)
    pool = data.pool(3)
    start = pool.start(torch.arange(len(pool)))
    assert start.tolist() == [0, 1, 2, 5, 8, 9, 10, 11, 12, 13, 14]
    expected = torch.stack([reward[:, s : s + 3].sum(1) for s in start.tolist()], dim=1)
    assert torch.equal(sums.returns(start, 3), expected.double())
    # What other episodes earn changes nothing.
    other = reward.clone()
    other[:, :5], other[:, 8:] = 1e6, -1e6
    assert torch.equal(PrefixSums(other).returns(torch.tensor([5]), 3), expected[:, [3]].double())


def test_prefix_sums_keep_small_segments_after_a_million_rows() -> None:
    reward = torch.full((1, 1_000_000), 0.1)
    last = PrefixSums(reward).returns(torch.tensor([999_950]), 50).item()
    assert abs(last - 50 * float(torch.tensor(0.1))) < 1e-8  # float32 sums would be off by about 0.2


def test_both_paths_agree_with_the_slow_loop() -> None:
    model, scorer, data, query = setup(40)  # 40 x 2 x 5 = 400 rows of 300: prefix sums
    slow = slow_returns(model, data, query)
    model.rows = 0
    torch.testing.assert_close(scorer.returns(query), slow, atol=1e-5, rtol=0)
    assert model.rows == 300  # each transition once
    assert model.largest == 64
    few = Query("pair", query.start[:29], 5)  # 290 rows: direct
    model.rows = 0
    torch.testing.assert_close(scorer.returns(few), slow[:, :29], atol=1e-5, rtol=0)
    distinct = len({row for start in few.start.flatten().tolist() for row in range(start, start + 5)})
    assert distinct < 290 and model.rows == -(-distinct // 64) * 64  # each that is touched once, in whole tiles of 64
    one = Query("rating", query.start[:7, :1], 5)
    torch.testing.assert_close(scorer.returns(one), slow[:, :7, :1], atol=1e-5, rtol=0)


def test_rows_of_a_replay_that_are_empty_are_not_scored() -> None:
    """Two lanes of 1,000 rows with 20 steps each: 40 rows, by either path, whatever the capacity."""
    data = Replay(2_000, 2, 5, 2, 10)
    for step in range(20):
        last = np.full(2, step % 10 == 9)
        data.append(torch.randn(2, 5), torch.rand(2, 2), torch.randn(2, 5), np.zeros(2), np.zeros(2, bool), last)
    model = Reward(7)
    scorer = ReturnScorer(model, data, lambda: 0, tile=1)
    start = data.pool(5).start(torch.arange(24)).view(12, 2)
    assert start.max() > 1_000
    every = Query("pair", start, 5)
    slow = slow_returns(model, data, every)
    model.rows = 0
    torch.testing.assert_close(scorer.returns(every), slow, atol=1e-5, rtol=0)  # 24 x 5 steps are more than 40 rows
    assert model.rows == 40
    model.rows = 0
    torch.testing.assert_close(scorer.returns(Query("pair", start[3:5], 5)), slow[:, 3:5], atol=1e-5, rtol=0)
    assert model.rows <= 20
    data.copies.reserve(3, 5)
    kept = data.copies.keep(Query("pair", start[:2], 5), 1)  # the second and third question; the first place stays free
    scorer = ReturnScorer(model, data, lambda: 0, tile=64)
    both = Query("pair", torch.cat([start, kept.start]), 5)
    torch.testing.assert_close(scorer.returns(both), torch.cat([slow, slow[:, :2]], 1), atol=1e-5, rtol=0)


def test_an_empty_query_has_no_returns() -> None:
    _, scorer, _, query = setup(4)
    assert scorer.returns(Query("pair", query.start[:0], 5)).shape == (3, 0, 2)


def test_cache_follows_model_and_source_versions() -> None:
    model, scorer, data, query = setup(40)
    before = scorer.returns(query)
    scorer.returns(query)
    assert model.rows == 300  # the second call is answered from the cache
    model.second.neg_()
    model.version += 1
    torch.testing.assert_close(scorer.returns(query), -before)
    assert model.rows == 600
    data.write("learned_reward", torch.zeros(300))  # advances the source's version
    scorer.returns(query)
    assert model.rows == 900


def test_no_gradient_is_kept() -> None:
    model, scorer, _, query = setup(40)
    model.first.requires_grad_()
    assert not scorer.returns(query).requires_grad
    assert not scorer.returns(Query("pair", query.start[:3], 5)).requires_grad


def test_observations_are_the_rows_of_the_segments() -> None:
    _, scorer, data, query = setup(6)
    seen = scorer.observations(query)
    assert seen.shape == (6, 2, 5, 5)
    start = int(query.start[4, 1])
    assert torch.equal(seen[4, 1], data.column("obs")[start : start + 5])
