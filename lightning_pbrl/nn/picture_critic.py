"""Critics of images (DrQ): convolutions that the critics' loss trains and an actor reads, and what follows them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.mlp import MLP
from lightning_pbrl.nn.picture import TILE, AtariTorso, Trunk


class PictureCritic(nn.Module):
    """Two critics of images and actions that share an encoder: convolutions, then :class:`~lightning_pbrl.nn.picture.Trunk`.

    The convolutions are called by :meth:`see`, because actor and critics read the same features of an image.

    Source: Kostrikov, Yarats, Fergus 2020, "Image augmentation is all you need" (arXiv 2004.13649), appendix B.

    Args:
        size: side S of an image, pixels.
        action_dim: action size A.
        hidden: sizes of the critics' hidden layers.
        layer_norm: standardise these.
    """

    def __init__(self, size: int, action_dim: int, hidden: Sequence[int], layer_norm: bool = False) -> None:
        super().__init__()
        self.convolutions = AtariTorso(size)
        self.trunk, self.action_dim = Trunk(self.convolutions.features), action_dim
        self.heads = MLP(self.trunk.features + action_dim, 1, hidden, members=2, ortho_init=True, layer_norm=layer_norm)

    def see(self, images: Tensor) -> Tensor:
        """Return the features of flat images with values 0..255 of any type: (B, S S 3) -> (B, G)."""
        if torch.is_grad_enabled():
            return self.convolutions(images)
        return torch.cat([self.convolutions(part) for part in images.split(TILE)])

    def forward(self, steps: Tensor) -> Tensor:
        """Return both values of features and actions side by side: (B, G + A) -> (2, B, 1)."""
        features, action = steps.split([steps.shape[-1] - self.action_dim, self.action_dim], -1)
        found: Tensor = self.heads(torch.cat([self.trunk(features), action], -1))
        return found
