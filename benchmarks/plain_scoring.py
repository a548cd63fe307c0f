"""Reward ensembles and query scoring as reference code does them: the opponents of ``benchmarks.scoring``.

Written after the structure of B-Pref's reward model: members are separate networks in a list, segments are NumPy
copies, a candidate pair is gathered and evaluated on its own, and k-center recomputes all distances for each pick.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Array = NDArray[np.float32]


def member(in_dim: int, hidden: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_dim, width), nn.LeakyReLU()]
        in_dim = width
    return nn.Sequential(*layers, nn.Linear(in_dim, 1), nn.Tanh())


class PlainEnsemble:
    """Members in a list.

    Args:
        features: observation and action of every row, (N, F).
        ensemble_size: members E.
        hidden: hidden layers of a member.
    """

    def __init__(self, features: Array, ensemble_size: int, hidden: Sequence[int]) -> None:
        self.features = features
        self.members = [member(features.shape[1], hidden) for _ in range(ensemble_size)]
        self.optimizer = torch.optim.Adam([p for m in self.members for p in m.parameters()], lr=3e-4)

    @torch.no_grad()
    def relabel(self) -> Array:
        """Mean reward of every row, all rows in one forward pass per member."""
        rows = torch.from_numpy(self.features)
        return np.mean([m(rows).squeeze(-1).numpy() for m in self.members], axis=0)

    def clips(self, start: NDArray[np.int64], length: int) -> Array:
        """Copies of segments, (n, T, F)."""
        return self.features[start[:, None] + np.arange(length)]

    @torch.no_grad()
    def disagreement(self, start: NDArray[np.int64], length: int) -> Array:
        """Spread of P(first) over members: gather both segments of each pair, evaluate them, sum, softmax."""
        first, second = (torch.from_numpy(self.clips(start[:, side], length)) for side in (0, 1))
        chances = []
        for m in self.members:
            returns = torch.cat([m(first).sum(1), m(second).sum(1)], dim=-1)
            chances.append(F.softmax(returns, dim=-1)[:, 0].numpy())
        return np.std(chances, axis=0)

    def train_epoch(self, first: Array, second: Array, label: NDArray[np.int64], batch_size: int) -> float:
        """One pass over the pairs: each member in its own order, one joint step per minibatch; accuracy of the pass."""
        orders = [np.random.permutation(len(label)) for _ in self.members]
        right = 0
        for at in range(0, len(label), batch_size):
            self.optimizer.zero_grad()
            loss: Tensor | float = 0.0
            for m, order in zip(self.members, orders, strict=True):
                batch = order[at : at + batch_size]
                target = torch.from_numpy(label[batch])
                sums = [m(torch.from_numpy(side[batch])).sum(1) for side in (first, second)]
                logits = torch.cat(sums, dim=-1)
                loss = loss + F.cross_entropy(logits, target)
                right += (logits.argmax(1) == target).sum().item()
            loss.backward()  # type: ignore[union-attr]
            self.optimizer.step()
        return right / (len(label) * len(self.members))


def k_center_by_full_distances(points: Tensor, centres: Tensor, picks: int, block: int = 50) -> list[int]:
    """Farthest-first choice where each pick computes the distances of all points to all centres anew."""
    left, chosen = list(range(len(points))), []
    for _ in range(picks):
        candidates = points[left]
        near = torch.full((len(left),), float("inf"))
        for some in centres.split(block):
            gap = torch.norm(candidates[:, None, :] - some[None, :, :], dim=-1)
            near = torch.minimum(near, gap.min(1).values)
        pick = left.pop(int(near.argmax()))
        chosen.append(pick)
        centres = torch.cat([centres, points[pick : pick + 1]])
    return chosen
