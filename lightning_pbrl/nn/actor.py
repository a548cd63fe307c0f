"""Policies without a spread that depends on the state: Gaussian, and deterministic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.mlp import MLP

LOG_STD_RANGE, FREE = (-20.0, 2.0), (-math.inf, math.inf)
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


class GaussianActor(nn.Module):
    """Gaussian policy whose spread does not depend on the state; samples are not squashed, only clamped when acting.

    By default the policy of the reference IQL implementations (CORL, CLARIFY, LiRE), whose mean is squashed by tanh. Of PPO with
    ``activation=nn.Tanh, output=None, log_std_range=(-inf, inf)`` and gains of sqrt(2) and 0.01 (:meth:`unbounded`).

    Args:
        obs_dim: observation size O.
        action_dim: action size A.
        hidden: sizes of the hidden layers.
        log_std_range: bounds of the logarithm of the standard deviation.
        dropout: of the hidden units, while the log density is trained; acting never drops any.
        ortho_init: orthogonal weights and zero biases.
        activation: module class between the layers of the mean.
        output: what squashes the mean; None for nothing.
        gains: of orthogonal weights, of the hidden layers and of the last one.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        log_std_range: tuple[float, float] = LOG_STD_RANGE,
        dropout: float = 0.0,
        ortho_init: bool = False,
        activation: type[nn.Module] = nn.ReLU,
        output: type[nn.Module] | None = nn.Tanh,
        gains: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        self.mean = MLP(
            obs_dim, action_dim, hidden, None, activation, output, dropout=dropout, ortho_init=ortho_init, gains=gains
        )
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.log_std_range = log_std_range

    @classmethod
    def unbounded(cls, obs_dim: int, action_dim: int, hidden: Sequence[int] = (64, 64)) -> GaussianActor:
        """PPO's policy: tanh layers, a linear mean that begins near 0, a deviation of 1 that is free to move."""
        gains = (math.sqrt(2.0), 0.01)
        return cls(obs_dim, action_dim, hidden, FREE, ortho_init=True, activation=nn.Tanh, output=None, gains=gains)

    @property
    def bounded_log_std(self) -> Tensor:
        """Logarithm of the standard deviation, within its bounds, (A,)."""
        return self.log_std if self.log_std_range == FREE else self.log_std.clamp(*self.log_std_range)

    def log_prob(self, obs: Tensor, action: Tensor, dropout: bool = True) -> Tensor:
        """Log density summed over action dimensions: (B, O), (B, A) -> (B,)."""
        log_std = self.bounded_log_std
        z = (action - self.mean(obs, dropout)) * torch.exp(-log_std)
        return (-0.5 * z.square() - log_std - _HALF_LOG_TAU).sum(-1)

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """The action that standard normal ``noise`` makes of the policy, not clamped: (B, O), (B, A) -> (B, A)."""
        return self.mean(obs, dropout=False) + self.bounded_log_std.exp() * noise

    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Mean action, or a sample of the policy, in [-1, 1]: (B, O) -> (B, A)."""
        if not sample:
            return self.mean(obs, dropout=False).clamp(-1.0, 1.0)
        noise = torch.randn(*obs.shape[:-1], len(self.log_std), generator=generator, device=obs.device)
        return self.sample(obs, noise).clamp(-1.0, 1.0)


class DeterministicActor(nn.Module):
    """Policy without a spread, whose log density is minus the squared error (CPL, arXiv 2310.13639).

    Args:
        obs_dim: observation size O.
        action_dim: action size A.
        hidden: sizes of the hidden layers.
        dropout: of the hidden units, while the log density is trained; acting never drops any.
        ortho_init: orthogonal weights and zero biases.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        ortho_init: bool = False,
    ) -> None:
        super().__init__()
        self.mean = MLP(obs_dim, action_dim, hidden, output=nn.Tanh, dropout=dropout, ortho_init=ortho_init)

    def log_prob(self, obs: Tensor, action: Tensor, dropout: bool = True) -> Tensor:
        """``-|π(s) - a|^2``, a Gaussian's log density without its constants: (B, O), (B, A) -> (B,)."""
        return -(self.mean(obs, dropout) - action).square().sum(-1)

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """The action, whatever the noise: (B, O), (B, A) -> (B, A)."""
        return self.mean(obs, dropout=False)

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        """The action, in [-1, 1], which is the sample, too: (B, O) -> (B, A)."""
        return self.mean(obs, dropout=False)
