"""IPL-IQL as reference-style code writes it: the opponent of ``benchmarks.ipl``, with the same networks, losses and data.

Three losses, three backward passes, three default Adams; a batch of pairs and a batch of transitions are indexed out of the
columns, cut and concatenated; every network is evaluated where its value is used; ``.item()`` for the log.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.plain_iql import DISCOUNT, EXPECTILE, LR, POLYAK, Batch, networks

BETA, CHI2, REPLAY_WEIGHT = 1.0 / 3.0, 0.5, 0.5

Pairs = Sequence[Tensor]
"""obs (B, 2, m, O), action (B, 2, m, A), label (B,)."""


class PlainPairs:
    """Windows of labelled pairs, indexed out of columns.

    Args:
        columns: the data set's columns, N rows each: obs, action, unused, next_obs, terminated.
        start: first rows of the labelled segments, (n, 2).
        label: P(second preferred), (n,).
        length: steps per segment.
        window: steps that an update reads.
        pairs: labelled pairs per update.
    """

    def __init__(self, columns: Batch, start: Tensor, label: Tensor, length: int, window: int, pairs: int) -> None:
        self.columns, self.start, self.label, self.length, self.window, self.pairs = columns, start, label, length, window, pairs
        self.order = torch.randperm(len(label))
        self.at = 0

    def next_pairs(self) -> Pairs:
        """The next pairs of a pass over the labels, each segment cut at a random place."""
        if self.at + self.pairs > len(self.order):
            self.order, self.at = torch.randperm(len(self.label)), 0
        chosen = self.order[self.at : self.at + self.pairs]
        self.at += self.pairs
        first = self.start[chosen] + torch.randint(self.length - self.window + 1, (self.pairs, 2))
        return self.cut(first, self.label[chosen])

    def cut(self, first: Tensor, label: Tensor) -> Pairs:
        """The windows that begin at the rows ``first``, (B, 2)."""
        rows = first[..., None] + torch.arange(self.window)
        return self.columns[0][rows], self.columns[1][rows], label


class PlainIPL(PlainPairs):
    """The plain loop; ``hidden`` layers of every network, and ``batch_size`` transitions per update beside the pairs."""

    def __init__(
        self,
        columns: Batch,
        start: Tensor,
        label: Tensor,
        length: int,
        window: int,
        hidden: Sequence[int],
        pairs: int = 8,
        batch_size: int = 256,
    ) -> None:
        super().__init__(columns, start, label, length, window, pairs)
        self.batch_size = batch_size
        self.critic, self.value, self.policy = networks(columns[0].shape[1], columns[1].shape[1], hidden)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.v_opt = torch.optim.Adam(self.value.parameters(), lr=LR)
        self.q_opt = torch.optim.Adam(self.critic.parameters(), lr=LR)
        self.pi_opt = torch.optim.Adam(self.policy.parameters(), lr=LR)
        self.log: dict[str, float] = {}

    def run(self, updates: int) -> None:
        for _ in range(updates):
            index = torch.randint(len(self.columns[0]), (self.batch_size,))
            self.log = self.update(self.next_pairs(), [column[index] for column in self.columns])

    def update(self, pairs: Pairs, replay: Batch) -> dict[str, float]:
        """One update of value, critics, policy and target, in this order."""
        points, actions, label = pairs
        obs, action, _, next_obs, terminated = replay
        count, steps = 2 * len(label) * (self.window - 1), self.window - 1

        s = torch.cat([points[:, 0, :-1].flatten(0, 1), points[:, 1, :-1].flatten(0, 1), obs])
        a = torch.cat([actions[:, 0, :-1].flatten(0, 1), actions[:, 1, :-1].flatten(0, 1), action])
        next_s = torch.cat([points[:, 0, 1:].flatten(0, 1), points[:, 1, 1:].flatten(0, 1), next_obs])
        discount = torch.cat([torch.full((count,), DISCOUNT, dtype=s.dtype), DISCOUNT * (1 - terminated)])
        log = {}

        with torch.no_grad():
            target_q = self.target(s, a)
        advantage = target_q - self.value(s).squeeze(-1)
        v_loss = self.mean(torch.abs(EXPECTILE - (advantage < 0).to(s.dtype)) * advantage**2, count)
        log["v"] = v_loss.item()
        self.v_opt.zero_grad()
        v_loss.backward()
        self.v_opt.step()

        with torch.no_grad():
            limit = 1.0 / (CHI2 * (1.0 - DISCOUNT))
            next_value = self.value(next_s).squeeze(-1).clamp(-limit, limit)
        rewards = torch.stack([q - discount * next_value for q in self.critic.both(s, a)])
        first, second, _ = rewards.split([count // 2, count // 2, len(obs)], dim=1)
        logits = second.view(2, -1, steps).sum(2) - first.view(2, -1, steps).sum(2)
        q_loss = F.binary_cross_entropy_with_logits(logits, label.expand_as(logits))
        q_loss = q_loss + CHI2 * self.mean(rewards**2, count)
        log["q"] = q_loss.item()
        log["accuracy"] = ((logits > 0) == (label > 0.5)).float().mean().item()
        self.q_opt.zero_grad()
        q_loss.backward()
        self.q_opt.step()

        with torch.no_grad():
            weight = torch.exp((target_q - self.value(s).squeeze(-1)) / BETA).clamp(max=100.0)
        pi_loss = self.mean(-weight * self.policy(s).log_prob(a).sum(-1), count)
        log["actor"] = pi_loss.item()
        self.pi_opt.zero_grad()
        pi_loss.backward()
        self.pi_opt.step()

        with torch.no_grad():
            for mine, theirs in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                mine.copy_((1 - POLYAK) * mine + POLYAK * theirs)
        return log

    @staticmethod
    def mean(values: Tensor, count: int) -> Tensor:
        """Half the mean over the first ``count`` columns, half that over the others."""
        return (1 - REPLAY_WEIGHT) * values[..., :count].mean() + REPLAY_WEIGHT * values[..., count:].mean()
