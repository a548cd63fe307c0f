"""Which later state a step is paired with: a future drawn from the discounted distribution of what follows in its episode.

The goal of row t is the observation that follows row j >= t of the same episode, with P(j | t) proportional to
discount^(j - t) and cut off at the episode's end. Source: LAEO (Hatch et al. 2023, arXiv 2307.13101, sec. 3) and its
released code, where the goal is observation k = j + 1 of the trajectory.

Numbers come in as uniform ones and go out by the inverse distribution function, so that a block of updates is one call, and
what an update draws does not depend on the block it is in. All of it runs on the data's device; uniform numbers from a stream on
the CPU give the same rows on every device, but for numbers within rounding of a border between two of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine.draws import Draw, Place
from lightning_pbrl.errors import UserError


class Futures(Draw):
    """Steps and futures of them, weighted by episode: an episode uniformly, a step of it uniformly, then its future.

    Rows whose next observation is not known (not ``drawable``) are neither step nor future.

    Args:
        source: the data; episodes are looked up on the device where it is now.
        discount: of the future, in (0, 1): the mean distance of an unlimited one is discount / (1 - discount) steps.
        size: pairs per update.

    Raises:
        UserError: when ``discount`` lies outside, an episode has no step with a known next observation, or one has such a step
            after a step without.

    Bias: all episodes weigh the same, so a step of a short one is drawn more often; and a future beyond the end of the record is
    folded back into the episode, which makes near futures of late steps likelier than the law says.
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
        """Steps per episode that can be drawn, (M,)."""
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
        """Steps and how many futures each has (itself included).

        Args:
            u: uniform in [0, 1), for the episode and for the step, (..., 2), float64, on the data's device.

        Returns:
            Row ids t and numbers n, (...,), int64, on that device; futures are the rows t .. t + n - 1.
        """
        episode = (u[..., 0] * len(self.count)).long()
        count = self.count[episode]
        step = (u[..., 1] * count).long()
        return self.first[episode] + step, count - step

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """A step and its future.

        Args:
            u: uniform in [0, 1), for episode, step and future, (..., 3), float64, on the data's device.

        Returns:
            Row ids t and j, (...,), int64, on that device; the goal of t is ``next_obs`` of j.
        """
        row, count = self.rows(u[..., :2])
        # P(j - t <= k) = (1 - discount^(k + 1)) / (1 - discount^n), solved for k
        log = math.log(self.discount)
        below = -torch.expm1(count * log)
        ahead = (torch.log1p(-u[..., 2] * below) / log).long()
        return row, row + torch.minimum(ahead, count - 1)
