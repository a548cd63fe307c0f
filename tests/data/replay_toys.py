"""A replay of environments that count their steps, and a reward by a rule."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lightning_pbrl.data.relabel import mean_of_members, predict_reward
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.transitions import Transitions

NAN = float("nan")


def empty(capacity: int = 12, num_envs: int = 2, horizon: int = 4, poison: bool = True) -> Replay:
    """A replay whose unwritten memory is NaN, so that reading it shows."""
    replay = Replay(capacity, num_envs, obs_dim=2, action_dim=1, horizon=horizon, about={"task": "count"})
    if poison:
        replay.packed.fill_(NAN)
        replay.reward.fill_(NAN)
    return replay


def step(replay: Replay, over: tuple[int, ...] = (), fall: tuple[int, ...] = (), success: list[float] | None = None) -> None:
    """One step: obs (env, step), action step / 100, reward 1000 env + step; ``over`` are cut off, ``fall`` terminated."""
    n, p = replay.num_envs, replay.steps
    envs = np.arange(n)
    obs = np.stack([envs, np.full(n, p)], 1)
    after = obs + np.array([0, 1])
    replay.append(obs, np.full((n, 1), p / 100), after, 1000.0 * envs + p, np.isin(envs, fall), np.isin(envs, over), success)


def random_run(replay: Replay, steps: int, seed: int) -> list[tuple[int, int, int]]:
    """Steps with episodes of 1 to ``horizon`` steps; gives the finished ones: environment, first step, end."""
    rng, begin, finished = random.Random(seed), [0] * replay.num_envs, []
    for p in range(steps):
        over = [i for i in range(replay.num_envs) if p + 1 - begin[i] == replay.horizon or rng.random() < 0.15]
        step(replay, over=tuple(over))
        for i in over:
            finished.append((i, begin[i], p + 1))
            begin[i] = p + 1
    return finished


def who(replay: Replay, rows: torch.Tensor) -> list[tuple[int, int]]:
    """(environment, step) of rows, as their observations say."""
    return [(int(env), int(p)) for env, p in replay.column("obs")[rows].reshape(-1, 2).tolist()]


class Rule:
    """A reward of single steps by a rule, two rows at a time."""

    def __init__(self, reward: Callable[[Tensor], Tensor], combine: Callable[[Tensor], Tensor] = mean_of_members) -> None:
        self.reward, self.combine = reward, combine

    def relabel(self, source: Transitions, rows: Tensor) -> Tensor:
        return predict_reward(source, self.reward, 2, self.combine, rows)
