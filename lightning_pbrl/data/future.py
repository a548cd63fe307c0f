"""Sampler of future states from the discounted state occupancy of an episode.

The goal of row t is the observation that follows row j >= t of the same episode. P(j | t) is proportional to discount^(j - t),
truncated at the episode's end. Source: LAEO (Hatch et al. 2023, arXiv 2307.13101, sec. 3) and its released code, where the goal
is observation k = j + 1 of the trajectory.

Uniform numbers are mapped by the inverse distribution function. A block of updates is thus one call, and the draws of an update
do not depend on its block. Everything runs on the data's device. Uniform numbers from a stream on the CPU give the same rows on
every device, except for numbers within rounding of the border between two rows.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine.draws import Draw, Place
from lightning_pbrl.errors import UserError


class Futures(Draw):
    """Steps and their futures: an episode uniformly, a step of it uniformly, then its future.

    Rows with an unknown next observation (not ``drawable``) are neither step nor future.

    Args:
        source: the data; episodes are looked up on the device where it is now.
        discount: discount of the future, in (0, 1). The mean distance of an untruncated future is discount / (1 - discount)
            steps.
        size: pairs per update.

    Raises:
        UserError: if ``discount`` lies outside, an episode has no step with a known next observation, or an episode has such
            a step after a step without.

    Bias: all episodes weigh the same, so a step of a short one is drawn more often. The distribution is truncated at the
    end of the episode, which makes near futures of late steps likelier than without a limit.
    """

    def __init__(self, source: Transitions, discount: float, size: int = 1) -> None:
        if not 0.0 < discount < 1.0:
            raise UserError(f"discount is {discount:g}, and futures weigh discount^k: give one between 0 and 1.")
        self.discount, self.width = discount, 3 * size
        known = torch.ones(len(source), dtype=torch.bool)
        if source.drawable is not None:
            known.zero_()[source.drawable.cpu()] = True
        before = torch.cat([torch.zeros(1, dtype=torch.int64), known.long().cumsum(0)])
        offsets = source.episodes.offsets
        self.count = before[offsets[1:]] - before[offsets[:-1]]
        """Number of steps per episode that can be drawn, (M,)."""
        empty = (self.count == 0).nonzero()[:, 0]
        if len(empty) or not len(self.count):
            first = f" (number {int(empty[0])} is the first)" if len(empty) else ""
            raise UserError(
                f"{len(empty)} of {len(self.count)} episodes{first} have no step with a known next observation, so no future "
                "can be drawn in them: leave them out, or record the observation that follows the last step."
            )
        numbers = known.nonzero()[:, 0]
        at = before[offsets[:-1]]
        self.first = numbers[at]
        """First such step of each episode, (M,)."""
        gaps = (numbers[at + self.count - 1] - self.first + 1 != self.count).nonzero()[:, 0]
        if len(gaps):
            raise UserError(
                f"Episode {int(gaps[0])} has a step whose next observation is not known between steps where it is, and a future "
                "must not jump over it: split the episode there."
            )
        self.count, self.first = self.count.to(source.device), self.first.to(source.device)

    def __call__(self, u: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        return self.draw(u.unflatten(-1, (-1, 3)))

    def rows(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return steps and the number of futures of each (itself included).

        Args:
            u: uniform numbers in [0, 1) for the episode and for the step, (..., 2), float64, on the data's device.

        Returns:
            Row ids t and numbers n, (...,), int64, on that device; futures are the rows t .. t + n - 1.
        """
        episode = (u[..., 0] * len(self.count)).long()
        count = self.count[episode]
        step = (u[..., 1] * count).long()
        return self.first[episode] + step, count - step

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a step and its future.

        Args:
            u: uniform numbers in [0, 1) for episode, step and future, (..., 3), float64, on the data's device.

        Returns:
            Row ids t and j, (...,), int64, on that device; the goal of t is ``next_obs`` of j.
        """
        row, count = self.rows(u[..., :2])
        # P(j - t <= k) = (1 - discount^(k + 1)) / (1 - discount^n), solved for k
        log = math.log(self.discount)
        below = -torch.expm1(count * log)
        ahead = (torch.log1p(-u[..., 2] * below) / log).long()
        return row, row + torch.minimum(ahead, count - 1)


def __getattr__(name: str) -> Any:
    """Return :class:`Futures` under its former name, with a warning; until the next version."""
    if name == "FutureSampler":
        warnings.warn("FutureSampler is now called Futures: import it by that name.", FutureWarning, stacklevel=2)
        return Futures
    raise AttributeError(name)
