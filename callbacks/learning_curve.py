"""Learning curve of a run that can be viewed during training."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger

from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.metrics import read_versions, run_at
from lightning_pbrl.reports.plot import learning_curve
from lightning_pbrl.settings import Checked


class LearningCurve(Checked, pl.Callback):
    """Draw ``learning_curve.png`` in the run folder after evaluations, from the CSV logger's file.

    Policies: success rate and return against gradient updates. Reward models: accuracy and correlation on held-out pairs and the
    teacher's share of clear answers, against labels. The metrics of a resumed run are drawn from its start. Without a CSV logger
    nothing is drawn.

    Args:
        every_seconds: shortest time between two drawings, and from the start to the first, so that short rounds do not wait for
            figures; the end of a fit always draws.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        self.every_seconds = every_seconds
        self._evaluated = False
        self._drawn = float("-inf")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._drawn = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            logger.save()  # a killed run keeps the rows of its finished rounds
        if self._evaluated and time.monotonic() - self._drawn >= self.every_seconds:
            self._draw(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._evaluated:
            self._draw(trainer)

    def _draw(self, trainer: pl.Trainer) -> None:
        logger = next((logger for logger in trainer.loggers if isinstance(logger, CSVLogger)), None)
        if logger is None or not trainer.is_global_zero:
            return
        logger.save()
        run = run_at(trainer.default_root_dir)
        title = run.stage if run.seed is None else f"{run.stage}/{run.path.name}"
        self._evaluated, self._drawn = False, time.monotonic()
        try:
            learning_curve(read_versions(Path(logger.root_dir)), run.path / "learning_curve.png", title)
        except UserError as error:  # a failed figure must not end a run
            warnings.warn(str(error), stacklevel=2)
