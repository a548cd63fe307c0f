"""A learned reward as a function: what relabelling gives, whatever is asked at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learned_reward_toys import HISTORY, MARKOV, SPEC, built, pencil
from synthetic import synthetic_transitions

import lightning_pbrl
from lightning_pbrl.errors import UserError
from lightning_pbrl.learned_reward.reward import LearnedReward
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.mr_iql import MRIQL


@pytest.mark.parametrize("name", MARKOV)
def test_it_is_the_reward_of_relabelling(name: str) -> None:
    """All rows at once, row by row, as arrays and as tensors."""
    method, data = built(name), synthetic_transitions(episodes=3)
    relabelled = method.relabel(data).numpy()
    assert relabelled.std() > 0
    reward, obs, action = LearnedReward(method), data.column("obs"), data.column("action")
    assert reward.looks_back == 1
    np.testing.assert_allclose(reward.compute_reward(obs.numpy(), action.double().numpy()), relabelled, atol=1e-6)
    np.testing.assert_allclose(reward.compute_reward(obs.view(3, 30, 5), action.view(3, 30, 2)).flatten(), relabelled, atol=1e-6)
    single = [reward.compute_reward(s, a) for s, a in zip(obs.numpy(), action.numpy(), strict=True)]
    assert np.shape(single[0]) == ()
    np.testing.assert_allclose(single, relabelled, atol=1e-6)


@pytest.mark.parametrize("name", HISTORY)
def test_one_that_looks_back_reads_an_episode(name: str) -> None:
    method, data = built(name), synthetic_transitions(episodes=3, length=10)
    relabelled = method.relabel(data)
    reward, obs, action = LearnedReward(method), data.column("obs"), data.column("action")
    assert reward.looks_back == method.reward_model.hparams.window
    np.testing.assert_allclose(reward.compute_reward(obs.view(3, 10, 5), action.view(3, 10, 2)).flatten(), relabelled, atol=1e-6)
    np.testing.assert_allclose(reward.compute_reward(obs[:10], action[:10]), relabelled[:10], atol=1e-6)
    np.testing.assert_allclose(reward.compute_reward(obs[0], action[0]), relabelled[0], atol=1e-6)
    last = reward.of_last([(obs[:3], action[:3]), (obs[10:20], action[10:20])])
    np.testing.assert_allclose(last, relabelled[[2, 19]], atol=1e-6)


def test_by_hand() -> None:
    reward = pencil()
    assert reward.compute_reward([[1.0], [2.0]], [[0.5], [-1.0]]).tolist() == [10.5, 19.0]
    assert reward.compute_reward(np.zeros((0, 1)), np.zeros((0, 1))).shape == (0,)
    assert reward.compute_reward(torch.tensor([3.0]), torch.tensor([0.0])).item() == 30.0


def test_a_method_that_is_a_reward_itself() -> None:
    method, data = MRIQL(SPEC, hidden=(8, 8)), synthetic_transitions(episodes=2)
    method.configure_model()
    relabelled = method.relabel(data)
    reward = LearnedReward(method)
    assert (reward.looks_back, reward.model) == (1, method)
    np.testing.assert_allclose(reward.compute_reward(data.column("obs"), data.column("action")), relabelled.detach(), atol=1e-6)


def test_mistakes_are_told() -> None:
    reward = LearnedReward(built("ensemble"))
    obs, action = np.zeros((3, 5)), np.zeros((3, 2))
    for arguments, sentence in (
        ((obs, action, np.zeros((3, 8, 8, 3))), "compute_reward was given frames, and this reward was learned of observations"),
        ((obs[:, :4], action), r"obs is (3, 4) and the reward was learned for obs_dim 5: give (..., 5)."),
        ((obs, np.float32(0)), r"action is () and the reward was learned for action_dim 2: give (..., 2)."),
        ((obs, action[:2]), r"obs is (3, 5) and action (2, 2): give one action per observation."),
        ((obs + np.nan, action), "obs is NaN or infinite, so its reward is: look at the environment"),
        ((obs, action + np.nan), "action is NaN or infinite"),
        ((obs + np.inf, action), "obs is NaN or infinite"),
        ((obs, action + 1.5), "action reaches 1.5, and rewards are learned of actions in [-1, 1]: scale actions"),
    ):
        with pytest.raises(UserError) as error:
            reward.compute_reward(*arguments)
        assert str(error.value).startswith(sentence)
    with pytest.raises(UserError, match=r"^BC learns a policy, not a reward: give a run or a checkpoint of a reward model\.$"):
        LearnedReward(BC(SPEC))


def test_the_front_door() -> None:
    from lightning_pbrl.learned_reward.loading import load

    assert lightning_pbrl.rewards.load is load
    with pytest.raises(AttributeError, match=r"module 'lightning_pbrl\.rewards' has no attribute 'lode'"):
        lightning_pbrl.rewards.lode  # noqa: B018
