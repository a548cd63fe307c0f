"""Encoder in front of the heads of a reward model: states pass as they are, images by one convolutional encoder.

It serves all heads (members of an ensemble, mean and variance), and the gradient of every head reaches it. All members therefore
read the same minibatches of images, so that an image is encoded once; they differ by their initial weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pbrl.data.relabel import CPU_PICTURES
from lightning_pbrl.data.steps import apart, segments_of
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import Draw, Uniform
from lightning_pbrl.errors import UserError
from lightning_pbrl.nn.picture import PAD, PictureEncoder, whole_pixels


class StepEncoder(nn.Module):
    """Encoder of steps for E members; it sees images where the policy does, and with ``pictures`` where they lie beside states.

    Args:
        spec: sizes given by the data: ``obs_dim``, ``action_dim``, ``pixels`` and ``frames``.
        settings: of the model, by name: ``ensemble_size``, ``pictures``, ``shift`` and, if it has it, ``normalize_obs``.
        name: of the model, for errors.

    Attributes:
        side: side S of the images, pixels; 0 for states.
        shift: largest random shift of images in a fit, pixels.
        features: size G of what heads read of a step.
        orders: orders of minibatches side by side: one for each member, or one for all that share the encoder of images.

    Raises:
        UserError: for settings of images where there are none, and for a shift as large as an image.
    """

    def __init__(self, spec: Mapping[str, Any], settings: Mapping[str, Any], name: str) -> None:
        super().__init__()
        beside = spec.get("frames") if settings["pictures"] else None
        self.side, self.action_dim = int(spec.get("pixels") or beside or 0), int(spec["action_dim"])
        self.members = int(settings["ensemble_size"])
        self.shift = PAD if settings["shift"] is None else int(settings["shift"])
        self.orders, self.torso = 1 if self.side else self.members, None
        self.features = int(spec["obs_dim"] + self.action_dim)
        if not self.side:
            for which, given in (("pictures", settings["pictures"]), ("shift", settings["shift"] is not None)):
                if given:
                    raise UserError(f"{name} has {which}={settings[which]} and sees states: use the simulator Pixels.")
            return
        if settings.get("normalize_obs"):
            raise UserError(f"{name} has normalize_obs and sees images, which are never standardised: set normalize_obs=false.")
        if not 0 <= self.shift < self.side:
            raise UserError(f"{name} has shift={self.shift} for images of {self.side} pixels: give 0 to {self.side - 1}.")
        self.torso = PictureEncoder(self.side)
        self.features = int(self.torso.features + self.action_dim)

    def shifts(self, clips: int | Callable[[], int], length: Callable[[], int], size: int) -> dict[str, Draw]:
        """Return the draw "shift" of ``size`` questions about ``clips`` segments: (2, clips, T, size); none without a shift."""
        return {"shift": Uniform(2, clips, length, size)} if self.side and self.shift else {}

    def segments(self, source: Transitions, start: Tensor, length: int, shift: Tensor | None = None) -> Tensor:
        """Return what is read of segments: (...) starts -> (..., T, F).

        Their images are moved by the first of the drawn :meth:`shifts`, (2, C, T, B) in [0, 1).
        """
        if shift is not None:
            shift = whole_pixels(shift, self.shift).permute(3, 1, 2, 0).flatten(0, 1)[: start.numel()]
        return segments_of(source, start, length, bool(self.side), shift)

    def forward(self, steps: Tensor) -> Tensor:
        """Return what the heads read of steps: (n, F) -> (n, G); steps of all members, (1, n, F) -> (E, n, G)."""
        if self.torso is None:
            return steps
        images, action = apart(steps, self.action_dim)
        found = torch.cat([self.torso(images), action], -1)
        return found if found.dim() == 2 else found.expand(self.members, -1, -1)

    @torch.no_grad()
    def images(self, source: Transitions, rows: Tensor) -> Tensor:
        """Return the features of the images of rows, without actions: (n,) -> (n, G - A)."""
        assert self.torso is not None  # noqa: S101
        seen = (source.pictures(source.frame_ids(part)).flatten(1) for part in rows.split(CPU_PICTURES))
        return torch.cat([self.torso(part) for part in seen])
