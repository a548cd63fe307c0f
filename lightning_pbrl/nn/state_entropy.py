"""Particle-based state entropy, the intrinsic reward of PEBBLE's pre-training (arXiv 2106.05091, Eq. 5).

The distance to the k-th nearest neighbour estimates the entropy of the visited states (up to monotone functions). As in the
authors' code it is the plain distance, without a logarithm, divided by its running standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

CHUNK, LINES = 8192, 1024
"""Stored rows per matrix product, and the largest number of states that are compared with them at once."""
GROUP = 8
"""Number of columns that share a minimum when the smallest entries are searched."""


@torch.no_grad()
def nearest_distance(obs: Tensor, banks: Iterable[Tensor], k: int = 5, chunk: int = CHUNK) -> Tensor:
    """Return the Euclidean distance to the (k + 1)-th nearest of the stored observations, (B,).

    The extra neighbour skips the point itself, which is stored. Where fewer than k + 1 observations are stored, the result is
    infinite.

    Squared distances come from one matrix product per chunk, ``|x|^2 - 2 x y + |y|^2``. That cancels for near neighbours, so
    everything is centred first and the result is clamped at 0 (error of the square about ``1e-6 |x|^2``).

    Args:
        obs: x, (B, O).
        banks: stored observations, (n, O) each, read chunk by chunk; views suffice.
        k: number of neighbours.
        chunk: stored rows per matrix product.
    """
    centre = obs.mean(0)
    x = obs - centre
    nearest = x.new_full((len(x), k + 1), math.inf)
    for bank in banks:
        for rows in bank.split(chunk):
            y = rows - centre
            squared = torch.addmm(y.square().sum(1), x, y.T, alpha=-2.0)  # without |x|^2, the same for a whole line
            nearest = smallest(torch.cat([nearest, smallest(squared, k + 1)], dim=1), k + 1)
    return (nearest.amax(1) + x.square().sum(1)).clamp(min=0.0).sqrt()


def smallest(values: Tensor, count: int) -> Tensor:
    """Return the ``count`` smallest entries of each row in any order: (B, n) -> (B, count).

    A row with fewer entries returns all. The smallest entries lie in the ``count`` groups of columns with the smallest minima,
    and minima cost a fraction of a selection.
    """
    groups = values.shape[1] // GROUP
    if groups > count:
        grouped = values[:, : groups * GROUP].unflatten(1, (GROUP, groups))
        which = grouped.amin(1).topk(count, largest=False, sorted=False).indices
        chosen = grouped.gather(2, which.unsqueeze(1).expand(-1, GROUP, -1)).flatten(1)
        values = torch.cat([chosen, values[:, groups * GROUP :]], dim=1)
    return values.topk(min(count, values.shape[1]), largest=False, sorted=False).values


class StateEntropy(nn.Module):
    """Distance to the stored states, divided by its running standard deviation (without centring).

    Args:
        k: number of neighbours.
        reference_mean: move the running mean as the released code does, by delta + n / N instead of delta n / N. This inflates
            the variance at first (a known defect, ``preset/*/reference``).
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, k: int = 5, reference_mean: bool = False) -> None:
        super().__init__()
        self.k, self.reference_mean = k, reference_mean
        for name, value in (("mean", 0.0), ("var", 1.0), ("count", 1e-4)):
            self.register_buffer(name, torch.tensor(value))

    @torch.no_grad()
    def forward(self, obs: Tensor, banks: Sequence[Tensor]) -> Tensor:
        """Update the statistics with the batch and return its rewards given all stored states: (B, O) -> (B,).

        Args:
            obs: states, not normalised.
            banks: stored states, (n, O) each.
        """
        distance = torch.cat([nearest_distance(lines, banks, self.k) for lines in obs.split(LINES)])
        self.update(distance)
        return distance / self.var.sqrt().clamp(min=1e-8)

    def update(self, values: Tensor) -> None:
        """Merge a batch, (B,), into mean and variance (Chan et al. 1979); batch variance unbiased."""
        delta, batch = values.mean() - self.mean, len(values)
        total = self.count + batch
        spread = self.var * self.count + values.var() * batch + delta.square() * self.count * batch / total
        self.mean += delta + batch / total if self.reference_mean else delta * batch / total
        self.var.copy_(spread / total)
        self.count.copy_(total)
