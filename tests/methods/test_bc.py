"""Behaviour cloning of all episodes and of the best ones."""

from __future__ import annotations

import pytest
import torch
from toys import ToyData, make_trainer

from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC

SMALL = {"updates": 2, "eval_interval": 2, "hidden": (8,), "batch_size": 64}


def four_episodes(reward: list[float]) -> Transitions:
    """Episodes of 2, 3, 1 and 2 steps; the fifth row may not be drawn."""
    obs = torch.arange(8.0)[:, None]
    drawable = torch.tensor([0, 1, 2, 3, 5, 6, 7])
    table = Transitions.from_columns(obs, obs, obs, torch.tensor([0, 2, 5, 6, 8]), drawable=drawable)
    table.write("learned_reward", torch.tensor(reward))
    return table


def best(reward: list[float], top: float) -> list[int]:
    method = BC({"obs_dim": 1, "action_dim": 1, "horizon": 3}, top=top)
    method.source = four_episodes(reward)
    return method.best_rows().tolist()


def test_the_best_episodes_by_return():
    reward = [1.0, 1.0, 2.0, -1.0, 9.0, 3.0, 0.0, 0.5]  # returns 2, 1 (9 is not drawable), 3, 0.5
    assert best(reward, 0.25) == [5]
    assert best(reward, 0.26) == [0, 1, 5]  # a share is rounded up: never none
    assert best(reward, 0.75) == [0, 1, 2, 3, 5]


def test_of_equal_returns_the_earlier_episode():
    assert best([0.0] * 8, 0.5) == [0, 1, 2, 3]


def test_nothing_but_the_best_is_drawn(tmp_path):
    data = ToyData()
    method = BC(data.spec, top=0.2, **SMALL)
    make_trainer(tmp_path, [RelabelRewards("true")]).fit(method, data)
    returns = torch.stack([part.sum() for part in data.source.reward.split(data.source.episodes.lengths.tolist())])
    drawn = torch.cat([one["rows"] for one in method.running.drawn("policy", 50, 0)]).unique()
    assert set(data.source.episodes.of(drawn).tolist()) == set(returns.topk(4).indices.tolist())  # 4 of 20 episodes


def test_without_a_reward_it_says_so(tmp_path):
    data = ToyData()
    with pytest.raises(UserError, match=r"top=0.2 ranks episodes by their reward .* set relabel.reward"):
        make_trainer(tmp_path).fit(BC(data.spec, top=0.2, **SMALL), data)


@pytest.mark.parametrize("top", [0.0, 1.1, -1])
def test_a_share(top):
    with pytest.raises(UserError, match="above 0 and at most 1"):
        BC({"obs_dim": 1, "action_dim": 1, "horizon": 3}, top=top)
