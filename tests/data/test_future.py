"""Futures are drawn as the formula says: frequencies against exact probabilities, and what cannot be drawn from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_pbrl.data.future import Futures
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine.draws import Streams, block_dependent, updates_of
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import stream


def table(lengths: list[int], drawable: list[int] | None = None) -> Transitions:
    """Episodes of these lengths; every observation is its row number."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    obs = torch.arange(int(offsets[-1])).float()[:, None]
    known = None if drawable is None else torch.tensor(drawable)
    return Transitions.from_columns(obs, obs, obs + 1, offsets, drawable=known)


def exact(lengths: list[int], discount: float) -> Tensor:
    """P(t, j), (N, N): an episode, a step of it, then the truncated geometric law, written as loops."""
    total = sum(lengths)
    law = torch.zeros(total, total, dtype=torch.float64)
    first = 0
    for length in lengths:
        for t in range(length):
            weights = [discount**k for k in range(length - t)]
            for k, weight in enumerate(weights):
                law[first + t, first + t + k] = weight / sum(weights) / length / len(lengths)
        first += length
    return law


@pytest.mark.parametrize("discount", [0.05, 0.5, 0.9, 0.99, 0.9999])
def test_frequencies_are_the_exact_probabilities(discount: float) -> None:
    """Chi-square over all pairs (t, j) of ragged episodes that are expected at least 5 times; 4.4 standard deviations."""
    lengths, draws = [4, 1, 7], 60_000
    sampler = Futures(table(lengths), discount)
    row, future = sampler.draw(torch.rand(draws, 3, generator=stream(7, "test"), dtype=torch.float64))
    assert (future >= row).all()
    expected = draws * exact(lengths, discount)
    seen = torch.zeros_like(expected).index_put_((row, future), torch.ones(draws, dtype=torch.float64), accumulate=True)
    assert seen[expected == 0].sum() == 0
    common = expected >= 5
    chi2 = ((seen - expected)[common].square() / expected[common]).sum()
    freedom = int(common.sum()) - 1
    assert freedom >= 13 and chi2 < freedom + 4.4 * (2 * freedom) ** 0.5


def test_inverse_distribution_function_by_hand() -> None:
    """Three futures at discount 1/2: probabilities 4/7, 2/7, 1/7, so u = 4/7 and 6/7 are the borders."""
    sampler = Futures(table([3]), 0.5)
    third = torch.tensor([0.0, 0.570, 0.573, 0.856, 0.858, 1 - 2**-53], dtype=torch.float64)
    u = torch.stack([torch.zeros(6), torch.zeros(6), third], dim=1)
    assert sampler.draw(u)[1].tolist() == [0, 0, 1, 1, 2, 2]


def test_long_episodes_and_strong_discounts_do_not_underflow() -> None:
    sampler = Futures(table([100_000]), 0.3)
    row, future = sampler.draw(torch.rand(10_000, 3, generator=stream(0, "long"), dtype=torch.float64))
    assert (future - row).double().mean().item() == pytest.approx(0.3 / 0.7, abs=0.03)
    assert future.max() < 100_000


def test_an_unlimited_future_has_the_laws_mean() -> None:
    row, future = Futures(table([1_000_000]), 0.99).draw(torch.rand(20_000, 3, generator=stream(1, "long"), dtype=torch.float64))
    assert (future - row).double().mean().item() == pytest.approx(99, abs=3)


def test_rows_without_a_next_observation_are_neither_step_nor_future() -> None:
    sampler = Futures(table([3, 4], drawable=[0, 1, 3, 4, 5]), 0.9)
    row, future = sampler.draw(torch.rand(2_000, 3, generator=stream(2, "test"), dtype=torch.float64))
    assert set(row.tolist()) == set(future.tolist()) == {0, 1, 3, 4, 5}


@pytest.mark.parametrize("blocks", [[14], [1] * 14, [2] * 7, [7, 7]])
def test_an_update_draws_its_own_pairs_in_whatever_block(blocks: list[int]) -> None:
    """Three uniform numbers per pair, one pair after the other, each taken by itself as :meth:`Futures.draw` takes it."""
    futures, streams = Futures(table([4, 1, 7]), 0.9, size=5), Streams(3)
    found: list[tuple[Tensor, Tensor]] = []
    for updates in blocks:
        found += [each["step"] for each in updates_of(streams.block({"step": futures}, updates, len(found)), updates)]
    rng = stream(3, "step")
    for row, future in found:
        assert row.shape == future.shape == (5,) and row.dtype == future.dtype == torch.int64
        expected = [futures.draw(torch.rand(3, generator=rng, dtype=torch.float64)) for _ in range(5)]
        assert row.tolist() == [int(t) for t, _ in expected] and future.tolist() == [int(j) for _, j in expected]
    assert block_dependent({"step": futures}) is None


def test_another_seed_draws_other_pairs() -> None:
    futures = Futures(table([400, 700]), 0.9, size=20)
    one, two = (Streams(seed).block({"step": futures}, 1)["step"][0] for seed in (3, 4))
    assert not torch.equal(one, two)


def test_everything_runs_on_the_datas_device() -> None:
    """Data on the device without storage: whatever stayed on the CPU would be refused beside them, or come out there."""
    sampler = Futures(table([3, 5]).to("meta"), 0.9)
    row, future = sampler.draw(torch.rand(6, 4, 3, dtype=torch.float64, device="meta"))
    assert row.is_meta and future.is_meta and row.shape == future.shape == (6, 4)


@pytest.mark.parametrize("discount", [0.0, 1.0, -0.5, 1.5])
def test_discounts_outside(discount: float) -> None:
    with pytest.raises(UserError, match="give one between 0 and 1"):
        Futures(table([3]), discount)


def test_zero_length_futures_are_told() -> None:
    with pytest.raises(UserError, match=r"2 of 3 episodes \(number 1 is the first\) have no step with a known next observation"):
        Futures(table([2, 2, 1], drawable=[0, 1]), 0.9)


def test_a_gap_within_an_episode_is_told() -> None:
    with pytest.raises(UserError, match=r"Episode 1 has a step whose next observation is not known between .* split the episode"):
        Futures(table([2, 3], drawable=[0, 1, 2, 4]), 0.9)


def test_the_former_name_works_and_warns() -> None:
    with pytest.warns(FutureWarning, match="FutureSampler is now called Futures"):
        from lightning_pbrl.data.future import FutureSampler
    assert FutureSampler is Futures
