"""Soft actor-critic by a plain loop: one Adam per part, the critic first, the target every second time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class SlowSAC:
    """Copies of the parts of a SAC, moved one update after the other.

    Args:
        sac: the method whose updates these are to be.
        values: critics' values, (2, B), by network, observations, actions, and whether the encoder stands still.
        encoded: what the actor reads, by critic and observations.
    """

    def __init__(
        self, sac: Any, values: Callable[..., Tensor], encoded: Callable[[Any, Tensor], Tensor] = lambda critic, obs: obs
    ) -> None:
        parts = ("actor", "critic", "critic_target", "log_alpha")
        self.actor, self.critic, self.target, self.log_alpha = (copy.deepcopy(getattr(sac, part)) for part in parts)
        self.values, self.encoded, self.done = values, encoded, 0
        groups = ((self.critic.parameters(), 1e-3), (self.actor.parameters(), 1e-3), ([self.log_alpha], 1e-4))
        self.adams = [torch.optim.Adam(parameters, lr) for parameters, lr in groups]

    def update(
        self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, over: Tensor, noise: Tensor, next_noise: Tensor
    ) -> None:
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            next_action, log_prob = self.actor.sample(self.encoded(self.critic, next_obs), next_noise)
            q1, q2 = self.values(self.target, next_obs, next_action)
            y = reward + 0.99 * (1 - over) * (torch.min(q1, q2) - alpha * log_prob)
        q1, q2 = self.values(self.critic, obs, action)
        self.adams[0].zero_grad()
        ((q1 - y).square().mean() + (q2 - y).square().mean()).backward()
        self.adams[0].step()
        new, log_prob = self.actor.sample(self.encoded(self.critic, obs).detach(), noise)
        q1, q2 = self.values(self.critic, obs, new, still=True)
        self.adams[1].zero_grad()
        self.adams[2].zero_grad()
        (alpha * log_prob - torch.min(q1, q2)).mean().backward()
        (self.log_alpha.exp() * (-log_prob + 1.0).detach()).mean().backward()
        self.adams[1].step()
        self.adams[2].step()
        if self.done % 2 == 0:
            for one, two in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                one.data.lerp_(two.data, 0.005)
        self.done += 1

    def assert_equals(self, sac: Any, atol: float) -> None:
        torch.testing.assert_close(sac.log_alpha, self.log_alpha, rtol=0, atol=1e-10)
        for ours, theirs in ((sac.actor, self.actor), (sac.critic, self.critic), (sac.critic_target, self.target)):
            for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(one, two, rtol=0, atol=atol)
