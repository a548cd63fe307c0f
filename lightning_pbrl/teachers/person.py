"""A person, who answers when there is time."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query, Status
from lightning_pbrl.teachers.base import Teacher


class Person(Teacher):
    """Leaves every question open, to be answered by a person through a page, a notebook or a file of labels.

    A fit that has nothing else to learn from stops and says so; once the answers are in the label store, it goes on with
    ``--resume``. :class:`~lightning_pbrl.asking.session.AskingSession` hands out the questions one batch at a time.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset(kinds.REGISTRY)
    simulated: ClassVar[bool] = False

    def answers_kind(self, kind: Kind) -> bool:
        """Return True for any kind and axis."""
        return kinds.base_of(kind) in self.kinds

    def __init__(self) -> None:
        """Take no settings: who answers is told with each answer."""

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Postpone every question."""
        return Answer(torch.full((len(query),), torch.nan), torch.full((len(query),), int(Status.PENDING)))
