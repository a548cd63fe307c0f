"""Policies with a state-independent standard deviation: Gaussian and deterministic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.mlp import MLP

LOG_STD_RANGE, FREE = (-20.0, 2.0), (-math.inf, math.inf)
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


class GaussianActor(nn.Module):
    """Gaussian policy with a state-independent standard deviation.

    Samples are not squashed; actions are clamped to [-1, 1] when acting. The defaults give the policy of the reference IQL
    implementations (CORL, CLARIFY, LiRE), whose mean is squashed by tanh. :meth:`unbounded` gives PPO's policy:
    ``activation=nn.Tanh, output=None, log_std_range=(-inf, inf)`` and gains of sqrt(2) and 0.01.

    Args:
        obs_dim: observation size O.
        action_dim: action size A.
        hidden: sizes of the hidden layers.
        log_std_range: bounds of the logarithm of the standard deviation.
        dropout: dropout rate of the hidden units when the log density is trained; acting never uses dropout.
        ortho_init: use orthogonal weights and zero biases.
        activation: module class between the layers of the mean.
        output: module class that squashes the mean; None for a linear mean.
        gains: gains of orthogonal weights: of the hidden layers and of the last layer.
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
        """Build PPO's policy: tanh layers, a linear mean that starts near 0, an unbounded standard deviation that starts at 1."""
        gains = (math.sqrt(2.0), 0.01)
        return cls(obs_dim, action_dim, hidden, FREE, ortho_init=True, activation=nn.Tanh, output=None, gains=gains)

    @property
    def bounded_log_std(self) -> Tensor:
        """Logarithm of the standard deviation, clamped to its bounds, (A,)."""
        return self.log_std if self.log_std_range == FREE else self.log_std.clamp(*self.log_std_range)

    def log_prob(self, obs: Tensor, action: Tensor, dropout: bool = True) -> Tensor:
        """Return the log density, summed over action dimensions: (B, O), (B, A) -> (B,)."""
        log_std = self.bounded_log_std
        z = (action - self.mean(obs, dropout)) * torch.exp(-log_std)
        return (-0.5 * z.square() - log_std - _HALF_LOG_TAU).sum(-1)

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Return the action for standard normal ``noise``, not clamped: (B, O), (B, A) -> (B, A)."""
        return self.mean(obs, dropout=False) + self.bounded_log_std.exp() * noise

    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean action, or a sample of the policy, in [-1, 1]: (B, O) -> (B, A)."""
        if not sample:
            return self.mean(obs, dropout=False).clamp(-1.0, 1.0)
        noise = torch.randn(*obs.shape[:-1], len(self.log_std), generator=generator, device=obs.device)
        return self.sample(obs, noise).clamp(-1.0, 1.0)


class DeterministicActor(nn.Module):
    """Deterministic policy whose log density is minus the squared error (CPL, arXiv 2310.13639).

    Args:
        obs_dim: observation size O.
        action_dim: action size A.
        hidden: sizes of the hidden layers.
        dropout: dropout rate of the hidden units when the log density is trained; acting never uses dropout.
        ortho_init: use orthogonal weights and zero biases.
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
        """Return ``-|π(s) - a|^2``, a Gaussian's log density without its constants: (B, O), (B, A) -> (B,)."""
        return -(self.mean(obs, dropout) - action).square().sum(-1)

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Return the action, whatever the noise: (B, O), (B, A) -> (B, A)."""
        return self.mean(obs, dropout=False)

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        """Return the action, in [-1, 1]; sampling returns the same action: (B, O) -> (B, A)."""
        return self.mean(obs, dropout=False)
