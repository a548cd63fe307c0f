"""LAEO as plain PyTorch code writes it: the opponent of ``benchmarks.laeo``, with the same networks, losses and data.

Two losses, two backward passes, two default Adams; minibatches are indexed out of the columns one update at a time; every network
is evaluated where its value is used; ``.item()`` for the log.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain_iql import perceptron

DISCOUNT, LR, EPS, BC_COEF, MIN_STD, BORDER = 0.99, 3e-4, 1e-7, 0.5, 0.1, 0.999

Batch = Sequence[Tensor]
"""obs (B, O), action (B, A), goal (B, O), example (B, O), noise (B, A)."""


class Pair(nn.Module):
    """One critic: two embeddings."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int], repr_dim: int) -> None:
        super().__init__()
        self.phi = perceptron(obs_dim + action_dim, repr_dim, hidden)
        self.psi = perceptron(obs_dim, repr_dim, hidden)

    def forward(self, obs: Tensor, action: Tensor, goal: Tensor) -> Tensor:
        """Every state and action with every goal: (B, B)."""
        return self.phi(torch.cat([obs, action], dim=1)) @ self.psi(goal).T

    def rows(self, obs: Tensor, action: Tensor, goal: Tensor) -> Tensor:
        """State and action i with goal i: (B,)."""
        return (self.phi(torch.cat([obs, action], dim=1)) * self.psi(goal)).sum(1)


class PlainLAEO:
    """The plain loop.

    Args:
        columns: the data set's columns, N rows each: obs, action, unused, next_obs, terminated.
        length: steps of an episode.
        examples: states of success, (K, O).
        hidden: hidden layers of every network.
        repr_dim: size of an embedding.
        batch_size: steps per update.
        whole_matrix: let the policy's loss build the B x B critic matrix and read its diagonal, as the released code does.
    """

    def __init__(
        self,
        columns: Sequence[Tensor],
        length: int,
        examples: Tensor,
        hidden: Sequence[int],
        repr_dim: int,
        batch_size: int,
        whole_matrix: bool = False,
    ) -> None:
        self.columns, self.length, self.examples = columns, length, examples
        self.batch_size, self.whole_matrix = batch_size, whole_matrix
        obs_dim, action_dim = columns[0].shape[1], columns[1].shape[1]
        self.critics = nn.ModuleList(Pair(obs_dim, action_dim, hidden, repr_dim) for _ in range(2))
        self.policy = perceptron(obs_dim, 2 * action_dim, hidden)
        self.critic_opt = torch.optim.Adam(self.critics.parameters(), lr=LR, eps=EPS)
        self.policy_opt = torch.optim.Adam(self.policy.parameters(), lr=LR, eps=EPS)
        self.log: dict[str, float] = {}

    def run(self, updates: int) -> None:
        for _ in range(updates):
            self.log = self.update(self.draw())

    def draw(self) -> Batch:
        """A minibatch of steps with a future and an example each."""
        episode = torch.randint(len(self.columns[0]) // self.length, (self.batch_size,))
        step = torch.randint(self.length, (self.batch_size,))
        row, left = episode * self.length + step, self.length - step
        u = torch.rand(self.batch_size, dtype=torch.float64)
        ahead = (torch.log1p(-u * (1 - DISCOUNT ** left.double())) / math.log(DISCOUNT)).long().clamp(max=self.length)
        future = row + torch.minimum(ahead, left - 1)
        example = self.examples[torch.randint(len(self.examples), (self.batch_size,))]
        obs, action, _, next_obs, _ = self.columns
        return obs[row], action[row], next_obs[future], example, torch.randn(self.batch_size, action.shape[1])

    def update(self, batch: Batch) -> dict[str, float]:
        """One update: both losses from the present weights, then both steps."""
        obs, action, goal, example, noise = batch
        count, log = len(obs), {}
        logits = torch.stack([critic(obs, action, goal) for critic in self.critics])
        labels = torch.eye(count, dtype=obs.dtype).expand_as(logits)
        critic_loss = F.binary_cross_entropy_with_logits(logits, labels)
        with torch.no_grad():
            log["binary_accuracy"] = ((logits > 0) == (labels > 0)).float().mean().item()
            log["categorical_accuracy"] = (logits.argmax(2) == torch.arange(count)).float().mean().item()
            log["logits_pos"] = ((logits * labels).sum() / labels.sum()).item()
            log["logits_neg"] = ((logits * (1 - labels)).sum() / (1 - labels).sum()).item()
            log["logsumexp"] = torch.logsumexp(logits, dim=2).mean().item()

        mean, raw = self.policy(obs).chunk(2, dim=1)
        std = F.softplus(raw) + MIN_STD
        own = torch.tanh(mean + std * noise)
        if self.whole_matrix:
            value = torch.stack([torch.diagonal(critic(obs, own, example)) for critic in self.critics]).amin(0)
        else:
            value = torch.stack([critic.rows(obs, own, example) for critic in self.critics]).amin(0)
        cloning = -self.log_prob(mean, std, action)
        policy_loss = (BC_COEF * cloning - (1 - BC_COEF) * value).mean()

        self.critic_opt.zero_grad()
        critic_loss.backward()
        self.policy_opt.zero_grad()
        gradients = torch.autograd.grad(policy_loss, list(self.policy.parameters()))  # critics keep their own
        for parameter, gradient in zip(self.policy.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.critic_opt.step()
        self.policy_opt.step()
        return {**log, "critic": critic_loss.item(), "actor": policy_loss.item(), "bc": cloning.mean().item()}

    @staticmethod
    def log_prob(mean: Tensor, std: Tensor, action: Tensor) -> Tensor:
        """Of given actions under the squashed Gaussian; beyond ``BORDER`` the tail's."""
        law, edge = torch.distributions.Normal(mean, std), math.atanh(BORDER)
        x = torch.atanh(action.clamp(-BORDER, BORDER))
        inside = law.log_prob(x) - torch.log(1 - torch.tanh(x) ** 2)
        side = torch.sign(action)
        tail = torch.special.log_ndtr((side * mean - edge) / std) - math.log(1 - BORDER)
        return torch.where(action.abs() >= BORDER, tail, inside).sum(1)
