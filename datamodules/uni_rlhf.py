"""Uni-RLHF's labels of people and of scripts (arXiv 2402.02423), beside the data that were labelled."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning_pbrl.data.given_labels import hold_out
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.uni_rlhf import Crossing, files_of, read_uni_rlhf
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.rng import stream


class UniRLHFDataModule(FeedbackDataModule):
    """Labels of a Uni-RLHF folder (Yuan et al. 2024) about the rows of a D4RL data set.

    The folders are ``crowdsource_human_labels/ENV_human_labels`` (people) and ``generated_fake_labels/ENV_fake_labels``
    (the larger return) of the repository Clean-Offline-RLHF. Learners draw transitions from the whole data set.

    Args:
        path: the label folder.
        data: the data set that was labelled, a D4RLDataModule; its simulator evaluates policies.
        crossing: pairs with a segment that crosses the end of an episode are refused (``refuse``), or left out with a warning
            (``leave_out``).
        fold: fold of the answers that is held out for validation, 0 .. ``folds`` - 1; None learns from all of them.
        folds: number of parts into which the answers are split.
        **offline: the other arguments of :class:`FeedbackDataModule`; ``segment_length`` is that of the folder.

    Raises:
        UserError: as :func:`lightning_pbrl.data.uni_rlhf.read_uni_rlhf`.
    """

    def __init__(
        self,
        path: str,
        data: FeedbackDataModule,
        crossing: Crossing = "refuse",
        fold: int | None = None,
        folds: int = 5,
        **offline: Any,
    ) -> None:
        super().__init__(data.simulator, segment_length=0, **offline)  # load() finds the length of the segments
        self.path, self.data, self.crossing, self.fold, self.folds = Path(path), data, crossing, fold, folds

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def files(self) -> list[Path]:
        return [*files_of(self.path)[0].values(), *self.data.files()]

    def load(self) -> Transitions:
        self.data.setup("fit")
        found = read_uni_rlhf(self.path, self.data.source, self.crossing)
        if found.left_out:
            warnings.warn(
                f"{self.path}: {found.left_out} of {found.left_out + len(found.labels)} pairs have a segment that crosses the "
                "end of an episode, and are left out.",
                stacklevel=2,
            )
        self.segment_length, self.labels = found.labels.length, found.labels
        if self.fold is not None:
            rng = stream(self.evaluation_seed, "folds")
            self.labels, self.held_out_labels = hold_out(found.labels, self.fold, self.folds, rng)
        return self.data.source
