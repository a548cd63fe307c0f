"""SAC and its pre-training reward as single-file code writes them: the opponents of ``benchmarks.online``.

Written after the structure of common reference implementations: NumPy replay, minibatches by fancy index and conversion, three
losses with a backward pass each, three default Adams, targets parameter by parameter, ``.item()`` for the log.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from benchmarks.plain_iql import Critic, perceptron

DISCOUNT, POLYAK, TARGET_EVERY, LR, ALPHA_LR, ALPHA = 0.99, 0.005, 2, 5e-4, 1e-4, 0.1
LOG_STD_RANGE = (-5.0, 2.0)

Array = NDArray[np.float32]


class SquashedPolicy(nn.Module):
    """Gaussian squashed by tanh."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = perceptron(obs_dim, 2 * action_dim, hidden)

    def forward(self, obs: Tensor) -> Normal:
        mean, raw = self.net(obs).chunk(2, dim=-1)
        low, high = LOG_STD_RANGE
        return Normal(mean, (low + 0.5 * (high - low) * (torch.tanh(raw) + 1)).exp())

    def sample(self, obs: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        law = self(obs)
        x = law.rsample() if noise is None else law.loc + law.scale * noise
        log_prob = law.log_prob(x) - 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))
        return torch.tanh(x), log_prob.sum(-1)


class PlainSAC:
    """The learner with its replay.

    Args:
        obs_dim: observation size.
        action_dim: action size.
        hidden: hidden layers of all networks.
        batch_size: transitions per update.
        capacity: rows of the replay.
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int], batch_size: int, capacity: int) -> None:
        self.actor = SquashedPolicy(obs_dim, action_dim, hidden)
        self.critic = Critic(obs_dim, action_dim, hidden)
        self.target = copy.deepcopy(self.critic)
        self.log_alpha = torch.tensor(math.log(ALPHA), requires_grad=True)
        self.adams()
        widths = {"obs": obs_dim, "action": action_dim, "reward": 1, "next_obs": obs_dim, "alive": 1}
        self.columns = {name: np.zeros((capacity, width), np.float32) for name, width in widths.items()}
        self.batch_size, self.size, self.updates = batch_size, 0, 0
        self.target_entropy = -float(action_dim)
        self.log: dict[str, float] = {}

    def adams(self) -> None:
        """New optimisers for the present parameters."""
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=LR)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=LR)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], lr=ALPHA_LR)

    def add(self, **row: Any) -> None:
        """Store one transition."""
        for name, value in row.items():
            self.columns[name][self.size] = value
        self.size += 1

    def batch(self) -> list[Tensor]:
        """A uniform minibatch."""
        ids = np.random.randint(0, self.size, size=self.batch_size)
        return [torch.as_tensor(column[ids]) for column in self.columns.values()]

    def update(self, batch: Sequence[Tensor], next_noise: Tensor | None = None, noise: Tensor | None = None) -> None:
        """One update of critics, policy, temperature and, every second time, targets."""
        obs, action, reward, next_obs, alive = batch
        reward, alive = reward.squeeze(-1), alive.squeeze(-1)
        alpha = self.log_alpha.exp()
        with torch.no_grad():
            next_action, next_log_prob = self.actor.sample(next_obs, next_noise)
            next_q = self.target(next_obs, next_action) - alpha * next_log_prob
            y = reward + DISCOUNT * alive * next_q
        q1, q2 = self.critic.both(obs, action)
        critic_loss = F.mse_loss(q1, y) + F.mse_loss(q2, y)
        self.critic_adam.zero_grad()
        critic_loss.backward()
        self.critic_adam.step()

        new_action, log_prob = self.actor.sample(obs, noise)
        actor_loss = (alpha.detach() * log_prob - self.critic(obs, new_action)).mean()
        self.actor_adam.zero_grad()
        actor_loss.backward()
        self.actor_adam.step()

        alpha_loss = (alpha * (-log_prob - self.target_entropy).detach()).mean()
        self.alpha_adam.zero_grad()
        alpha_loss.backward()
        self.alpha_adam.step()

        if self.updates % TARGET_EVERY == 0:
            with torch.no_grad():
                for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                    old.mul_(1 - POLYAK).add_(POLYAK * new)
        self.updates += 1
        self.log = {"critic": critic_loss.item(), "actor": actor_loss.item(), "alpha": alpha_loss.item()}

    def act(self, obs: Array) -> Array:
        """A sampled action for one observation."""
        with torch.no_grad():
            action, _ = self.actor.sample(torch.as_tensor(obs).unsqueeze(0))
        return action.squeeze(0).numpy()

    def run(self, updates: int) -> None:
        """Updates alone."""
        for _ in range(updates):
            self.update(self.batch())


class PlainLoop:
    """Acting and updating in turn, in one environment."""

    def __init__(self, env: Any, learner: PlainSAC, seed: int = 0) -> None:
        self.env, self.learner, self.seed = env, learner, seed
        self.obs, _ = env.reset(seed=seed)

    def step(self, random: bool) -> None:
        learner = self.learner
        action = np.random.uniform(-1, 1, self.env.action_space.shape).astype(np.float32) if random else learner.act(self.obs)
        after, reward, terminated, truncated, _ = self.env.step(action)
        learner.add(obs=self.obs, action=action, reward=reward, next_obs=after, alive=float(not terminated))
        self.obs = after
        if terminated or truncated:
            self.seed += 1
            self.obs, _ = self.env.reset(seed=self.seed)

    def run(self, steps: int) -> None:
        """One env step, one update, and so on."""
        for _ in range(steps):
            self.step(random=False)
            self.learner.update(self.learner.batch())


def state_entropy(obs: Tensor, stored: Array, k: int, chunk: int = 500) -> Tensor:
    """Distance to the (k + 1)-th nearest stored observation: all differences, chunk by chunk, then one selection."""
    bank = torch.as_tensor(stored)
    with torch.no_grad():
        chunks = [bank[begin : begin + chunk] for begin in range(0, len(bank), chunk)]
        distances = [torch.norm(obs[:, None, :] - part[None, :, :], dim=-1, p=2) for part in chunks]
        return torch.kthvalue(torch.cat(distances, dim=1), k=k + 1, dim=1).values
