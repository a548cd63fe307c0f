"""A small problem in memory: a data set with a known reward, a simulator, a data module, and the callbacks of a fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.examples import Examples
from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.methods.base import Method
from lightning_pbrl.queries.mixed import uniformly
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher

SPEC = {"obs_dim": 5, "action_dim": 2, "horizon": 3}


def true_reward(obs: Tensor, action: Tensor) -> Tensor:
    """Return ``tanh(s_0 + s_1 / 2) - |a|^2 / 10``: (..., O), (..., A) -> (...,)."""
    return torch.tanh(obs[..., 0] + 0.5 * obs[..., 1]) - 0.1 * action.square().sum(-1)


def synthetic_transitions(
    episodes: int = 20, length: int = 30, obs_dim: int = 5, action_dim: int = 2, seed: int = 0
) -> Transitions:
    """Return random walks pulled to the origin, pushed by uniform actions in [-1, 1], rewarded by :func:`true_reward`.

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


def labels_of(data: Transitions, query: Query, equal: Tensor | None = None) -> Labels:
    """Return answers of a teacher who prefers the higher true return; those marked ``equal``, (B,), are ties."""
    true = data.true_returns(query)
    value = (true[:, 1] > true[:, 0]).float()
    equal = torch.zeros(len(query), dtype=torch.bool) if equal is None else equal
    status = torch.where(equal, int(Status.EQUAL), int(Status.ANSWERED))
    return Labels(query.start, query.length, torch.where(equal, 0.5, value), status)


class SeedPhysics:
    """Physics whose every step has reward ``seed % 97`` and succeeds when the seed is odd, whatever the action."""

    camera: str | int = -1
    model = data = None

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        self.seed = seed
        return np.zeros(5), {}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        return np.full(5, 0.1), float(self.seed % 97), False, {"success": float(self.seed % 2)}


class SeedSimulator(Simulator):
    """Simulator whose returns depend on the seed alone: three steps, 3 * (seed % 97)."""

    name = "seed-v0"
    obs_dim, action_dim, horizon = 5, 2, 3

    def make(self, render: bool = False) -> Any:
        from lightning_pbrl.envs.episodic import Episodic

        return Episodic(self, SeedPhysics())

    def describe(self) -> dict[str, Any]:
        return {"class": "SeedSimulator"}


class ToyData(FeedbackDataModule):
    """Synthetic data set with the toy simulator; examples of success, if wanted, are states with the largest first entry."""

    examples: Examples | None = None
    held_out_source: Transitions | None = None

    def __init__(self, true_reward: bool = True, episodes: int = 20, examples: int = 0, **settings: Any) -> None:
        settings = {"segment_length": 10, "eval_episodes": 4, "num_envs": 2, "held_out_pairs": 50, **settings}
        super().__init__(simulator=SeedSimulator(), **settings)
        self.true_reward, self.episodes, self.wanted = true_reward, episodes, examples

    def load(self) -> Transitions:
        data = synthetic_transitions(episodes=self.episodes)
        if self.wanted:
            best = data.column("obs")[:, 0].argsort(descending=True)[: self.wanted]
            self.examples = Examples(data.column("obs")[best].clone(), {"from": "synthetic"}, "synthetic")
            self.held_out_source = synthetic_transitions(episodes=5, seed=1)
        if not self.true_reward:
            data.reward.fill_(float("nan"))
        return data


class AnsweredToy(ToyData):
    """Toy data with 40 answers by true return, and held-out ones if wanted."""

    def __init__(self, held_out: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.with_held_out = held_out

    def load(self) -> Transitions:
        whole = synthetic_transitions(self.episodes)  # true rewards to answer by, whatever the learner's table knows
        query = whole.pool(self.segment_length).pairs(40 + self.with_held_out, torch.Generator().manual_seed(0))
        every = labels_of(whole, query)
        self.labels = every.take(torch.arange(40))
        self.held_out_labels = every.take(torch.arange(40, len(every))) if self.with_held_out else None
        return super().load()


def data_for(method: type[Method]) -> FeedbackDataModule:
    """Return a data module for a method: logged data, or the toy simulator with two environments to act in."""
    if "env" in method.needs:
        return OnlineDataModule(SeedSimulator(), num_envs=2, segment_length=3, eval_episodes=4, eval_envs=2)
    return ToyData(examples=12 if "examples" in method.needs else 0)


def callbacks_for(method: type[Method], **ask: Any) -> list[pl.Callback]:
    """Return the callbacks that a method needs: a teacher, relabelling, both or none."""
    found: list[pl.Callback] = []
    if "labels" in method.needs:
        first = int("env" in method.needs)  # round 0 collects the segments
        who = {"teacher": MixedTeacher(), "query": uniformly(method.kinds)} if "rating" in method.kinds else {}
        usual = {"teacher": SimulatedTeacher(), "budget": 30 - 10 * first, "per_round": 10, "first_round": first}
        found.append(AskTeacher(**{**usual, **who, **ask}))
    if "learned_reward" in method.needs:
        found.append(RelabelRewards("true"))
    return found


def make_trainer(folder: Path, callbacks: list[pl.Callback] | None = None, **settings: Any) -> pl.Trainer:
    """Return a quiet CPU trainer that keeps the checkpoint of every round in ``folder/checkpoints``."""
    callbacks = callbacks or []
    if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        callbacks = [
            ModelCheckpoint(folder / "checkpoints", filename="{epoch}", save_top_k=-1, save_last=True),
            *callbacks,
        ]
    return pl.Trainer(
        **{
            "default_root_dir": folder,
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": -1,
            "logger": False,
            "callbacks": callbacks,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **settings,
        }
    )
