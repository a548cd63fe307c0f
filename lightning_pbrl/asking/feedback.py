"""Output of a session: questions that wait for an answer, and the answers that a learner gets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Asked, Clips, Kind, Labels, Query


class Due(NamedTuple):
    """Questions of one kind that wait for an answer.

    Attributes:
        numbers: within the run, (B,), int64.
        query: where their segments lie, B questions.
        clips: what is shown, (B, C, T, ...), on the CPU.
        keys: the randomness of a simulated answer, (B,), int64.
    """

    numbers: Tensor
    query: Query
    clips: Clips
    keys: Tensor


class Feedback(NamedTuple):
    """Labels, ratings and counts that a learner gets at the start of a round.

    Attributes:
        labels: all answers about pairs, given with the data or by a teacher.
        ratings: all answers about single clips.
        asked: how many questions there were and will be.
        pending: questions that nobody has answered yet.
        metrics: what to log about questions and answers, by metric key.
        others: answers of other kinds, by kind.
    """

    labels: Labels
    ratings: Labels
    asked: Asked
    pending: int
    metrics: dict[str, float]
    others: dict[Kind, Labels]


class Batch(NamedTuple):
    """Answered questions of one kind: starts (B, C), values (B,), statuses (B,) and true rewards (B, C, T)."""

    start: Tensor
    value: Tensor
    status: Tensor
    reward: Tensor

    @staticmethod
    def joined(batches: list[Batch]) -> Batch:
        """Join batches of one kind."""
        return Batch(*(torch.cat(column) for column in zip(*batches, strict=True)))
