"""The policy of SAC: a Gaussian whose samples are squashed by tanh (Haarnoja et al. 2018, arXiv 1812.05905, appendix C)."""

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
_INSIDE = 1.0 - 1e-6


class SquashedGaussianActor(nn.Module):
    """Actions tanh(mean(s) + std(s) noise), with the exact density.

    One perceptron gives mean and raw log std; the latter is brought into ``log_std_range`` by a tanh, so that its gradient
    never vanishes abruptly (the form of B-Pref, arXiv 2111.03026). Weights are orthogonal, biases zero.

    Args:
        obs_dim: observation size O.
        action_dim: action size A.
        hidden: sizes of the hidden layers.
        log_std_range: bounds of the logarithm of the standard deviation before squashing.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (1024, 1024),
        log_std_range: tuple[float, float] = LOG_STD_RANGE,
    ) -> None:
        super().__init__()
        self.net = MLP(obs_dim, 2 * action_dim, hidden, ortho_init=True)
        self.action_dim, self.log_std_range = action_dim, log_std_range

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std before squashing: (B, O) -> (B, A), (B, A)."""
        mean, raw = self.net(obs).split(self.action_dim, dim=-1)
        low, high = self.log_std_range
        return mean, low + 0.5 * (high - low) * (raw.tanh() + 1.0)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The action that standard normal ``noise`` makes of the policy, and its log density: (B, A) -> (B, A), (B,)."""
        mean, log_std = self(obs)
        unsquashed = mean + log_std.exp() * noise
        return unsquashed.tanh(), _log_density(noise, log_std, unsquashed)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density of given actions, summed over their entries: (B, O), (B, A) -> (B,).

        Actions on the border are moved inside by 1e-6, where the density is finite.
        """
        mean, log_std = self(obs)
        unsquashed = torch.atanh(action.clamp(-_INSIDE, _INSIDE))
        return _log_density((unsquashed - mean) * torch.exp(-log_std), log_std, unsquashed)

    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """The squashed mean, or a sample, in [-1, 1]: (B, O) -> (B, A)."""
        mean, log_std = self(obs)
        if not sample:
            return mean.tanh()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return (mean + log_std.exp() * noise).tanh()


def _log_density(noise: Tensor, log_std: Tensor, unsquashed: Tensor) -> Tensor:
    """Sum of log N(noise) - log std - log(1 - tanh(x)^2); the last as 2 (log 2 - x - softplus(-2 x)), which never overflows."""
    gaussian = -0.5 * noise.square() - log_std - _HALF_LOG_TAU
    return (gaussian - 2.0 * (_LOG_2 - unsquashed - F.softplus(-2.0 * unsquashed))).sum(-1)
