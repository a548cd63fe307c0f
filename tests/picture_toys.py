"""Images in which a white dot on black shows the state: in logged data and in a simulator to act in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from online_toys import WalkSimulator
from torch import Tensor, nn

from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.envs.base import Array

SIDE = 16


def dots(place: Tensor, side: int = SIDE) -> Tensor:
    """Images of dots of 3 x 3 pixels in the middle row, at columns from left (-1) to right (1): (n,) -> (n, S, S, 3), uint8."""
    images = torch.zeros(len(place), side, side, 3, dtype=torch.uint8)
    column = ((place + 1) / 2 * (side - 3)).round().long()
    for image, at in zip(images, column.tolist(), strict=True):
        image[side // 2 - 1 : side // 2 + 2, at : at + 3] = 255
    return images


def dot_data(episodes: int = 20, length: int = 20, side: int = SIDE) -> Transitions:
    """Random walks of the dot, paid its place; states (O = 2) that say nothing of it."""
    rng = torch.Generator().manual_seed(0)
    place = torch.rand(episodes, 1, generator=rng) * 2 - 1
    walk = torch.cat([place, 0.5 * torch.randn(episodes, length, generator=rng)], 1).cumsum(1)
    walk = (1 - (walk.remainder(4) - 2).abs()).clamp(-1, 1)  # reflected at both ends
    action = torch.rand(episodes * length, 1, generator=rng) * 2 - 1
    nothing = torch.zeros(episodes * length, 2)
    return Transitions.from_columns(
        nothing,
        action,
        nothing,
        torch.arange(episodes + 1) * length,
        reward=walk[:, :-1].reshape(-1),
        about={"task": "dots"},
        frames=dots(walk.reshape(-1), side),
    )


class DotData(FeedbackDataModule):
    """Logged images without a simulator."""

    def __init__(self, episodes: int = 20, side: int = SIDE, **settings: Any) -> None:
        super().__init__(**{"segment_length": 4, "held_out_pairs": 50, **settings})
        self.episodes, self.side = episodes, side

    def load(self) -> Transitions:
        return dot_data(self.episodes, side=self.side)


class SeenWalk(WalkSimulator):
    """The walking point with an image of every step beside its state."""

    frames = SIDE

    def make(self, render: bool = False) -> Any:
        env = super().make(render)
        env.physics = _Drawn(env.physics, bool(self.pixels))
        return env


class _Drawn:
    def __init__(self, physics: Any, alone: bool) -> None:
        self.physics, self.alone = physics, alone

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        return self._seen(*self.physics.begin(seed))

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        obs, reward, terminated, info = self.physics.advance(action)
        obs, info = self._seen(obs, info)
        return obs, reward, terminated, info

    def _seen(self, state: Array, info: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
        image = self._image()
        return image.reshape(-1) if self.alone else state, {**info, "picture": image, "state": state}

    def _image(self) -> Array:
        return np.asarray(dots(torch.tensor([float(np.clip(self.physics.x / 3, -1, 1))]))[0])


class PictureWalk(SeenWalk):
    """The walking point whose policies see the image, and nothing of the state."""

    pixels = SIDE
    obs_dim = SIDE * SIDE * 3

    @property
    def state_dim(self) -> int:
        return 2


class ColourMeans(nn.Module):
    """A network: the mean of each colour in the left and in the right half of an image, times a gain; counts images."""

    seen = 0

    def __init__(self, gain: float = 1.0, **arguments: Any) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images: Tensor) -> Tensor:
        ColourMeans.seen += len(images)
        halves = images.unflatten(-1, (2, -1)).mean((2, 4))  # (n, 3, 2)
        return self.gain * halves.flatten(1)
