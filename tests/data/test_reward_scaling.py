"""Scales of a relabelled reward by hand, and windows against a slow loop."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.relabel import predict_window_reward, windows
from lightning_pbrl.data.reward_scaling import rescale
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError

REWARD = torch.tensor([1.0, 3.0, 2.0, 0.0, 1.0, 5.0, 5.0])
OFFSETS = [0, 2, 5, 7]  # returns 4, 3, 10


def table(offsets: list[int] = OFFSETS, drawable: Tensor | None = None, reward: Tensor | None = REWARD) -> Transitions:
    n = offsets[-1]
    obs = torch.arange(1.0, 2 * n + 1).view(n, 2)
    return Transitions.from_columns(obs, -obs[:, :1] / 100, obs, torch.tensor(offsets), reward, drawable=drawable)


def test_min_max_by_hand() -> None:
    assert rescale(REWARD, table(), "min_max").tolist() == pytest.approx([0.2, 0.6, 0.4, 0.0, 0.2, 1.0, 1.0])


def test_return_range_by_hand() -> None:
    expected = [r * 1000 / (10 - 3) for r in REWARD.tolist()]
    assert rescale(REWARD, table(), "return_range").tolist() == pytest.approx(expected)
    half = [r * 500 / (10 - 3) for r in REWARD.tolist()]
    assert rescale(REWARD, table(), "return_range", horizon=500).tolist() == pytest.approx(half)


def test_antmaze_by_hand() -> None:
    steps = [2, 2, 3, 3, 3, 2, 2]  # of the episode of each row; the smallest return is 3
    expected = [(r - 3 / T) * 1000 / 7 - 1 for r, T in zip(REWARD.tolist(), steps, strict=True)]
    scaled = rescale(REWARD, table(), "antmaze")
    assert scaled.tolist() == pytest.approx(expected)
    assert scaled[2:5].sum().item() == pytest.approx(-3)  # the worst episode: 0 before -1 is added to its three steps


def test_clips_that_were_only_judged_do_not_count() -> None:
    """The last two episodes hold drawable rows, one of them a single one; returns 3 and 10 without the first."""
    drawable = torch.tensor([3, 5, 6])
    first = torch.cat([torch.tensor([100.0, 100.0]), REWARD[2:]])
    expected = [r * 1000 / 7 for r in first.tolist()]
    assert rescale(first, table(drawable=drawable), "return_range").tolist() == pytest.approx(expected)


def test_a_constant_reward_has_no_scale() -> None:
    for how in ("min_max", "return_range", "antmaze"):
        assert rescale(torch.full((7,), 2.0), table(), how).tolist() == [0.0] * 7  # type: ignore[arg-type]


def test_equal_returns_leave_no_range() -> None:
    reward = torch.tensor([1.0, 2.0, 2.0, 1.0])
    with pytest.raises(UserError, match=r"normalize=return_range has no range to divide by: use relabel\.normalize=true"):
        rescale(reward, table([0, 2, 4], reward=None), "return_range")


def test_options_of_the_callback() -> None:
    def relabelled(**options: object) -> list[float]:
        source = table()
        callback = RelabelRewards("true", **options)  # type: ignore[arg-type]
        callback.on_fit_start(None, SimpleNamespace(source=source, device=torch.device("cpu"), seed=0))  # type: ignore[arg-type]
        return source.column("learned_reward").tolist()

    assert relabelled(normalize=False, bonus=0.5) == (REWARD + 0.5).tolist()
    assert relabelled(normalize="return_range", bonus=0.5) == pytest.approx([r * 1000 / 7 + 0.5 for r in REWARD.tolist()])
    assert relabelled(normalize="antmaze", horizon=7) == pytest.approx(rescale(REWARD, table(), "antmaze", 7).tolist())


# Windows ---------------------------------------------------------------------------------------------------------------


def slow_window(source: Transitions, row: int, length: int) -> tuple[list[list[float]], list[int]]:
    """Step by step: backwards to the beginning of the episode, then zeros."""
    offsets = source.episodes.offsets.tolist()
    steps: list[list[float]] = []
    while len(steps) < length and row >= 0:
        steps.insert(0, source.features()[row].tolist())
        if row in offsets:
            break
        row -= 1
    padding = length - len(steps)
    return [[0.0] * 3] * padding + steps, [0] * padding + list(range(1, len(steps) + 1))


@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_windows_against_a_slow_loop(length: int) -> None:
    source = table([0, 2, 9, 10, 14], reward=None)
    rows = torch.tensor([13, 0, 1, 2, 8, 9, 11])
    begin = source.episodes.offsets[source.episodes.of(rows)]
    features, time = windows(source, rows, begin, length)
    for k, row in enumerate(rows.tolist()):
        expected, expected_time = slow_window(source, row, length)
        assert features[k].tolist() == expected
        assert time[k].tolist() == expected_time


@pytest.mark.parametrize("tile", [1, 3, None])
def test_every_row_gets_its_own_window(tile: int | None) -> None:
    """A reward that counts steps and adds first and last state: no episode leaks into the next."""
    source = table([0, 2, 9, 10, 14], reward=None)
    sizes = []

    def reward(features: Tensor, time: Tensor | None) -> Tensor:
        sizes.append(len(features))
        count = torch.full((len(features),), 3.0) if time is None else time.amax(1).float()
        return 1000 * count + features[:, 0, 0] + features[:, -1, 0]

    expected = []
    for row in range(14):
        window, time = slow_window(source, row, 3)
        expected.append(1000.0 * max(time) + window[0][0] + window[-1][0])
    assert predict_window_reward(source, reward, 3, tile=tile).tolist() == expected
    some = torch.tensor([5, 13, 2])
    assert predict_window_reward(source, reward, 3, some, tile).tolist() == [expected[k] for k in (5, 13, 2)]
    assert tile is None or max(sizes) == tile
