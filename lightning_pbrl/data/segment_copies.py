"""Copies of the segments that were asked about, for a replay that overwrites its rows one day.

They lie behind the replay's ring and its logged rows, in the same table, at a place that follows from the question's number
alone. Labels that name these rows stay valid whatever the ring overwrites.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Clips, Query
from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.errors import UserError


@dataclass
class Places:
    """Layout of a replay's rows behind the ring: as many segments to each question as the largest has.

    Attributes:
        clips: segments there is room for in a question.
        length: steps per segment.
        context: further steps that are kept on each side.
        room: questions there is room for.
        count: questions up to the highest number that was kept.
    """

    length: int = 0
    context: int = 0
    room: int = 0
    count: int = 0
    clips: int = 2

    @property
    def whole(self) -> int:
        """Steps that are kept of a segment."""
        return self.length + 2 * self.context

    @property
    def rows(self) -> int:
        """Rows there is room for."""
        return self.clips * self.room * self.whole

    @property
    def written(self) -> int:
        """Rows up to the last that was written."""
        return self.clips * self.count * self.whole


class SegmentCopies:
    """Keeps what was asked about, in a replay and as content for a label store.

    Args:
        replay: the :class:`~lightning_pbrl.data.replay.Replay` whose segments are asked about.
    """

    def __init__(self, replay: Any) -> None:
        self.replay, self.places = replay, replay.places

    def reserve(self, questions: int, length: int, context: int = 0, clips: int = 2) -> None:
        """Make room for ``questions`` questions of at most ``clips`` segments each.

        Raises:
            UserError: when no episode can hold a segment, and when segments of another length, or of questions about fewer, are
                kept already.
        """
        at, horizon = self.places, self.replay.horizon
        if length + 2 * context > horizon:
            sides = f" and {context} more on each side" if context else ""
            raise UserError(
                f"A segment has {length} steps{sides} and an episode at most {horizon}: choose a smaller segment_length."
            )
        if at.count and (length, context) != (at.length, at.context):
            raise UserError(
                f"The replay keeps segments of {at.length} steps (context {at.context}) and is asked to keep others of "
                f"{length} (context {context}): use one segment_length per run."
            )
        if at.count and clips > at.clips:
            raise UserError(
                f"The replay keeps at most {at.clips} segments of a question and now gets one about {clips}: let the attribute "
                "segments of the strategy be the largest number that it asks about."
            )
        if (length, context) != (at.length, at.context) or questions > at.room or clips > at.clips:
            at.length, at.context, at.room, at.clips = length, context, max(questions, at.room), max(clips, at.clips)
            self.replay.move(self.replay.device)

    def placed(self, start: Tensor, number: int | Tensor) -> Tensor:
        """Return where the copies of the segments of the questions ``number``, ``number`` + 1, ... begin, (B, C).

        Args:
            start: where the segments were, (B, C), with C = 2 for pairs, 1 for ratings and k for the best of k.
            number: of the first question, or of every one, (B,).
        """
        at = self.places
        numbers = number + torch.arange(start.shape[0]) if isinstance(number, int) else number
        slot = at.clips * numbers[:, None] + torch.arange(start.shape[1])  # a question about fewer leaves the last places free
        return self.replay.logged.end + slot * at.whole + at.context

    def named(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return number of the question and of its segment for copies that begin at these rows; the inverse of :meth:`placed`."""
        slot = (start - self.replay.logged.end - self.places.context) // self.places.whole
        return slot // self.places.clips, slot % self.places.clips

    def keep(self, query: Query, number: int) -> Query:
        """Copy the segments of the questions ``number``, ``number`` + 1, ...; return the same questions about the copies.

        Raises:
            UserError: for questions about more segments than others before, unless room was made for these.
        """
        self.reserve(number + len(query), query.length, self.places.context, query.start.shape[1])
        index = self._whole(query)
        images = self.replay.pictures(index) if self.replay.has_pictures else None
        self._fill(number, self.replay.features()[index], self.replay.reward[index], images)
        return Query(query.kind, self.placed(query.start, number), query.length)

    def content(self, query: Query) -> Clips:
        """Return what a label store must hold so that :meth:`restore` can bring the copies back.

        Returns:
            The asked segments with their context, on the CPU: (B, C, length + 2 context, ...).
        """
        index, replay = self._whole(query), self.replay
        obs, action = replay.features()[index].cpu().split([replay.obs_dim, replay.action_dim], -1)
        images = replay.pictures(index).cpu() if replay.has_pictures else None
        return Clips(obs, action, replay.reward[index].cpu(), images)

    def restore(self, number: int | Tensor, clips: Clips) -> None:
        """Bring back the copies of the questions ``number``, ``number`` + 1, ..., as :meth:`content` gave them.

        Args:
            number: of the first question, or of every one, (B,).
            clips: what they are about, (B, C, ...).

        Raises:
            UserError: when they are of another length, or lack the images that the replay has.
        """
        if self.replay.has_pictures and clips.frames is None:
            raise UserError("The label store holds segments without images and this replay has them: use a new run folder.")
        if clips.obs.shape[2] != self.places.whole:
            raise UserError(
                f"The label store holds segments of {clips.obs.shape[2]} steps and this run shows {self.places.whole} (context "
                "included): set segment_length back, or use a new run folder or ask.run."
            )
        device = self.replay.device
        images = clips.frames if self.replay.has_pictures else None
        self._fill(number, torch.cat([clips.obs, clips.action], -1).to(device), clips.reward.to(device), images)

    def _whole(self, query: Query) -> Tensor:
        """Return row ids of the asked segments with their context, (B, C, length + 2 context)."""
        context = self.places.context
        return segment_rows(query.start.to(self.replay.device) - context, query.length + 2 * context)

    def _fill(self, number: int | Tensor, features: Tensor, reward: Tensor, images: Tensor | None) -> None:
        """Write segments with context, (B, C, S, O + A), (B, C, S) and (B, C, S, ...), to their places."""
        start = self.placed(features[:, :, 0, 0], number).to(self.replay.device)
        rows = segment_rows(start - self.places.context, features.shape[2])
        self.replay.features()[rows] = features
        self.replay.reward[rows] = reward
        if images is not None:
            self.replay.frames[rows.cpu()] = images.cpu()
        last = number + len(features) - 1 if isinstance(number, int) else int(number.max())
        self.places.count = max(self.places.count, last + 1)
        self.replay.version += 1
