"""Small reward models with first weights, and an environment that can be followed with a pencil."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from lightning_pbrl.learned_reward.reward import LearnedReward
from lightning_pbrl.methods.learn_reward import NMR, LearnReward, PreferenceTransformer, RewardEnsemble, UnifiedReward
from lightning_pbrl.rewards.base import RewardModel, chosen

SPEC = {"obs_dim": 5, "action_dim": 2, "horizon": 30}
MARKOV: dict[str, tuple[type[LearnReward], dict[str, Any]]] = {
    "ensemble": (RewardEnsemble, {"hidden": (8, 8), "normalize_obs": True}),
    "pessimist": (RewardEnsemble, {"hidden": (8,), "aggregate": "mean_minus_std"}),
    "unified": (UnifiedReward, {"hidden": (8,), "ensemble_size": 2, "posterior": "ensemble"}),
}
HISTORY: dict[str, tuple[type[LearnReward], dict[str, Any]]] = {
    "transformer": (PreferenceTransformer, {"width": 8, "heads": 2, "attention_dim": 8, "window": 4}),
    "lstm": (NMR, {"width": 8, "window": 6}),
}


def built(name: str, spec: dict[str, int] = SPEC) -> LearnReward:
    """A method with the first weights of seed 0, and statistics of observations that are not those of standard ones."""
    cls, settings = {**MARKOV, **HISTORY}[name]
    method = cls(spec, **settings)
    method.configure_model()
    if settings.get("normalize_obs"):
        method.reward_model.normalizer.fit(
            3.0 + 2.0 * torch.randn(100, spec["obs_dim"], generator=torch.Generator().manual_seed(1))
        )
    return method


class _Sum(RewardModel):
    """Reward 10 s + a of a state and an action of one number each: what a pencil can follow."""

    def build(self) -> None:
        self.weight = nn.Parameter(torch.tensor([[10.0], [1.0]]))

    def groups(self) -> dict[str, Any]:
        return {}

    def programs(self) -> dict[str, Any]:
        return {}

    def plan(self, round_number: int) -> list[Any]:
        return []

    def reward(self, features: Tensor) -> Tensor:
        return (features @ self.weight).squeeze(1).unsqueeze(0)


def pencil() -> LearnedReward:
    model = chosen(_Sum(), {"obs_dim": 1, "action_dim": 1, "horizon": 3}, 0)
    model.build()
    return LearnedReward(model)


class Counter(gymnasium.Env[Any, Any]):
    """Observes 100 x episode + step. Three steps an episode; the reward is minus the action, which lies in [0, 4]."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(0.0, 4.0, (1,), np.float32)

    def __init__(self, first: int = 0) -> None:
        self.episode, self.steps = first - 1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._seen(), -float(action[0]), self.steps == 3, False, {}

    def _seen(self) -> Any:
        return np.array([100.0 * self.episode + self.steps], np.float32)
