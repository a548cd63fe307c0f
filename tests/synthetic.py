"""One small data set with a known reward, for every test that needs data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_pbrl.data.transitions import Transitions


def true_reward(obs: Tensor, action: Tensor) -> Tensor:
    """r(s, a) = tanh(s_0 + s_1 / 2) - |a|^2 / 10: (..., O), (..., A) -> (...,)."""
    return torch.tanh(obs[..., 0] + 0.5 * obs[..., 1]) - 0.1 * action.square().sum(-1)


def synthetic_transitions(
    episodes: int = 20, length: int = 30, obs_dim: int = 5, action_dim: int = 2, seed: int = 0
) -> Transitions:
    """Random walks pulled to the origin, pushed by uniform actions in [-1, 1], rewarded by :func:`true_reward`.

    Every episode has ``length`` steps and ends at its time limit; a step succeeds when its reward is above 1/2.
    """
    rng = torch.Generator().manual_seed(seed)
    action = torch.rand(episodes, length, action_dim, generator=rng) * 2 - 1
    push = torch.randn(action_dim, obs_dim, generator=rng) / math.sqrt(action_dim)
    noise = 0.3 * torch.randn(episodes, length, obs_dim, generator=rng)
    state = torch.randn(episodes, obs_dim, generator=rng)
    states = [state]
    for step in range(length):
        state = 0.9 * state + 0.3 * action[:, step] @ push + noise[:, step]
        states.append(state)
    path = torch.stack(states, dim=1)  # (episodes, length + 1, O)
    obs, next_obs = path[:, :-1].reshape(-1, obs_dim), path[:, 1:].reshape(-1, obs_dim)
    action = action.reshape(-1, action_dim)
    reward = true_reward(obs, action)
    truncated = torch.zeros(episodes, length)
    truncated[:, -1] = 1.0
    return Transitions.from_columns(
        obs,
        action,
        next_obs,
        torch.arange(episodes + 1) * length,
        reward=reward,
        truncated=truncated.reshape(-1),
        success=reward > 0.5,
        about={"task": "synthetic", "seed": seed, "horizon": length},
    )
