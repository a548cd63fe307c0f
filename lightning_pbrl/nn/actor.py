"""Stochastic policies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.mlp import MLP

LOG_STD_RANGE = (-20.0, 2.0)
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


class GaussianActor(nn.Module):
    """Gaussian policy whose mean is squashed by tanh and whose spread does not depend on the state.

    The policy of the reference IQL implementations (CORL, CLARIFY, LiRE): samples are not squashed, only clamped when acting.

    Args:
        obs_dim: observation size O.
        action_dim: action size A.
        hidden: sizes of the hidden layers.
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.mean = MLP(obs_dim, action_dim, hidden, output=nn.Tanh)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density summed over action dimensions: (B, O), (B, A) -> (B,)."""
        log_std = self.log_std.clamp(*LOG_STD_RANGE)
        z = (action - self.mean(obs)) * torch.exp(-log_std)
        return (-0.5 * z.square() - log_std - _HALF_LOG_TAU).sum(-1)

    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Mean action, or a sample of the policy, in [-1, 1]: (B, O) -> (B, A)."""
        mean = self.mean(obs)
        if not sample:
            return mean
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return (mean + self.log_std.clamp(*LOG_STD_RANGE).exp() * noise).clamp(-1.0, 1.0)
