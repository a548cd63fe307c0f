"""stable-baselines3 on a learned reward: rewards through its vectors of environments, and PPO and SAC that train on them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from learned_reward_toys import Counter, built, pencil

from lightning_pbrl import LearnedRewardVecWrapper, LearnedRewardWrapper
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.learned_reward.reward import LearnedReward

sb3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

PENDULUM = {"obs_dim": 3, "action_dim": 1, "horizon": 200}


def test_the_end_of_an_episode() -> None:
    """The last step has the reward of the state before it, beside the first observation of the next episode."""
    env = LearnedRewardVecWrapper(DummyVecEnv([Counter, lambda: Counter(5)]), pencil())
    assert isinstance(env, sb3.common.vec_env.VecEnv)
    env.reset()
    for step, wanted in enumerate([0.5, 10.5, 20.5, 1000.5]):
        obs, reward, done, info = env.step(np.full((2, 1), 3.0, np.float32))
        assert reward.tolist() == [wanted, wanted + 5000.0]
        assert [each["true_reward"] for each in info] == [-3.0, -3.0]
        assert [each["learned_reward"] for each in info] == reward.tolist()
        assert done.tolist() == [step == 2] * 2
        if step == 2:
            assert (info[1]["terminal_observation"].tolist(), obs[1].tolist()) == ([503.0], [600.0])


def test_normalised_observations_are_refused_and_may_be_around() -> None:
    venv = DummyVecEnv([Counter])
    with pytest.raises(UserError, match=r"^The environment is a VecNormalize, .*: put VecNormalize around the wrapper\.$"):
        LearnedRewardVecWrapper(VecNormalize(venv), pencil())
    assert LearnedRewardVecWrapper(VecNormalize(venv, norm_obs=False), pencil()).reset().tolist() == [[0.0]]
    outside = VecNormalize(LearnedRewardVecWrapper(venv, pencil()), norm_reward=False)
    outside.reset()
    assert outside.step(np.full((1, 1), 3.0, np.float32))[1].tolist() == [1000.5]


class Recorder(sb3.common.vec_env.VecEnvWrapper):
    """Keeps the observations before each step, the actions and what was paid."""

    def __init__(self, venv: Any) -> None:
        super().__init__(venv)
        self.rows: list[tuple[Any, Any, Any]] = []

    def reset(self) -> Any:
        self.obs = self.venv.reset()
        return self.obs

    def step_async(self, actions: Any) -> None:
        self.actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        obs, reward, done, info = self.venv.step_wait()
        self.rows.append((self.obs, self.actions / 2.0, reward.copy()))  # torques of [-2, 2]; PPO adds to rewards
        self.obs = obs
        return obs, reward, done, info


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ensemble", "unified", "transformer"])
def test_ppo_learns_from_the_rewards_of_relabelling(name: str) -> None:
    """512 steps of two environments, which are more than two episodes: every reward equals that of relabelling."""
    method = built(name, PENDULUM)
    venv = DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * 2)
    env = Recorder(LearnedRewardVecWrapper(venv, LearnedReward(method)))
    model = sb3.PPO("MlpPolicy", env, n_steps=128, batch_size=64, n_epochs=1, seed=0, device="cpu")
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(512 * 2)
    assert any(not torch.equal(p, q) for p, q in zip(before, model.policy.parameters(), strict=True))
    seen, done, paid = (np.stack(column, axis=1) for column in zip(*env.rows, strict=True))
    ends = [0, 200, 400, seen.shape[1]]
    flat = torch.from_numpy(seen.reshape(-1, 3))
    offsets = torch.tensor([*ends[:-1], *(seen.shape[1] + end for end in ends)])
    data = Transitions.from_columns(flat, torch.from_numpy(done.reshape(-1, 1)), flat, offsets)
    relabelled = method.relabel(data)
    assert relabelled.std() > 1e-3
    np.testing.assert_allclose(paid.reshape(-1), relabelled, atol=1e-6)


@pytest.mark.slow
def test_sac_learns_from_a_learned_reward() -> None:
    env = LearnedRewardWrapper(gymnasium.make("Pendulum-v1"), LearnedReward(built("unified", PENDULUM)))
    model = sb3.SAC("MlpPolicy", env, learning_starts=100, batch_size=32, seed=0, device="cpu", policy_kwargs={"net_arch": [16]})
    model.learn(300)
    kept = model.replay_buffer
    reward = LearnedReward(built("unified", PENDULUM)).compute_reward(kept.observations[:300, 0], kept.actions[:300, 0])
    np.testing.assert_allclose(kept.rewards[:300, 0], reward, atol=1e-6)
    assert model._n_updates == 200
