"""The pre-training reward against distances worked out by hand and a slow loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_pbrl.nn.state_entropy import StateEntropy, nearest_distance, smallest


def slow(obs: Tensor, bank: Tensor, k: int) -> Tensor:
    return torch.stack([torch.stack([(x - y).square().sum().sqrt() for y in bank]).sort().values[k] for x in obs])


def test_distance_by_hand() -> None:
    """Stored 0, 1, 3, 7 on a line. From 0: 0, 1, 3, 7; from 3: 0, 2, 3, 4; from 5 (not stored): 2, 2, 4, 5."""
    bank, obs = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([[0.0], [3.0], [5.0]])
    for k, expected in ((0, [0, 0, 2]), (1, [1, 2, 2]), (2, [3, 3, 4]), (3, [7, 4, 5])):
        assert nearest_distance(obs, [bank], k).tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
def test_chunks_and_pieces_change_nothing(chunk: int) -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 9, generator=rng) * 3 + 20  # far from the origin: centring is needed
    bank = rows[:, 2:7]  # a view of packed rows
    obs = bank[torch.randint(200, (16,), generator=rng)]
    whole = slow(obs, bank, 5)
    torch.testing.assert_close(nearest_distance(obs, [bank], 5, chunk), whole, rtol=1e-4, atol=1e-4)
    pieces = [bank[:3], bank[3:50], bank[50:]]
    torch.testing.assert_close(nearest_distance(obs, pieces, 5, chunk), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [1, 5, 39, 40, 47, 48, 1_001])
def test_smallest_are_those_of_a_sort(n: int) -> None:
    values = torch.randint(30, (7, n), generator=torch.Generator().manual_seed(n)).float()  # with many ties
    found = smallest(values, 4).sort(1).values
    assert torch.equal(found, values.sort(1).values[:, :4])


def test_near_duplicates_are_never_negative_or_nan() -> None:
    bank = torch.full((20, 4), 1000.0) + 1e-3 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(nearest_distance(bank, [bank], 3)).all()
    assert nearest_distance(bank[:1].expand(5, 4), [bank[:1].expand(9, 4)], 3).tolist() == [0.0] * 5


def test_too_few_stored_rows_are_infinitely_far() -> None:
    bank = torch.tensor([[0.0], [1.0]])
    assert nearest_distance(bank, [bank], 1).tolist() == pytest.approx([1.0, 1.0])
    assert nearest_distance(bank, [bank], 2).isinf().all()


def test_nothing_is_copied() -> None:
    """The bank is read through a view: what is written to the rows is seen."""
    rows = torch.zeros(5, 3)
    bank = [rows[:, :1]]
    rows[:, 0] = torch.tensor([0.0, 2.0, 4.0, 8.0, 16.0])
    assert nearest_distance(torch.tensor([[0.0]]), bank, 2).item() == pytest.approx(4.0)


def statistics(batches: list[Tensor], reference_mean: bool) -> tuple[float, float, float]:
    """The merge of the released code, written out: count, mean and variance from 1e-4, 0 and 1."""
    count, mean, var = 1e-4, 0.0, 1.0
    for batch in batches:
        n = len(batch)
        b_mean, b_var, total = float(batch.mean()), float(batch.var()), count + n
        delta = b_mean - mean
        mean = mean + delta + n / total if reference_mean else mean + delta * n / total
        var = (var * count + b_var * n + delta**2 * count * n / total) / total
        count = total
    return count, mean, var


@pytest.mark.parametrize("reference_mean", [False, True])
def test_running_statistics_equal_the_written_out_merge(reference_mean: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    batches = [torch.rand(8, generator=rng) * s for s in (1.0, 5.0, 2.0)]
    entropy = StateEntropy(reference_mean=reference_mean)
    for batch in batches:
        entropy.update(batch)
    count, mean, var = statistics(batches, reference_mean)
    assert [entropy.count.item(), entropy.mean.item(), entropy.var.item()] == pytest.approx([count, mean, var], rel=1e-5)


def test_the_released_mean_inflates_the_variance() -> None:
    """By hand, batches (0, 2) and (0, 2): the right mean is 1; theirs is 2 and then 1 + .5, so that the variance rises."""
    right, released = StateEntropy(), StateEntropy(reference_mean=True)
    batch = torch.tensor([0.0, 2.0])
    for entropy in (right, released):
        entropy.update(batch)
        entropy.update(batch)
    # (2 * 2 + 2 * 2 + delta^2 * 2 * 2 / 4) / 4 with delta = 0 and, theirs, 1 - 2
    assert right.var.item() == pytest.approx(2.0, rel=1e-3) and right.mean.item() == pytest.approx(1.0, rel=1e-3)
    assert released.var.item() == pytest.approx(2.25, rel=1e-3) and released.mean.item() == pytest.approx(1.5, rel=1e-3)


def test_reward_is_the_distance_over_its_running_deviation() -> None:
    """Stored 0, 1, 3; from 0 and 3 the second nearest are 1 and 2 away: unbiased variance .5, mean not taken off."""
    bank, obs = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [3.0]])
    entropy = StateEntropy(k=1)
    reward = entropy(obs, [bank])
    assert reward.tolist() == pytest.approx([1 / math.sqrt(0.5), 2 / math.sqrt(0.5)], rel=1e-3)
    state = entropy.state_dict()
    assert set(state) == {"mean", "var", "count"} and state["count"].item() == pytest.approx(2.0001)


def test_states_that_are_all_the_same_pay_nothing() -> None:
    same = torch.zeros(8, 2)
    assert StateEntropy(k=2)(same, [same]).tolist() == [0.0] * 8
