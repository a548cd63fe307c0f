"""IPL's comparisons on real Meta-World physics, few and short."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.metaworld_comparisons import KINDS, MetaWorldComparisonsDataModule, compare
from lightning_pbrl.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MetaWorldComparisonsDataModule:
    folder = tmp_path_factory.mktemp("comparisons")
    module = MetaWorldComparisonsDataModule(
        "drawer-open", capacity=30, comparisons=60, held_out=20, episodes=12, horizon=60, cache_dir=str(folder)
    )
    module.setup("fit")
    return module


def test_first_comparisons_are_given_and_the_last_held_out(data: MetaWorldComparisonsDataModule) -> None:
    given, kept = data.labels, data.held_out_labels
    assert given is not None and kept is not None and len(given) == 30 and len(kept) == 20 and given.length == 25
    first_40 = MetaWorldComparisonsDataModule(
        "drawer-open", capacity=40, comparisons=60, held_out=20, episodes=12, horizon=60, cache_dir=data.cache_dir
    )
    first_40.setup("fit")
    assert first_40.path == data.path and first_40.labels is not None
    assert torch.equal(first_40.labels.start[:30], given.start)
    of = data.source.episodes.of
    assert torch.equal(of(given.start), of(given.start + 24))  # a segment lies within one episode


def test_answers_compare_discounted_returns_step_by_step(data: MetaWorldComparisonsDataModule) -> None:
    labels, reward = data.labels, data.source.reward
    assert labels is not None
    for (first, second), value in zip(labels.start.tolist(), labels.value.tolist(), strict=True):
        one, two = (sum(0.99**t * float(reward[row + t]) for t in range(25)) for row in (first, second))
        assert value == float(one < two)


def test_early_reward_counts_more_and_ties_are_equal() -> None:
    reward = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    zeros = torch.zeros(6, 1)
    source = Transitions.from_columns(zeros, zeros, zeros, torch.tensor([0, 6]), reward=reward)
    labels = compare(source, torch.tensor([[0, 2], [2, 0], [0, 4]]), 2, 0.9)  # returns: 1, 0.9, 1
    assert labels.value.tolist() == [0.0, 1.0, 0.5]
    assert labels.status.tolist() == [Status.ANSWERED, Status.ANSWERED, Status.EQUAL]


def test_goal_is_hidden_and_four_kinds_are_drawn(data: MetaWorldComparisonsDataModule) -> None:
    assert (data.source.column("obs")[:, -3:] == 0).all()
    assert len(data.source.about["mixture"]) == len(KINDS) == 4
    assert [kind["twin"] for kind in data.source.about["mixture"] if "twin" in kind] == ["goal", "task"]


@pytest.mark.parametrize("wrong", [{"capacity": 50}, {"capacity": 0}, {"held_out": 60}, {"held_out": -1}])
def test_more_than_there_are_is_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    settings = {"capacity": 30, "comparisons": 60, "held_out": 20, **wrong}
    words = r"lower data\.capacity or data\.held_out, or raise data\.comparisons|give a number of at least"
    with pytest.raises(UserError, match=words):
        MetaWorldComparisonsDataModule("drawer-open", cache_dir=str(tmp_path), **settings)
