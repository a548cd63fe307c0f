"""BALD of clips and pairs as the released active-RLHF code scores them: the opponent of ``benchmarks.bald``.

Written after its structure: clips are NumPy copies in a list, each is scored on its own, by T forward passes with dropout
switched on, whose masks are independent for every step; the mixture's entropy is sampled.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Array = NDArray[np.float32]


class PlainReward(nn.Module):
    """Two hidden layers with leaky ReLU and dropout, heads for mean and variance of a step's reward."""

    def __init__(self, in_dim: int, width: int, rate: float) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(in_dim, width), nn.LeakyReLU(), nn.Dropout(rate), nn.Linear(width, width), nn.LeakyReLU(), nn.Dropout(rate)
        )
        self.mean, self.variance = nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.mean(h).squeeze(-1), F.softplus(self.variance(h)).squeeze(-1)


def draws(model: PlainReward, clip: Array, count: int) -> tuple[Tensor, Tensor]:
    """Return and variance of one clip in ``count`` passes, (T,) each."""
    model.train()
    means, variances = [], []
    for _ in range(count):
        mean, variance = model(torch.from_numpy(clip))
        means.append(mean.sum())
        variances.append(variance.sum())
    return torch.stack(means).detach(), torch.stack(variances).detach()


def rating_scores(model: PlainReward, clips: list[Array], count: int) -> list[float]:
    """Entropy of the mixture, by one sample of each component, minus the mean entropy of its components."""
    scores = []
    for clip in clips:
        mean, variance = draws(model, clip, count)
        y = mean + variance.sqrt() * torch.randn(count)
        log_density = -0.5 * ((y[:, None] - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi))
        joint = -(log_density.logsumexp(1) - math.log(count)).mean()
        own = (0.5 * (2 * math.pi * math.e * variance).log()).mean()
        scores.append((joint - own).item())
    return scores


def pair_scores(model: PlainReward, clips: list[Array], count: int) -> list[float]:
    """BALD of consecutive clips as pairs, both evaluated for each pair."""
    scores = []
    for first, second in zip(clips[::2], clips[1::2], strict=False):
        chance = torch.sigmoid(draws(model, second, count)[0] - draws(model, first, count)[0])
        entropy = -(chance * (chance + 1e-8).log() + (1 - chance) * (1 - chance + 1e-8).log())
        mean = chance.mean()
        joint = -(mean * (mean + 1e-8).log() + (1 - mean) * (1 - mean + 1e-8).log())
        scores.append((joint - entropy.mean()).item())
    return scores
