"""Rating likelihood given a segment's return: a learned affine scale with rater noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RatingDecoder(nn.Module):
    """Gaussian rating likelihood y ~ N(a R + b, V + sigma_0^2) with a = exp(log_a) > 0, per member.

    Preferences fix the scale of returns (in logits). Ratings have their own scale, hence a and b. Raters are noisy, hence
    sigma_0, which the likelihood fits as well.

    Args:
        members: number of members E; each has its own a, b and sigma_0.
        middle: initial value of b, in rating units: the middle of the scale.
    """

    def __init__(self, members: int, middle: float) -> None:
        super().__init__()
        self.log_a, self.log_sigma = nn.Parameter(torch.zeros(members)), nn.Parameter(torch.zeros(members))
        self.b = nn.Parameter(torch.full((members,), middle))

    def forward(self, mean: Tensor, variance: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the ratings for returns (D, ...) of the members (D,)."""
        a, b, sigma = (p[member].view(-1, *[1] * (mean.dim() - 1)) for p in (self.log_a.exp(), self.b, self.log_sigma.exp()))
        return a * mean + b, variance + sigma.square()
