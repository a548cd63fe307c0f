"""Convolutional encoder of 64 x 64 images (Acme's AtariTorso), as contrastive RL uses it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, kernel and stride (Mnih et al. 2015, "Human-level control", as Acme's AtariTorso)."""


class AtariTorso(nn.Module):
    """Convolutional image encoder: three convolutions, each with a ReLU, flattened (64 x 64 images: 4096 features).

    Padding follows TensorFlow's and JAX's "SAME": a layer of stride s maps n pixels to ceil(n / s), and the odd padding pixel
    comes last. PyTorch pads both sides alike and has no "same" for strides.

    Args:
        size: side S of an image, in pixels.
        pictures: number of images side by side; their features are concatenated.

    Initialisation: weights from a normal distribution of standard deviation 1 / sqrt(fan in), truncated at two of them;
    biases 0 (Haiku).

    Attributes:
        features: size of the output.
    """

    def __init__(self, size: int, pictures: int = 1) -> None:
        super().__init__()
        self.size, self.pictures = size, pictures
        self.convolutions, self.padding = nn.ModuleList(), []
        channels, side = 3, size
        for out, kernel, stride in LAYERS:
            layer = nn.Conv2d(channels, out, kernel, stride)
            std = (channels * kernel * kernel) ** -0.5
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            self.convolutions.append(layer)
            smaller = -(-side // stride)
            total = max((smaller - 1) * stride + kernel - side, 0)
            low = total // 2
            self.padding.append((low, total - low, low, total - low))
            channels, side = out, smaller
        self.features = pictures * channels * side * side

    def forward(self, x: Tensor) -> Tensor:
        """Encode flat images with values 0..255 of any type: (B, pictures S S 3) -> (B, features).

        Pixels are ordered row by row, each with its three channels.
        """
        B, side = x.shape[0], self.size
        x = x.reshape(B * self.pictures, side, side, 3).permute(0, 3, 1, 2).to(self.convolutions[0].weight.dtype) / 255.0  # type: ignore[arg-type]
        for layer, padding in zip(self.convolutions, self.padding, strict=True):
            x = torch.relu(layer(F.pad(x, padding)))
        return x.permute(0, 2, 3, 1).reshape(B, self.features)  # row, column, channel, as the reference


CODE = 50
"""Features that heads read of an image (DrQ: its encoder's output)."""
TILE = 64
"""Images encoded at once without a gradient: their activations stay in a CPU's cache."""
PAD = 4
"""Largest random shift of an image, pixels (DrQ)."""


class PictureEncoder(nn.Module):
    """Encoder of images for heads that share it: AtariTorso, then a linear layer, a LayerNorm and tanh (DrQ's trunk).

    The torso needs a third of the arithmetic of DrQ-v2's four 3 x 3 convolutions at 64 x 64 pixels.

    Source: Kostrikov, Yarats, Fergus 2020, "Image augmentation is all you need" (arXiv 2004.13649), appendix B.

    Args:
        size: side S of an image, pixels.

    Attributes:
        features: size of the output, :data:`CODE`.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.torso, self.features = AtariTorso(size), CODE
        self.trunk, self.norm = nn.Linear(self.torso.features, CODE), nn.LayerNorm(CODE)

    def forward(self, images: Tensor) -> Tensor:
        """Encode flat images with values 0..255 of any type: (..., S S 3) -> (..., features), in (-1, 1)."""
        flat = images.reshape(-1, images.shape[-1])
        code = self._encode(flat) if torch.is_grad_enabled() else torch.cat([self._encode(part) for part in flat.split(TILE)])
        return code.view(*images.shape[:-1], self.features)

    def _encode(self, images: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.trunk(self.torso(images))))


class Trunk(nn.Module):
    """Linear layer, LayerNorm and tanh from the features of convolutions to :data:`CODE` numbers (DrQ), for an actor of its own.

    Args:
        inputs: size of the input.

    Attributes:
        features: size of the output.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear, self.norm, self.features = nn.Linear(inputs, CODE), nn.LayerNorm(CODE), CODE

    def forward(self, x: Tensor) -> Tensor:
        """Return the code: (..., inputs) -> (..., features), in (-1, 1)."""
        return torch.tanh(self.norm(self.linear(x)))


def shifted(images: Tensor, by: Tensor) -> Tensor:
    """Move images by whole pixels; border pixels are repeated where nothing was seen (pad, then crop: DrQ, sec. 4.1).

    Args:
        images: (n, S, S, 3).
        by: pixels that the crop moves down and to the right, (n, 2), int64.

    Returns:
        Images of the same size and type.
    """
    at = torch.arange(images.shape[1], device=images.device)
    down, right = (at + by[:, :, None]).clamp(0, images.shape[1] - 1).unbind(1)
    which = torch.arange(len(images), device=images.device)
    return images[which[:, None, None], down[:, :, None], right[:, None, :]]


def whole_pixels(u: Tensor, largest: int) -> Tensor:
    """Return uniform numbers in [0, 1) as moves from -``largest`` to ``largest`` pixels, same shape, int64."""
    return (u * (2 * largest + 1)).long() - largest
