"""Standardisation of observations with statistics of a data set."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """x -> (x - mean) / (std + eps), statistics over real rows only (padding never enters them).

    Args:
        dim: size of the last axis.
        eps: added to the standard deviation, in the units of x (1e-3 in CLARIFY and LiRE).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, x: Tensor) -> None:
        """Take mean and (population) standard deviation of the rows of ``x``, (N, dim), in float64."""
        chunks = x.split(65_536)
        mean = torch.stack([c.double().sum(0) for c in chunks]).sum(0) / len(x)
        var = torch.stack([(c.double() - mean).square().sum(0) for c in chunks]).sum(0) / len(x)
        self.mean.copy_(mean)
        self.scale.copy_(1.0 / (var.sqrt() + self.eps))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return (x - self.mean) * self.scale
