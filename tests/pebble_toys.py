"""A short fit of an online preference-based method in the walking toy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from online_toys import WalkSimulator
from toys import make_trainer

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.methods.ppo import PPO
from lightning_pbrl.rewards.base import RewardModel
from lightning_pbrl.teachers.simulated import SimulatedTeacher

SPEC = {"obs_dim": 2, "action_dim": 1, "horizon": 20}
SMALL: dict[str, Any] = {
    "env_steps": 160,
    "seed_steps": 20,
    "explore_steps": 20,
    "round_steps": 40,
    "reset_updates": 9,
    "hidden": [16, 16],
    "batch_size": 8,
    "lr": 1e-3,
    "block": 7,
    "compile": False,
}
SMALL_PPO: dict[str, Any] = {
    "env_steps": 160,
    "explore_steps": 40,
    "round_steps": 40,
    "n_steps": 20,
    "n_epochs": 3,
    "explore_epochs": 5,
    "hidden": [16, 16],
    "batch_size": 8,
    "lr": 1e-3,
    "block": 7,
    "compile": False,
}
SMALL_REWARD: dict[str, Any] = {"hidden": [16, 16], "epochs": 5}


def build(cls: Any, reward_model: RewardModel | dict[str, Any] | None = None, **settings: Any) -> Any:
    """The method at a small size; settings of the reward model, without a class, change those of a small ensemble."""
    small = SMALL_PPO if issubclass(cls, PPO) else SMALL
    whole = isinstance(reward_model, RewardModel) or "class_path" in (reward_model or {})
    given = reward_model if whole else {**SMALL_REWARD, **(reward_model or {})}  # type: ignore[dict-item]
    return cls(SPEC, reward_model=given, **{**small, **settings})


def fit(
    cls: Any,
    folder: Path,
    reward_model: RewardModel | dict[str, Any] | None = None,
    ask: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    ckpt_path: Path | None = None,
    trainer: dict[str, Any] | None = None,
    around: Sequence[pl.Callback] = (),
    **settings: Any,
) -> Any:
    """Rounds of 40 steps after 40; by default 6 questions in the rounds 1 and 2."""
    module = OnlineDataModule(WalkSimulator(20), segment_length=5, eval_episodes=2, eval_envs=2, **(data or {}))
    asking = {"teacher": SimulatedTeacher(), "budget": 12, "per_round": 6, "first_round": 1, **(ask or {})}
    method = build(cls, reward_model, **settings)
    make_trainer(folder, [AskTeacher(**asking), *around], **(trainer or {})).fit(method, module, ckpt_path=ckpt_path)
    return method


def filled(steps: int, capacity: int = 20, num_envs: int = 1) -> Replay:
    """A replay whose row's observation tells the step it is of; episodes of ten steps."""
    replay = Replay(capacity, num_envs, 2, 1, 10)
    for step in range(steps):
        obs = np.full((num_envs, 2), step, np.float32)
        obs[:, 1] = np.arange(num_envs)
        over = np.full(num_envs, step % 10 == 9)
        zeros = np.zeros(num_envs)
        replay.append(obs, np.zeros((num_envs, 1)), obs + 1, zeros, zeros > 0, over)
    return replay


def steps_of(replay: Replay, ids: torch.Tensor) -> list[int]:
    """The steps that rows are of."""
    return replay.column("obs")[ids, 0].long().tolist()
