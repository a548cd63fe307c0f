"""Tanh-squashed Gaussian policies of SAC (Haarnoja et al. 2018, arXiv 1812.05905) and of Acme's agents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_pbrl.nn.mlp import MLP

LOG_STD_RANGE = (-5.0, 2.0)
_LOG_2 = math.log(2.0)
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
_ROOT_HALF = math.sqrt(0.5)
_INSIDE = 1.0 - 1e-6
BORDER = 0.999
"""Magnitude of an action entry above which its density is the mean density of the tail (Acme)."""


class SquashedGaussianActor(nn.Module):
    """Tanh-squashed Gaussian policy with exact density: actions tanh(mean(s) + std(s) noise).

    One perceptron gives mean and raw log std. A tanh maps the latter into ``log_std_range``, so its gradient never vanishes
    abruptly (the form of B-Pref, arXiv 2111.03026). Weights are orthogonal, biases zero.

    With ``min_std`` it is the policy of Acme and of contrastive RL: std = softplus(raw) + ``min_std``. Weights then have variance
    scaling 1.0 (fan_in, uniform) and biases are zero. A given action entry at or beyond ``BORDER`` has the mean density of that
    tail, P(tail) / (1 - ``BORDER``). Cloning actions of exactly 1 then has a finite loss.

    Args:
        obs_dim: observation size O.
        action_dim: action size A.
        hidden: sizes of the hidden layers.
        log_std_range: bounds of the logarithm of the standard deviation before squashing.
        min_std: smallest standard deviation before squashing; None for ``log_std_range``.
        torso: encoder of observations with ``features`` outputs; None passes observations through unchanged.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (1024, 1024),
        log_std_range: tuple[float, float] = LOG_STD_RANGE,
        min_std: float | None = None,
        torso: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.torso = torso
        width = int(torso.features) if torso is not None else obs_dim  # type: ignore[arg-type]
        if min_std is None:
            self.net = MLP(width, 2 * action_dim, hidden, ortho_init=True)
        else:
            self.net = MLP(width, 2 * action_dim, hidden, uniform_init="fan_in")
        self.action_dim, self.log_std_range, self.min_std = action_dim, log_std_range, min_std

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log std before squashing: (B, O) -> (B, A), (B, A)."""
        features = obs if self.torso is None else self.torso(obs)
        mean, raw = self.net(features).chunk(2, dim=-1)
        if self.min_std is not None:
            return mean, (F.softplus(raw) + self.min_std).log()
        low, high = self.log_std_range
        return mean, low + 0.5 * (high - low) * (raw.tanh() + 1.0)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the action for standard normal ``noise`` and its log density: (B, O), (B, A) -> (B, A), (B,)."""
        mean, log_std = self(obs)
        return squash(mean, log_std, noise)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the log density of given actions, summed over their entries: (B, O), (B, A) -> (B,).

        Actions on the border are moved inside by 1e-6, where the density is finite. With ``min_std`` they have the density of the
        tail.
        """
        mean, log_std = self(obs)
        return self.density(mean, log_std, action)

    def density(self, mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
        """Return the log density of given actions under the output of :meth:`forward`: three of (B, A) -> (B,)."""
        if self.min_std is not None:
            return tailed_log_density(mean, log_std, action)
        unsquashed = torch.atanh(action.clamp(-_INSIDE, _INSIDE))
        return _log_density((unsquashed - mean) * torch.exp(-log_std), log_std, unsquashed).sum(-1)

    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return the squashed mean, or a sample, in [-1, 1]: (B, O) -> (B, A)."""
        mean, log_std = self(obs)
        if not sample:
            return mean.tanh()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return (mean + log_std.exp() * noise).tanh()


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the action for standard normal ``noise`` and its log density: three of (B, A) -> (B, A), (B,)."""
    unsquashed = mean + log_std.exp() * noise
    return unsquashed.tanh(), _log_density(noise, log_std, unsquashed).sum(-1)


def tailed_log_density(mean: Tensor, log_std: Tensor, action: Tensor, border: float = BORDER) -> Tensor:
    """Return the log density, uniform on each tail beyond ``border``, summed over entries: three of (B, A) -> (B,).

    The density integrates to 1 over [-1, 1].
    """
    edge = math.atanh(border)
    inside = torch.atanh(action.clamp(-border, border))
    scale = torch.exp(-log_std)
    density = _log_density((inside - mean) * scale, log_std, inside)
    side = torch.where(action < 0, -1.0, 1.0)  # the tail beyond side * edge is P(N > (edge - side mean) / std)
    tail = log_ndtr((side * mean - edge) * scale) - math.log1p(-border)
    return torch.where(action.abs() >= border, tail, density).sum(-1)


def log_ndtr(x: Tensor) -> Tensor:
    """Return the logarithm of the normal distribution function.

    ``torch.special.log_ndtr`` cannot run under ``vmap`` (replicas).
    """
    low, high = x.clamp(max=0.0), x.clamp(min=0.0)
    below = torch.log(0.5 * torch.special.erfcx(-low * _ROOT_HALF)) - 0.5 * low.square()
    return torch.where(x < 0, below, torch.log1p(-0.5 * torch.erfc(high * _ROOT_HALF)))


def _log_density(noise: Tensor, log_std: Tensor, unsquashed: Tensor) -> Tensor:
    """Return log N(noise) - log std - log(1 - tanh(x)^2) of each entry.

    The last term is computed as 2 (log 2 - x - softplus(-2 x)), which is numerically stable.
    """
    gaussian = -0.5 * noise.square() - log_std - _HALF_LOG_TAU
    return gaussian - 2.0 * (_LOG_2 - unsquashed - F.softplus(-2.0 * unsquashed))
