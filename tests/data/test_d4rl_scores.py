"""Normalised scores against D4RL's reference returns."""

from __future__ import annotations

import pytest
import torch

from lightning_pbrl.data.d4rl_scores import REFERENCE_RETURNS, normalized_score, reference_returns
from lightning_pbrl.errors import UserError

SHEET = {
    "hopper-medium-expert-v2": (-20.272305, 3234.3),
    "walker2d-medium-replay-v0": (1.629008, 4592.3),
    "halfcheetah-full-replay-v2": (-280.178953, 12135.0),
    "ant-random-v2": (-325.6, 3879.7),
    "antmaze-large-diverse-v2": (0.0, 1.0),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "pen-human-v1": (96.262799, 3076.8331),
    "hammer-cloned-v0": (-274.856578, 12794.1348),
    "door-expert-v1": (-56.512833, 2880.5693),
    "relocate-human-v0": (-6.425911, 4233.8778),
    "kitchen-mixed-v0": (0.0, 4.0),
}


@pytest.mark.parametrize("name", SHEET)
def test_published_references(name):
    assert reference_returns(name) == pytest.approx(SHEET[name], rel=1e-6)


@pytest.mark.parametrize("name", REFERENCE_RETURNS)
def test_random_is_0_and_expert_100(name):
    low, high = REFERENCE_RETURNS[name]
    assert normalized_score(name, low) == 0.0
    assert normalized_score(name, high) == pytest.approx(100.0)
    assert normalized_score(name, (low + high) / 2) == pytest.approx(50.0)


def test_the_hand_worked_score_of_a_return_and_of_a_tensor():
    # hopper: 100 (1000 + 20.272305) / (3234.3 + 20.272305) = 102027.2305 / 3254.572305
    assert normalized_score("hopper", 1000.0) == pytest.approx(31.34889, abs=1e-5)
    assert normalized_score("kitchen-partial", torch.tensor([0.0, 1.0, 5.0])).tolist() == [0.0, 25.0, 125.0]


def test_data_sets_of_the_papers_tables_are_known():
    for task in ("hopper", "walker2d", "halfcheetah", "ant"):
        for quality in ("random", "medium", "expert", "medium-replay", "medium-expert"):
            assert f"{task}-{quality}" in REFERENCE_RETURNS
    assert {"antmaze-umaze", "antmaze-medium-play", "antmaze-medium-diverse", "antmaze-large-play"} <= set(REFERENCE_RETURNS)


@pytest.mark.parametrize(
    ("name", "near"),
    [("hoper-medium-v2", "hopper-medium"), ("antmaze-medium-plai", "antmaze-medium-play"), ("Hopper-v5", "did you mean hopper")],
)
def test_unknown_tasks_name_the_nearest(name, near):
    with pytest.raises(UserError, match=f"no reference returns for '{name}'; .*{near}"):
        normalized_score(name, 1.0)
