"""Preferences that interventions express, as labels of any logged data that say who acted."""

from __future__ import annotations

from typing import Any, Literal

from lightning_pbrl.data.given_labels import hold_out
from lightning_pbrl.data.interventions import WHO, Part, preferences
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, check_sizes, opened
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.rng import stream


class InterventionsDataModule(FeedbackDataModule):
    """Logged data whose interventions are answers: what follows a take-over is preferred to what it interrupted.

    Args:
        data: data module that provides the episodes, or a data file of this library; the module's own evaluation settings are not
            used.
        simulator: simulator for evaluation; None for that of the data module.
        who: whose interventions count: ``person``, ``script``, or ``all``.
        part: whether an intervention's last steps are compared with what it interrupted, or its first
            (:func:`lightning_pbrl.data.interventions.preferences`).
        fold: fold of the answers that is held out for validation, 0 .. ``folds`` - 1; None learns from all of them.
        folds: number of parts into which the answers are split; ``evaluation_seed`` determines them.
        **offline: the other arguments of :class:`FeedbackDataModule`.

    Raises:
        UserError: if the data do not say who acted, or no intervention is long enough for a segment.
    """

    def __init__(
        self,
        data: FeedbackDataModule | str,
        simulator: Simulator | None = None,
        who: Literal["person", "script", "all"] = "all",
        part: Part = "last",
        fold: int | None = None,
        folds: int = 5,
        **offline: Any,
    ) -> None:
        inner = None if isinstance(data, str) else data.simulator
        super().__init__(simulator or inner, **offline)
        self.data, self.who, self.part, self.fold, self.folds = data, who, part, fold, folds
        self.path = data if isinstance(data, str) else None

    def prepare_data(self) -> None:
        if isinstance(self.data, FeedbackDataModule):
            self.data.prepare_data()

    def load(self) -> Transitions:
        source = opened(self.data)
        check_sizes(source, self.simulator, type(self).__name__, "set data.init_args.simulator to the task of the data")
        self.labels = preferences(source, self.segment_length, WHO[1:] if self.who == "all" else (self.who,), self.part)
        if self.fold is not None:
            rng = stream(self.evaluation_seed, "folds")
            self.labels, self.held_out_labels = hold_out(self.labels, self.fold, self.folds, rng)
        return source
