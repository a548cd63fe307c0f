"""Table that every learner reads: one packed row per transition, on the learner's device.

A row is ``obs | action | next_obs | learned_reward | terminated | truncated`` in float32, so that a minibatch is a single
``index_select``. The *true* reward has a column of its own, outside the row: teachers, oracles and evaluation may read it, a
learner cannot read it by accident. ``learned_reward`` is NaN until a reward model or a control has written it.

The observation after the last step of a trajectory was not always recorded. Such a row repeats its own as ``next_obs`` and is
left out of ``drawable``, the rows that learners may draw as single transitions; any row may be part of a segment.

Images are stored once per time step, not twice per row: an episode of n rows has n + 1 of them. They may lie in a file that
is only mapped into memory; a batch of them is moved when it is gathered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Clips, Query
from lightning_pbrl.data.segments import Episodes, SegmentPool, segment_rows
from lightning_pbrl.errors import UserError

ROW_COLUMNS = ("obs", "action", "next_obs", "learned_reward", "terminated", "truncated")
"""Columns of a packed row, in order."""

FRAMES_ON_DEVICE = 4 << 30
"""Bytes of images that may lie on a GPU; more stay on the CPU, mapped from their file, and batches are moved."""

PER_EPISODE = ("behaviours", "reset_seeds", "interventions")
"""Entries of ``about`` that have one value per episode of collected data."""

_SELECTED = (*PER_EPISODE, "demos", "episode_tasks")  # the same of other data, too


def row_layout(obs_dim: int, action_dim: int) -> dict[str, tuple[int, int]]:
    """Return first entry and width of each column of a packed row."""
    widths = {"obs": obs_dim, "action": action_dim, "next_obs": obs_dim, "learned_reward": 1, "terminated": 1, "truncated": 1}
    layout, at = {}, 0
    for name in ROW_COLUMNS:
        layout[name] = (at, widths[name])
        at += widths[name]
    return layout


def fetch(table: Tensor, index: Tensor) -> Tensor:
    """Return rows of a table, also of a strided one: (N, ...), (..., B) -> (..., B, ...)."""
    return table.index_select(0, index.reshape(-1)).view(*index.shape, *table.shape[1:])


def unpack(rows: Tensor, layout: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """Return views of packed rows by column name: (..., W) -> {obs: (..., O), ..., learned_reward: (...,)}.

    Columns of width one lose their last axis.
    """
    return {
        name: rows[..., at] if width == 1 and name not in ("obs", "action", "next_obs") else rows.narrow(-1, at, width)
        for name, (at, width) in layout.items()
    }


class Transitions:
    """Data set (or replay) as one table of packed rows plus its episodes.

    Args:
        rows: (N, W) float32, packed as in :func:`row_layout`.
        offsets: episode offsets, (M + 1,), int64, from 0 to N.
        reward: true reward per step, (N,), float32; None when unknown.
        success: True if the task was solved at that step, (N,), bool; None when unknown.
        success_unknown: True for steps of unknown success, (N,), bool; ``success`` is false there. None when there are none.
        obs_dim: observation size O.
        action_dim: action size A.
        about: origin of the data (task, versions, seeds ...), plain JSON types only.
        fingerprint: hash of the content, if already known.
        drawable: ids of the rows that may be drawn as single transitions, (D,), int64, D > 0; None for all rows.
        frames: images of S x S pixels, one per time step, (N + M, S, S, 3), uint8, on any device; None without. ``obs`` is
            then a small state of the simulator that policies do not see.
    """

    forgets: ClassVar[bool] = False
    """True if rows are overwritten one day; such a table has ``copies`` of the asked segments."""

    def __init__(
        self,
        rows: Tensor,
        offsets: Tensor,
        reward: Tensor | None,
        success: Tensor | None,
        obs_dim: int,
        action_dim: int,
        about: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
        drawable: Tensor | None = None,
        frames: Tensor | None = None,
        success_unknown: Tensor | None = None,
    ) -> None:
        self.packed, self.episodes = rows, Episodes(offsets)
        self._store, self._offsets = [frames], offsets  # a list shared by parts: images are moved for all of them
        self._shift: Tensor | None = None  # of a part: id of a row's image minus id of the row, by episode, (M,)
        self._own: Tensor | None = None  # of a part: its images together, once asked for
        self.reward = reward if reward is not None else torch.full((len(rows),), float("nan"))
        self.success, self.success_unknown, self.drawable = success, success_unknown, drawable
        self.obs_dim, self.action_dim = obs_dim, action_dim
        self.layout = row_layout(obs_dim, action_dim)
        self.about = dict(about or {})
        self.version = 0
        self._fingerprint = fingerprint

    @classmethod
    def from_columns(
        cls,
        obs: Tensor,
        action: Tensor,
        next_obs: Tensor,
        offsets: Tensor,
        reward: Tensor | None = None,
        terminated: Tensor | None = None,
        truncated: Tensor | None = None,
        success: Tensor | None = None,
        about: Mapping[str, Any] | None = None,
        drawable: Tensor | None = None,
        frames: Tensor | None = None,
        success_unknown: Tensor | None = None,
    ) -> Transitions:
        """Pack separate columns, (N, O), (N, A), (N, O), (N,) ..., into one table."""
        layout = row_layout(obs.shape[1], action.shape[1])
        at, width = layout["truncated"]
        rows = torch.empty(len(obs), at + width, dtype=torch.float32)
        columns = {"obs": obs, "action": action, "next_obs": next_obs, "terminated": terminated, "truncated": truncated}
        for name, (at, width) in layout.items():
            values = columns.get(name)
            if name == "learned_reward":
                rows[:, at] = float("nan")
            else:
                rows[:, at : at + width] = 0.0 if values is None else values.reshape(len(obs), width).float()
        true = None if reward is None else reward.reshape(-1).float()
        rest: dict[str, Any] = {"drawable": drawable, "frames": frames, "success_unknown": success_unknown}
        return cls(rows, offsets.long(), true, success, obs.shape[1], action.shape[1], about, **rest)

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def device(self) -> torch.device:
        """Device of the packed rows."""
        return self.packed.device

    def to(self, device: torch.device | str) -> Transitions:
        """Move rows, rewards, success and drawable to ``device`` (in place); episodes stay on the CPU.

        Images stay bytes, and move to another device than the CPU when they are at most :data:`FRAMES_ON_DEVICE` bytes.
        """
        self.packed, self.reward = self.packed.to(device), self.reward.to(device)
        self.success = None if self.success is None else self.success.to(device)
        self.success_unknown = None if self.success_unknown is None else self.success_unknown.to(device)
        self.drawable = None if self.drawable is None else self.drawable.to(device)
        stored = self._stored
        if stored is not None and torch.device(device).type != "cpu" and stored.nbytes <= FRAMES_ON_DEVICE:
            self._store[0] = stored.to(device)
        return self

    @property
    def written(self) -> Tensor | None:
        """Ids of the written rows, ascending; None if all are."""
        return None

    @property
    def size(self) -> int:
        """Number of rows to learn from."""
        return len(self)

    @property
    def drawable_count(self) -> int:
        """Number of rows that may be drawn as single transitions."""
        return len(self) if self.drawable is None else len(self.drawable)

    def drawable_rows(self, number: Tensor) -> Tensor:
        """Return row ids of the drawable rows 0 .. ``drawable_count`` - 1, on the table's device, same shape as ``number``."""
        number = number.to(self.device)
        return number if self.drawable is None else self.drawable[number]

    def drawable_part(self, values: Tensor) -> Tensor:
        """Select the drawable rows' values, (``drawable_count``, ...), from one value per row, (N, ...)."""
        return values if self.drawable is None else values[self.drawable]

    def column(self, name: str) -> Tensor:
        """Return a view of one column of every row: (N, O), (N, A) or (N,)."""
        return unpack(self.packed, {name: self.layout[name]})[name]

    def features(self) -> Tensor:
        """Return a view of observation and action side by side, the input of a reward model, (N, O + A)."""
        return self.packed.narrow(1, 0, self.obs_dim + self.action_dim)

    def write(self, name: str, values: Tensor, index: Tensor | None = None) -> None:
        """Overwrite a column (all rows, or the rows ``index``) and advance :attr:`version`.

        Raises:
            UserError: for any column but ``learned_reward``; observed data are never overwritten.
        """
        if name != "learned_reward":
            raise UserError(f"Column {name!r} holds what was observed; only learned_reward may be written.")
        target = self.column(name)
        if index is None:
            target.copy_(values)
        else:
            target.index_copy_(0, index, values.to(target))
        self.version += 1

    def pool(self, length: int, recent: int | None = None, context: int = 0) -> SegmentPool:
        """Return all segments of ``length`` steps, ``context`` more on each side; with ``recent``, of the newest episodes."""
        keep = None if recent is None else torch.arange(max(0, len(self.episodes) - recent), len(self.episodes))
        return SegmentPool(self.episodes, length, keep, context)

    def first_of(self, rows: Tensor) -> Tensor:
        """Return the first row of the episode of each row, (n,), on the CPU."""
        return self.episodes.offsets[self.episodes.of(rows)]

    def segments(self, start: Tensor, length: int) -> Tensor:
        """Return observation and action of segments: (...,) starts -> (..., length, O + A)."""
        index = segment_rows(start.to(self.device), length)
        return self.features().index_select(0, index.reshape(-1)).view(*index.shape, self.obs_dim + self.action_dim)

    def clips(self, query: Query) -> Clips:
        """Return the clips of ``query`` for a teacher, on the CPU, true rewards included."""
        index = segment_rows(query.start.to(self.device), query.length)
        obs, action = self.features()[index].cpu().split([self.obs_dim, self.action_dim], -1)
        return Clips(obs, action, self.reward[index].cpu())

    def true_returns(self, query: Query) -> Tensor:
        """Return the undiscounted true return of each segment, environment units: (B, C)."""
        return self.reward[segment_rows(query.start.to(self.device), query.length)].sum(-1)

    def mean_reward(self) -> float:
        """Return the mean true reward per step, environment units; adaptive teachers scale their thresholds with it."""
        return float(self.reward.double().mean())

    def solved_episodes(self) -> tuple[Tensor, Tensor]:
        """Return masks of episodes with a successful step, and of those known to have none, (M,), bool, on the CPU.

        An episode without a success and with unknown steps is in neither.

        Raises:
            UserError: if success is not known at all.
        """
        if self.success is None:
            raise UserError("These data do not say which episodes succeed.")
        solved = self.episodes.sums(self.success) > 0
        unknown = torch.zeros_like(solved) if self.success_unknown is None else self.episodes.sums(self.success_unknown) > 0
        return solved, ~solved & ~unknown

    # Images --------------------------------------------------------------------------------------------------------------

    @property
    def frames(self) -> Tensor | None:
        """Images, (N + M, S, S, 3), uint8; those of a part are copied together when first asked for."""
        stored = self._stored
        if stored is not None and self._shift is not None and self._own is None:
            self._own = torch.cat(list(self._stretches(stored)))
        return stored if self._shift is None else self._own

    @frames.setter
    def frames(self, frames: Tensor | None) -> None:
        self._store, self._shift, self._own = [frames], None, None

    @property
    def _stored(self) -> Tensor | None:
        """All images that :meth:`frame_ids` counts, also those of other parts."""
        return self._store[0]

    @property
    def has_pictures(self) -> bool:
        """True if policies see images."""
        return self._stored is not None

    def _stretches(self, stored: Tensor) -> Iterator[Tensor]:
        """Yield the images of each episode, views, (n + 1, S, S, 3)."""
        first = self.frame_ids(self.episodes.first)
        for at, length in zip(first.tolist(), self.episodes.lengths.tolist(), strict=True):
            yield stored[at : at + length + 1]

    @property
    def shown_dim(self) -> int:
        """Size of the observation of a policy: S * S * 3 with images, else O."""
        return self.obs_dim if self._stored is None else self._stored[0].numel()

    def frame_ids(self, rows: Tensor) -> Tensor:
        """Return the image ids of rows, as :meth:`pictures` counts them, same shape and device; the next id is one step later.

        Row r of episode e has the image r + e; a part counts as the data that it was selected from.
        """
        if self._offsets.device != rows.device:
            self._offsets = self.episodes.offsets.to(rows.device)
            self._shift = None if self._shift is None else self._shift.to(rows.device)
        episode = torch.searchsorted(self._offsets, rows.contiguous(), right=True) - 1
        return rows + (episode if self._shift is None else self._shift[episode])

    def pictures(self, ids: Tensor) -> Tensor:
        """Return images by number, (...,) -> (..., S, S, 3), uint8, on the table's device.

        Raises:
            UserError: if these data have none.
        """
        stored = self._stored
        if stored is None:
            raise UserError("These data have states only, no pictures: collect them with the simulator Pixels.")
        found = stored.index_select(0, ids.to(stored.device).reshape(-1)).to(self.device)
        return found.view(*ids.shape, *found.shape[1:])

    # Parts ---------------------------------------------------------------------------------------------------------------

    def select(self, episodes: Tensor) -> Transitions:
        """Return a copied table of some of the episodes, in the order given; images are shared, not copied.

        Args:
            episodes: numbers of the episodes, (m,), int64, m > 0; they also select the per-episode entries of ``about``.
        """
        episodes = episodes.cpu()
        lengths = self.episodes.lengths[episodes]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        inside = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(lengths)
        rows = (inside + self.episodes.first[episodes].repeat_interleave(lengths)).to(self.device)
        drawable = None
        if self.drawable is not None:
            may = torch.zeros(len(self), dtype=torch.bool, device=self.device)
            may[self.drawable] = True
            drawable = may[rows].nonzero().squeeze(-1)
        about = {
            name: [value[e] for e in episodes.tolist()] if isinstance(value, list) and name in _SELECTED else value
            for name, value in self.about.items()
        }
        part = Transitions(
            self.packed[rows],
            offsets,
            self.reward[rows],
            None if self.success is None else self.success[rows],
            self.obs_dim,
            self.action_dim,
            {**about, "of": {"fingerprint": self.fingerprint, "episodes": episodes.tolist()}},
            drawable=drawable,
            success_unknown=None if self.success_unknown is None else self.success_unknown[rows],
        )
        if self._stored is not None:
            part._store = self._store
            part._shift = self.frame_ids(self.episodes.first[episodes]) - offsets[:-1]
        return part

    @property
    def fingerprint(self) -> str:
        """Hash of the observed data (not of ``learned_reward``, nor of ``drawable``); labels are bound to it."""
        if self._fingerprint is None:
            digest = hashlib.blake2b(digest_size=16)
            at = self.layout["learned_reward"][0]
            pictures = () if self._stored is None else self._stretches(self._stored)
            for part in (*self.packed[:, :at].split(16_384), self.reward, self.episodes.offsets, *pictures):
                digest.update(part.cpu().contiguous().numpy().data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint
