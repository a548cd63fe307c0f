"""Wrappers: rewards by hand through the ends of episodes, and those of relabelling along an episode."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import Autoreset, NormalizeObservation
from learned_reward_toys import Counter, built, pencil

from lightning_pbrl import LearnedRewardVecWrapper, LearnedRewardWrapper
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.learned_reward.episodes import RewardNormalizer
from lightning_pbrl.learned_reward.reward import LearnedReward

THREE = np.array([3.0], np.float32)  # of [0, 4]: 0.5 in [-1, 1]


def test_one_environment() -> None:
    """The reward is 10 s + a of the state before the step: 0.5, 10.5, 20.5, and 1000.5 ... in episode 1."""
    env = LearnedRewardWrapper(Counter(), pencil())
    for episode in range(2):
        obs, _ = env.reset()
        assert obs.tolist() == [100.0 * episode]
        for step in range(3):
            obs, reward, terminated, truncated, info = env.step(THREE)
            assert (reward, terminated, truncated) == (1000.0 * episode + 10.0 * step + 0.5, step == 2, False)
            assert (info["true_reward"], info["learned_reward"]) == (-3.0, reward)
    assert env.step(np.array([9.0], np.float32))[1] == 0.0  # after the end
    env.reset()
    assert env.step(np.array([9.0], np.float32))[1] == 2001.0  # an action beyond the bounds is clipped


def test_one_environment_that_resets_itself() -> None:
    env = LearnedRewardWrapper(Autoreset(Counter()), pencil(), normalize=True)
    env.reset()
    learned = [env.step(THREE)[4]["learned_reward"] for _ in range(5)]
    assert learned == [0.5, 10.5, 20.5, 0.0, 1000.5]
    assert env.normalizer is not None
    assert float(env.normalizer.statistics.count) == pytest.approx(4.0, abs=1e-3)  # the reset is not counted


def vector(mode: AutoresetMode, **settings: Any) -> Any:
    """Two environments, of which the second has a step behind it when the first begins."""
    envs = SyncVectorEnv([Counter, lambda: Counter(5)], autoreset_mode=mode)
    return LearnedRewardVecWrapper(envs, pencil(), **settings)


@pytest.mark.parametrize(
    ("mode", "learned"),
    [(AutoresetMode.NEXT_STEP, [0.5, 10.5, 20.5, 0.0, 1000.5]), (AutoresetMode.SAME_STEP, [0.5, 10.5, 20.5, 1000.5, 1010.5])],
)
def test_a_vector_of_environments(mode: AutoresetMode, learned: list[float]) -> None:
    env = vector(mode)
    env.reset(seed=0)
    for step, wanted in enumerate(learned):
        obs, reward, terminated, _, info = env.step(np.tile(THREE, (2, 1)))
        assert reward.tolist() == [wanted, wanted + 5000.0 * (wanted > 0)]
        assert info["true_reward"].tolist() == ([0.0, 0.0] if wanted == 0 else [-3.0, -3.0])
        assert info["_true_reward"].all()
        assert terminated.tolist() == [step == 2] * 2
        if step == 2:
            final = info["final_obs"][1] if mode is AutoresetMode.SAME_STEP else obs[1]
            assert (final.tolist(), obs[1].tolist()) == ([503.0], [600.0 if mode is AutoresetMode.SAME_STEP else 503.0])


def test_a_vector_that_is_reset_by_hand() -> None:
    env = vector(AutoresetMode.DISABLED)
    env.reset()
    action = np.tile(THREE, (2, 1))
    env.step(action)
    env.reset(options={"reset_mask": np.array([True, False])})
    assert env.step(action)[1].tolist() == [1000.5, 5010.5]


def test_rewards_are_standardised_by_those_before() -> None:
    """Mean 0 and variance 1 with the weight of 1e-4 rewards at first, as in VecNormalize: 0.5 stays 0.5."""
    env = vector(AutoresetMode.SAME_STEP, normalize=True)
    env.reset()
    first, second, third = (env.step(np.tile(THREE, (2, 1)))[1] for _ in range(3))
    seen = np.array([0.5, 5000.5, 10.5, 5010.5])
    np.testing.assert_allclose(first, [0.5, 10.0], rtol=1e-6)  # clipped
    np.testing.assert_allclose(second, (np.array([10.5, 5010.5]) - seen[:2].mean()) / seen[:2].std(), rtol=1e-3)
    np.testing.assert_allclose(third, (np.array([20.5, 5020.5]) - seen.mean()) / seen.std(), rtol=1e-3)
    other = vector(AutoresetMode.SAME_STEP, normalize=env.normalizer)
    env.normalizer.frozen = True
    before = env.normalizer.statistics.state_dict()["mean"].clone()
    other.reset()
    _, reward, _, _, info = other.step(np.tile(THREE, (2, 1)))
    assert info["learned_reward"].tolist() == [0.5, 5000.5]
    assert abs(reward[0] + 1.0) < 0.01
    assert torch.equal(env.normalizer.statistics.state_dict()["mean"], before)


def test_a_frozen_normaliser_begins_with_what_it_is_given() -> None:
    normalizer = RewardNormalizer()
    normalizer.statistics.load_state_dict({"mean": torch.tensor([1.0]), "var": torch.tensor([4.0]), "count": torch.tensor(9.0)})
    normalizer.frozen = True
    np.testing.assert_allclose(normalizer(np.array([1.0, 5.0], np.float32)), [0.0, 2.0], atol=1e-6)


class Walk(gymnasium.Env[Any, Any]):
    """Random observations in a dictionary of 2 and 3 numbers, episodes of 9 steps, actions in [-2, 2]."""

    observation_space = Dict({"b": Box(-9, 9, (3,), np.float64), "a": Box(-9, 9, (2,), np.float64)})
    action_space = Box(-2.0, 2.0, (2,), np.float32)

    def _seen(self) -> Any:
        return {"b": self.np_random.standard_normal(3), "a": self.np_random.standard_normal(2)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._seen(), 1.0, False, self.steps == 9, {}


@pytest.mark.parametrize("name", ["ensemble", "unified", "transformer", "lstm"])
def test_an_episode_has_the_rewards_of_relabelling(name: str) -> None:
    """Two episodes of each of two environments, recorded on the way, then relabelled."""
    method, rng = built(name), np.random.default_rng(0)
    envs = SyncVectorEnv([Walk, Walk], autoreset_mode=AutoresetMode.SAME_STEP)
    env = LearnedRewardVecWrapper(envs, LearnedReward(method))
    single = LearnedRewardWrapper(Walk(), LearnedReward(method))
    obs, _ = env.reset(seed=[3, 4])
    single.reset(seed=3)
    rows: list[tuple[Any, Any, Any]] = []
    for step in range(18):
        action = rng.uniform(-2, 2, (2, 2)).astype(np.float32)
        before = np.concatenate([obs["a"], obs["b"]], axis=1)
        obs, reward, _, _, _ = env.step(action)
        rows.append((before, action / 2, reward))
        if step < 9:
            assert single.step(action[0])[1] == pytest.approx(reward[0], abs=1e-6)
    seen, done, paid = (np.stack(column, axis=1) for column in zip(*rows, strict=True))  # (2, 18, ...)
    flat = torch.from_numpy(seen).float().reshape(-1, 5)
    data = Transitions.from_columns(flat, torch.from_numpy(done).reshape(-1, 2), flat, torch.arange(5) * 9)
    relabelled = method.relabel(data)
    assert relabelled.std() > 1e-3
    np.testing.assert_allclose(paid.reshape(-1), relabelled, atol=1e-6)


def test_environments_that_do_not_fit() -> None:
    with pytest.raises(UserError) as error:
        LearnedRewardWrapper(Walk(), pencil())
    assert str(error.value) == (
        "The environment has observations of size 5 and actions of size 2, and the reward was learned for sizes 1 and 1: give "
        "the environment that its data came from."
    )
    with pytest.raises(UserError, match=r"^The environment is a NormalizeObservation, and the reward reads raw observations"):
        LearnedRewardVecWrapper(SyncVectorEnv([lambda: NormalizeObservation(Counter())]), pencil())
    with pytest.raises(UserError, match="has the action space Discrete"):
        LearnedRewardWrapper(gymnasium.make("CartPole-v1"), pencil())
