"""IQL as a textbook writes it: the opponents of ``benchmarks.engine``, with the same networks, losses and data.

:class:`PlainIQL` is a plain PyTorch loop in the style of single-file reference code (three losses, three backward
passes, three default Adams, fancy-index sampling, ``.item()`` for the log). :class:`TextbookIQL` is the LightningModule
that a tutorial would make of it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

DISCOUNT, POLYAK, EXPECTILE, TEMPERATURE, LR = 0.99, 0.005, 0.7, 3.0, 3e-4

Batch = Sequence[Tensor]
"""obs (B, O), action (B, A), reward (B,), next_obs (B, O), terminated (B,)."""


def perceptron(in_dim: int, out_dim: int, hidden: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise([in_dim, *hidden]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], out_dim))


class Critic(nn.Module):
    """Two Q functions."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.q1 = perceptron(obs_dim + action_dim, 1, hidden)
        self.q2 = perceptron(obs_dim + action_dim, 1, hidden)

    def both(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([obs, action], 1)
        return self.q1(x).squeeze(-1), self.q2(x).squeeze(-1)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return torch.min(*self.both(obs, action))


class Policy(nn.Module):
    """Gaussian with a tanh mean and one spread per action dimension."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = nn.Sequential(*perceptron(obs_dim, action_dim, hidden), nn.Tanh())
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, obs: Tensor) -> Normal:
        return Normal(self.net(obs), self.log_std.clamp(-20.0, 2.0).exp())


def networks(obs_dim: int, action_dim: int, hidden: Sequence[int]) -> tuple[Critic, nn.Sequential, Policy]:
    return Critic(obs_dim, action_dim, hidden), perceptron(obs_dim, 1, hidden), Policy(obs_dim, action_dim, hidden)


def value_loss(advantage: Tensor) -> Tensor:
    return (torch.abs(EXPECTILE - (advantage < 0).float()) * advantage**2).mean()


class PlainIQL:
    """The plain loop.

    Args:
        columns: the data set's columns, N rows each, in the order of ``Batch``.
        hidden: hidden layers of every network.
        batch_size: rows per update.
        horizon: updates of the actor's cosine schedule.
    """

    def __init__(self, columns: Batch, hidden: Sequence[int], batch_size: int = 256, horizon: int = 1_000_000) -> None:
        self.columns, self.batch_size = columns, batch_size
        self.critic, self.value, self.policy = networks(columns[0].shape[1], columns[1].shape[1], hidden)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.v_opt = torch.optim.Adam(self.value.parameters(), lr=LR)
        self.q_opt = torch.optim.Adam(self.critic.parameters(), lr=LR)
        self.pi_opt = torch.optim.Adam(self.policy.parameters(), lr=LR)
        self.pi_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.pi_opt, horizon)
        self.log: dict[str, float] = {}

    def run(self, updates: int) -> None:
        for _ in range(updates):
            index = torch.randint(len(self.columns[0]), (self.batch_size,))
            self.log = self.update([column[index] for column in self.columns])

    def update(self, batch: Batch) -> dict[str, float]:
        """One update of value, critics, target and policy."""
        obs, action, reward, next_obs, terminated = batch
        log = {}
        with torch.no_grad():
            next_value = self.value(next_obs).squeeze(-1)
            target_q = self.target(obs, action)

        advantage = target_q - self.value(obs).squeeze(-1)
        v_loss = value_loss(advantage)
        log["v"] = v_loss.item()
        self.v_opt.zero_grad()
        v_loss.backward()
        self.v_opt.step()

        target = reward + DISCOUNT * (1 - terminated) * next_value
        q_loss = sum(F.mse_loss(q, target) for q in self.critic.both(obs, action)) / 2
        log["q"] = q_loss.item()
        self.q_opt.zero_grad()
        q_loss.backward()
        self.q_opt.step()
        for mine, theirs in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            mine.data.copy_((1 - POLYAK) * mine.data + POLYAK * theirs.data)

        weight = torch.exp(TEMPERATURE * advantage.detach()).clamp(max=100.0)
        pi_loss = (-weight * self.policy(obs).log_prob(action).sum(-1)).mean()
        log["actor"] = pi_loss.item()
        self.pi_opt.zero_grad()
        pi_loss.backward()
        self.pi_opt.step()
        self.pi_schedule.step()
        return log


class TextbookIQL(pl.LightningModule):
    """The same as a LightningModule with manual optimisation; its batches come from a DataLoader."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int], horizon: int = 1_000_000) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.horizon = horizon
        self.critic, self.value, self.policy = networks(obs_dim, action_dim, hidden)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)

    def configure_optimizers(self) -> Any:
        v_opt, q_opt, pi_opt = (torch.optim.Adam(n.parameters(), lr=LR) for n in (self.value, self.critic, self.policy))
        return [v_opt, q_opt, pi_opt], [torch.optim.lr_scheduler.CosineAnnealingLR(pi_opt, self.horizon)]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        obs, action, reward, next_obs, terminated = batch
        v_opt, q_opt, pi_opt = self.optimizers()
        with torch.no_grad():
            next_value = self.value(next_obs).squeeze(-1)
            target_q = self.target(obs, action)

        advantage = target_q - self.value(obs).squeeze(-1)
        v_loss = value_loss(advantage)
        v_opt.zero_grad()
        self.manual_backward(v_loss)
        v_opt.step()

        target = reward + DISCOUNT * (1 - terminated) * next_value
        q_loss = sum(F.mse_loss(q, target) for q in self.critic.both(obs, action)) / 2
        q_opt.zero_grad()
        self.manual_backward(q_loss)
        q_opt.step()
        for mine, theirs in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            mine.data.lerp_(theirs.data, POLYAK)

        weight = torch.exp(TEMPERATURE * advantage.detach()).clamp(max=100.0)
        pi_loss = (-weight * self.policy(obs).log_prob(action).sum(-1)).mean()
        pi_opt.zero_grad()
        self.manual_backward(pi_loss)
        pi_opt.step()
        self.lr_schedulers().step()
        self.log_dict({"v": v_loss, "q": q_loss, "actor": pi_loss})
