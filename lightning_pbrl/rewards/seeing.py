"""Base of reward models that can see images in place of states.

One encoder of images serves all heads (members of an ensemble, mean and variance), and the gradient of every head reaches it. All
members therefore read the same minibatches, so that an image is encoded once; they differ by their initial weights.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.data.relabel import CPU_PICTURES
from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.data.steps import apart, segments_of
from lightning_pbrl.engine import Draw, Group, Uniform
from lightning_pbrl.errors import UserError
from lightning_pbrl.nn.picture import PAD, PictureEncoder, whole_pixels
from lightning_pbrl.rewards.base import RewardModel


class SeeingReward(RewardModel, ABC):
    """Base of reward models with the settings ``pictures`` and ``shift``, whose heads read :meth:`seen`.

    Images are seen where the policy sees them (``spec["pixels"]``), and with ``pictures`` where they lie beside states
    (``spec["frames"]``).
    """

    pictures: ClassVar[bool] = True
    torso: PictureEncoder

    @property
    def side(self) -> int:
        beside = self.spec.get("frames") if self.hparams.pictures else None
        return int(self.spec.get("pixels") or beside or 0)

    @property
    def orders(self) -> int:
        """Number of orders of minibatches side by side: one for each member, or one for all that share a torso."""
        return 1 if self.side else int(self.hparams.ensemble_size)

    def build_torso(self) -> int:
        """Create the encoder, if images are seen, and return the size of what the heads read of a step.

        Raises:
            UserError: for settings of images where there are none, and for a shift as large as an image.
        """
        h, side, name = self.hparams, self.side, type(self).__name__
        if not side:
            if h.pictures or h.shift is not None:
                which = "pictures" if h.pictures else "shift"
                raise UserError(f"{name} has {which}={getattr(h, which)} and sees states: use the simulator Pixels.")
            return int(self.spec["obs_dim"] + self.spec["action_dim"])
        if getattr(h, "normalize_obs", False):
            raise UserError(f"{name} has normalize_obs and sees images, which are never standardised: set normalize_obs=false.")
        if not 0 <= self.shift < side:
            raise UserError(f"{name} has shift={h.shift} for images of {side} pixels: give 0 to {side - 1}.")
        self.torso = PictureEncoder(side)
        return int(self.torso.features + self.spec["action_dim"])

    @property
    def shift(self) -> int:
        """Largest random shift of images in a fit, pixels."""
        given = self.hparams.shift
        return PAD if given is None else int(given)

    def group(self, heads: str) -> Group:
        """Return the group called ``heads``: these, and the torso that they share."""
        return Group(self.hparams.lr, modules=(heads, "torso") if self.side else ())

    def shifts(self, clips: int | Callable[[], int], length: Callable[[], int], size: int) -> dict[str, Draw]:
        """Return the draw "shift" of ``size`` questions about ``clips`` segments: (2, clips, T, size); none without a shift."""
        return {"shift": Uniform(2, clips, length, size)} if self.side and self.shift else {}

    def pixels_of(self, u: Tensor | None, count: int) -> Tensor | None:
        """Return the shifts of ``count`` questions in pixels: (2, C, T, B) in [0, 1) -> (1, count, C, T, 2), int64."""
        if u is None:
            return None
        return whole_pixels(u[..., :count], self.shift).permute(3, 1, 2, 0).unsqueeze(0)

    def segments(self, start: Tensor, length: int, shift: Tensor | None = None) -> Tensor:
        """Return what it reads of segments, (...,) starts -> (..., length, F); images moved by :meth:`pixels_of`."""
        return segments_of(self.source, start, length, bool(self.side), shift)

    def seen(self, steps: Tensor) -> Tensor:
        """Return what the heads read of steps: (n, F) -> (n, G); steps of all members, (1, n, F) -> (E, n, G)."""
        if not self.side:
            return steps
        images, action = apart(steps, self.spec["action_dim"])
        found = torch.cat([self.torso(images), action], -1)
        return found if found.dim() == 2 else found.expand(self.hparams.ensemble_size, -1, -1)

    @torch.no_grad()
    def observations(self, query: Query) -> Tensor:
        """Return the observations of the asked segments, (B, C, T, O), or the torso's features of their images."""
        if not self.side:
            return super().observations(query)
        rows, place = segment_rows(query.start.to(self.source.device), query.length).unique(return_inverse=True)
        return self.encoded(rows)[place]

    @torch.no_grad()
    def encoded(self, rows: Tensor) -> Tensor:
        """Return the torso's features of the images of rows, (n,) -> (n, G)."""
        source = self.source
        images = (source.pictures(source.frame_ids(part)).flatten(1) for part in rows.split(CPU_PICTURES))
        return torch.cat([self.torso(part) for part in images])

    def codes(self) -> Tensor:
        """Return the torso's features of the image of every row of logged data, (N, G), kept until the torso moves."""
        now, kept = (id(self.source), self.version()), self._scorers.get("codes")
        if kept is None or kept[0] != now:
            kept = self._scorers["codes"] = now, self.encoded(torch.arange(len(self.source), device=self.source.device))
        found: Tensor = kept[1]
        return found
