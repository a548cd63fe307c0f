"""Logged episodes in a replay: they lie behind its ring, where nothing overwrites them, and join its minibatches.

With a ``share`` every minibatch is put together of logged rows and rows of the policy's own, as RLPD does in halves (Ball et al.
2023, arXiv 2302.02948, sec. 4.1, "symmetric sampling"). Without one all rows are equally likely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.data.segments import Pieces
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError


class LoggedRows:
    """Place of logged episodes in a replay's table.

    Args:
        first: row of the table at which they begin, behind the ring.
        data: the logged data; None for a replay without any.
        share: share of every minibatch that is drawn from them, from 0 to 1, rounded to whole rows; None draws uniformly from
            all rows of the replay.

    Attributes:
        count: number of logged rows.
        end: row behind the last of them.
    """

    def __init__(self, first: int, data: Transitions | None = None, share: float | None = None) -> None:
        self.first, self.data, self.share = first, data, share
        self.count = 0 if data is None else len(data)
        self.end = first + self.count
        self._drawable = None if data is None or data.drawable is None else first + data.drawable.cpu()

    def to(self, device: torch.device | str) -> None:
        """Keep the ids of drawable rows on ``device``."""
        self._drawable = None if self._drawable is None else self._drawable.to(device)

    @property
    def drawable_count(self) -> int:
        """Number of logged rows that may be drawn as single transitions."""
        return self.count if self._drawable is None else len(self._drawable)

    def drawable(self, number: Tensor) -> Tensor:
        """Return the row ids of the drawable rows 0 .. ``drawable_count`` - 1, same shape as ``number``."""
        return self.first + number if self._drawable is None else self._drawable[number.clamp(min=0)]

    def rows(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the ids of all logged rows, (``count``,)."""
        return torch.arange(self.first, self.end, device=device)

    def part(self, size: int) -> int:
        """Return the number of logged rows in a minibatch of ``size`` by the share; 0 without one."""
        return 0 if self.share is None or not self.count else round(size * self.share)

    def drawn(self, u: Tensor, alone: bool) -> tuple[Tensor, Tensor]:
        """Return the ids of a minibatch's logged rows, and the uniform numbers that are left for the others.

        Args:
            u: uniform numbers, (..., B), float64; the first ones of the last axis draw logged rows.
            alone: whether there are no others yet.
        """
        part = u.shape[-1] if alone else self.part(u.shape[-1])
        return self.drawable((u[..., :part] * self.drawable_count).long()), u[..., part:]

    def fill(self, replay: Any) -> None:
        """Copy the logged rows, their true rewards and successes to their places; their learned reward is NaN."""
        if self.data is None:
            return
        there = slice(self.first, self.end)
        replay.packed[there], replay.reward[there] = self.data.packed.cpu(), self.data.reward.cpu()
        replay.column("learned_reward")[there] = torch.nan
        if self.data.success is not None:
            replay.success = torch.zeros(self.end, dtype=torch.bool)
            replay.success[there] = self.data.success.cpu()

    def before(self, own: Pieces, shortest: int, recent: int | None) -> Pieces:
        """Return the logged episodes and, as the newer ones, those of the policy's own, as stretches of the replay's rows.

        Args:
            own: the policy's own, two stretches to an episode.
            shortest: with ``recent``, ignore episodes without this many consecutive rows.
            recent: of all these only the newest; None for all.
        """
        if self.data is None:
            return own
        first, lengths = self.first + self.data.episodes.first, self.data.episodes.lengths
        if recent is not None:
            long = (lengths >= shortest).nonzero().squeeze(1)
            wanted = max(recent - int((own.lengths.view(-1, 2).amax(1) >= shortest).sum()), 0)
            first, lengths = (part[long[max(len(long) - wanted, 0) :]] for part in (first, lengths))
        return Pieces(torch.cat([first, own.first]), torch.cat([lengths, own.lengths]))

    def first_of(self, rows: Tensor, of_ring: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the first row of the episode of each of these rows, on the CPU; ``of_ring`` does so for rows of the ring."""
        assert self.data is not None  # noqa: S101 - a replay without logged rows has none to ask about
        there, found = rows >= self.first, torch.empty_like(rows)
        found[there], found[~there] = self.first + self.data.first_of(rows[there] - self.first), of_ring(rows[~there])
        return found

    def mean_reward(self) -> float:
        """Return the mean true reward per logged step; NaN without logged rows."""
        return float("nan") if self.data is None else self.data.mean_reward()

    def state_dict(self, learned_reward: Tensor) -> dict[str, Any] | None:
        """Return what a checkpoint keeps: which data these are, and the reward they carry; the rows belong to the data module."""
        if self.data is None:
            return None
        return {"fingerprint": self.data.fingerprint, "learned_reward": learned_reward[self.first : self.end].cpu().clone()}

    def load_state_dict(self, replay: Any, state: Mapping[str, Any] | None) -> None:
        """Write the learned reward of a checkpoint; raise a UserError unless it was begun with these logged data."""
        found = None if state is None else state["fingerprint"]
        if found != (None if self.data is None else self.data.fingerprint):
            was = "no logged data" if found is None else "other logged data"
            raise UserError(f"The checkpoint's replay was begun with {was}: set data.init_args.start_from back.")
        if state is not None:
            replay.write("learned_reward", state["learned_reward"], self.rows(replay.device))
