"""Human teachers: people who answer on the labelling page while training goes on."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query, Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.ranges import COUNT, COUNT_OR_NONE, POSITIVE, Range
from lightning_pbrl.teachers.base import UNLEARNED, Teacher


class HumanTeacher(
    Teacher,
    ranges={
        "wait": Range(0),
        "overlap": COUNT,
        "target": COUNT_OR_NONE,
        "timeout": POSITIVE,
        "bins": Range(2),
        "serve": Range(0, 65535),
    },
):
    """Human teacher: every question is left open in the label store, for people to answer on a page, in a notebook or in a file.

    Each round marks the answers that it has seen. A run that is resumed or repeated sees the same answers in the same rounds,
    and ends bit for bit alike.

    Args:
        wait: answers of a round's questions that the round waits for: all of them; a number from 1 on; a share below 1; or none,
            so that training goes on with what is there. The run's first answer that can be learned from is always waited for.
        overlap: different people who answer each question.
        combine: rule by which their answers become a label: the majority; dawid-skene, the most probable answer by each person's
            error rates, which are estimated from all questions so far (Dawid and Skene 1979); or each, with which every answer
            is a label of its own in what is learned from.
        target: usable answers (preferences, equal ones and ratings) after which nothing more is asked, below the budget; 0 for
            none. People cannot tell in a tenth to a third of the cases.
        timeout: seconds after which a question that nobody has answered is shown to somebody else.
        bins: levels of ratings, 0 .. bins - 1.
        serve: True starts the labelling page beside the run and prints a link; a number does so at that port. Options of
            ``lightning-pbrl label`` by name invite more people: ``{"people": ["Ada", "Bob"], "task": "Slide the plate."}``.

    Raises:
        UserError: if ``wait`` is a fraction above 1, or answers of one person are to be combined.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset(kinds.REGISTRY)
    simulated: ClassVar[bool] = False

    def answers_kind(self, kind: Kind) -> bool:
        """Return True for any kind and axis."""
        return kinds.base_of(kind) in self.kinds

    def __init__(
        self,
        wait: Literal["all", "none"] | float = "all",
        overlap: int = 1,
        combine: Literal["majority", "dawid-skene", "each"] = "majority",
        target: int = 0,
        timeout: float = 120.0,
        bins: int = 10,
        serve: bool | int | dict[str, Any] = False,
    ) -> None:
        if not isinstance(wait, str) and wait > 1 and wait != int(wait):
            raise UserError(f"HumanTeacher got wait={wait}: give a whole number of answers, a share up to 1, all or none.")
        if combine != "majority" and overlap < 2:
            raise UserError(f"HumanTeacher got combine={combine} and overlap={overlap}: let 2 or more answer each.")
        self.wait, self.overlap, self.target, self.timeout = wait, overlap, target, timeout
        self.combine = combine
        self.bins, self.serve = bins, serve

    def describe(self) -> dict[str, Any]:
        """Return class name and settings, without those of the page, on which no answer depends."""
        return {name: value for name, value in super().describe().items() if name not in UNLEARNED}

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Postpone every question."""
        return Answer(torch.full((len(query),), torch.nan), torch.full((len(query),), int(Status.PENDING)))

    def enough(self, asked: int, answered: int, usable: int) -> bool:
        if answered >= asked or not usable:
            return answered >= asked  # the first answer that can be learned from is always waited for
        if isinstance(self.wait, str):
            return self.wait == "none"
        share = 0 < self.wait < 1 or (self.wait == 1 and isinstance(self.wait, float))
        return answered >= min(math.ceil(self.wait * asked) if share else int(self.wait), asked)
