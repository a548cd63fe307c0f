"""Standardisation of observations with the statistics of a data set, or with running statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Standardisation x -> (x - mean) / (std + eps), with statistics over real rows only (padding never enters them).

    Args:
        dim: size of the last axis.
        eps: constant added to the standard deviation, in the units of x (1e-3 in CLARIFY and LiRE).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, x: Tensor) -> None:
        """Set mean and (population) standard deviation from the rows of ``x``, (N, dim), in float64."""
        chunks = x.split(65_536)
        mean = torch.stack([c.double().sum(0) for c in chunks]).sum(0) / len(x)
        var = torch.stack([(c.double() - mean).square().sum(0) for c in chunks]).sum(0) / len(x)
        self.mean.copy_(mean)
        self.scale.copy_(1.0 / (var.sqrt() + self.eps))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise ``x``: (..., dim) -> (..., dim)."""
        return (x - self.mean) * self.scale


class RunningNormalizer(nn.Module):
    """Running standardisation x -> (x - mean) / sqrt(var + eps), clipped to [-limit, limit].

    Mean and variance are running statistics. This is the transform of stable-baselines3's ``VecNormalize``: population
    variance, statistics in float64. They start at mean 0 and variance 1 with the weight of 1e-4 of a row.

    Args:
        dim: size of the last axis.
        limit: bound of the result.
        eps: constant added to the variance, in the squared units of x.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, dim: int, limit: float = 10.0, eps: float = 1e-8) -> None:
        super().__init__()
        self.limit, self.eps = limit, eps
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("var", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    @torch.no_grad()
    def see(self, x: Tensor) -> None:
        """Update the statistics with the rows of ``x``, (n, dim) (Chan et al. 1979)."""
        rows = x.to(self.mean)
        centre = rows[0] if len(rows) == 1 else rows.mean(0)
        delta = centre - self.mean
        total = self.count + len(rows)
        self.mean.add_(delta * (len(rows) / total))
        spread = torch.addcmul(self.var * self.count, delta.square(), self.count * (len(rows) / total))
        if len(rows) > 1:
            spread += rows.var(0, correction=0) * len(rows)
        self.var.copy_(spread / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise ``x``, keeping its precision: (..., dim) -> (..., dim)."""
        return ((x - self.mean) / (self.var + self.eps).sqrt()).clamp(-self.limit, self.limit).to(x)
