"""CPL as reference-style code writes it: the second opponent of ``benchmarks.ipl``, with the same network, loss and data.

One loss, one backward pass, a default Adam; windows of labelled pairs are indexed out of the columns; ``.item()`` for the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain_ipl import Pairs, PlainPairs
from benchmarks.plain_iql import LR, Batch

ALPHA, BIAS = 0.1, 0.5


def policy(obs_dim: int, action_dim: int, hidden: Sequence[int]) -> nn.Sequential:
    """A network whose output is the action."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise([obs_dim, *hidden]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], action_dim), nn.Tanh())


class PlainCPL(PlainPairs):
    """The plain loop; its arguments are those of :class:`PlainPairs` and the policy's ``hidden`` layers."""

    def __init__(
        self, columns: Batch, start: Tensor, label: Tensor, length: int, window: int, hidden: Sequence[int], pairs: int = 16
    ) -> None:
        super().__init__(columns, start, label, length, window, pairs)
        self.policy = policy(columns[0].shape[1], columns[1].shape[1], hidden)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=LR)
        self.log: dict[str, float] = {}

    def run(self, updates: int) -> None:
        for _ in range(updates):
            self.log = self.update(self.next_pairs())

    def update(self, pairs: Pairs) -> dict[str, float]:
        """One update: both segments are evaluated together, then compared."""
        points, actions, label = pairs
        obs, action = torch.cat([points[:, 0], points[:, 1]]), torch.cat([actions[:, 0], actions[:, 1]])
        log_prob = -F.mse_loss(self.policy(obs), action, reduction="none").sum(-1)
        first, second = (ALPHA * log_prob.sum(-1)).chunk(2)
        loss = self.contrast(first, second, label)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"actor": loss.item(), "accuracy": ((second > first) == (label > 0.5)).float().mean().item()}

    @staticmethod
    def contrast(first: Tensor, second: Tensor, label: Tensor) -> Tensor:
        """The mean of -log P(answer), with the rejected segment's advantage scaled by the bias."""
        of_first, of_second = torch.log1p(torch.exp(BIAS * second - first)), torch.log1p(torch.exp(BIAS * first - second))
        return (label * of_second + (1 - label) * of_first).mean()
