"""The Trainer of the command line, for scripts and notebooks alike: one folder per run, rounds in place of epochs."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from lightning_fabric.utilities.rank_zero import _get_rank
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_pbrl import run_folder, same_run, signals
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.learning_curve import LearningCurve
from lightning_pbrl.callbacks.progress import RoundProgress
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.callbacks.write_predictions import WritePredictions
from lightning_pbrl.callbacks.write_results import WriteResults
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.describe import settings_of
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.trainer_arguments import check_given
from lightning_pbrl.methods.base import Method
from lightning_pbrl.run_folder import LAST

DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,  # the method's plan ends a fit
    "num_sanity_val_steps": 0,  # evaluation is real episodes
    "log_every_n_steps": 1,  # a step is a block
    "use_distributed_sampler": False,  # it repeats items, which biases a mean; data modules share episodes out themselves
    "enable_model_summary": False,
    "accelerator": "auto",
    "devices": 1,
}
"""Arguments of Lightning's Trainer that have another default here."""


class RoundCheckpoint(ModelCheckpoint):
    """Save ``checkpoints/last.ckpt`` of the run folder at the end of every round, replaced whole."""

    def __init__(self) -> None:
        super().__init__(filename="last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / Path(LAST).parent)
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("dirpath") == self.dirpath:  # a checkpoint of another run folder says nothing about this one
            super().load_state_dict(state_dict)


class RecordSettings(pl.Callback):
    """Write the settings of a fit to ``config.yaml`` in the run folder when training starts.

    Until then a run that shall go on may be refused, and a run that is replaced is kept.
    """

    def on_train_start(self, trainer: Trainer, pl_module: pl.LightningModule) -> None:  # type: ignore[override]
        if trainer.is_global_zero:
            with replacing(trainer.run_dir / "config.yaml") as part:
                part.write_text(yaml.safe_dump(dict(trainer.settings), sort_keys=False, allow_unicode=True))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Let the run go that this one replaces, now that it trains."""
        if batch_idx == 0 and trainer.is_global_zero:
            run_folder.let_go(Path(trainer.default_root_dir))


USUAL = (AskTeacher, RoundCheckpoint, LearningCurve, WriteResults, WritePredictions, RecordSettings)
"""Callbacks of every run: the answers that come with the data are handed over, and the folder is filled."""


class Trainer(pl.Trainer):
    """Train and test a method as the command line does: the same defaults, checks, files and numbers.

    A run has a folder. It gets the checkpoint of the last finished round, metrics as CSV and TensorBoard, a learning curve,
    ``results.json`` after a test, the settings and a record of the files read. A second fit in the same folder is refused,
    and so is a second process. The run's seed is the method's: ``fit`` seeds PyTorch, NumPy and Python with it.

    ``callbacks`` join the usual ones; one of the same class takes its place. Answers that come with the data reach the method
    without an ``AskTeacher`` of one's own.

    Args:
        run_dir: folder of the run; None makes a new one below ``runs/``, named after date and time.
        resume: go on from the last finished round of the folder, bit for bit as if never interrupted; without one, begin.
        overwrite: begin anew and lose the run that the folder holds; answers in its label store are kept.
        **kwargs: the arguments of Lightning's ``Trainer``; :data:`DEFAULTS` lists those with another default.

    Raises:
        UserError: for arguments that could not act, and for a folder that cannot be written to.
    """

    config: Mapping[str, Any] | None = None
    """The settings of a fit where the command line knows them; those of the objects otherwise."""
    settings: Mapping[str, Any]
    """Content of the fit's ``config.yaml``."""

    def __init__(self, run_dir: str | Path | None = None, resume: bool = False, overwrite: bool = False, **kwargs: Any) -> None:
        prepare()
        if resume and overwrite:
            raise UserError("resume goes on with a run and overwrite begins anew: give one of them.")
        check_given(kwargs)
        self.resume, self.overwrite = resume, overwrite
        self.run_dir = _folder(run_dir, kwargs.pop("default_root_dir", None), kwargs)
        kwargs = _completed(kwargs, self.run_dir)
        try:
            super().__init__(**kwargs)
        except (ValueError, RuntimeError, MisconfigurationException) as error:
            if isinstance(error, RuntimeError) and "SLURM" not in str(error):
                raise
            raise UserError(f"The trainer cannot be built as configured: {error}") from error

    def fit(
        self,
        model: Any,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train a method until its plan ends.

        Args:
            model: the method.
            train_dataloaders: its data module.
            val_dataloaders: None; the data module brings the evaluation.
            datamodule: the data module, by Lightning's name.
            ckpt_path: a checkpoint to go on from; ``resume`` finds that of the run folder.
            weights_only: as in Lightning.

        Raises:
            UserError: when the folder belongs to another run, or another process writes there.
        """
        with self._claimed("fit", model, datamodule or train_dataloaders, ckpt_path) as path:
            pl.seed_everything(model.seed, workers=True, verbose=False)
            super().fit(model, train_dataloaders, val_dataloaders, datamodule, path, weights_only)

    def validate(self, model: Any = None, dataloaders: Any = None, ckpt_path: Any = None, **more: Any) -> Any:  # type: ignore[override]
        """Evaluate a method on the episodes, or pairs, of the evaluation while training."""
        with self._claimed("validate", model, more.get("datamodule") or dataloaders, ckpt_path) as path:
            return super().validate(model, dataloaders, ckpt_path=path, **more)

    def test(self, model: Any = None, dataloaders: Any = None, ckpt_path: Any = None, **more: Any) -> Any:  # type: ignore[override]
        """Evaluate a method on episodes, or pairs, that no training has seen, and write ``results.json``."""
        with self._claimed("test", model, more.get("datamodule") or dataloaders, ckpt_path) as path:
            return super().test(model, dataloaders, ckpt_path=path, **more)

    def predict(self, model: Any = None, dataloaders: Any = None, ckpt_path: Any = None, **more: Any) -> Any:  # type: ignore[override]
        """Write the learned reward, or the action, of every row of the data to ``predictions.safetensors``."""
        with self._claimed("predict", model, more.get("datamodule") or dataloaders, ckpt_path) as path:
            return super().predict(model, dataloaders, ckpt_path=path, **more)

    @contextmanager
    def _claimed(self, verb: str, model: Any, data: Any, ckpt_path: str | Path | None) -> Iterator[str | Path | None]:
        """Hold the run folder while a verb runs; gives the checkpoint to start from."""
        method = self.lightning_module if model is None else model
        if not isinstance(method, Method):
            raise UserError(
                f"lightning_pbrl.Trainer trains methods of this library and was given {type(method).__name__}: use "
                "pytorch_lightning.Trainer for other modules."
            )
        self.settings = {} if verb != "fit" else self._settings(method, data) if self.config is None else self.config
        start = same_run.Start(self.run_dir, verb, method, data, ckpt_path, self.settings, self.resume, self.overwrite)
        with signals.ending(), same_run.claimed(start, self.global_rank) as path:
            method.run_dir = self.run_dir if verb == "fit" else method.run_dir
            yield path

    def _settings(self, method: Method, data: Any) -> dict[str, Any]:
        """Return the settings of a fit as the command line writes them, as far as they say what is learned."""
        model = settings_of(method)
        model["init_args"] = {key: value for key, value in model["init_args"].items() if key not in ("spec", "seed")}
        found = {"seed_everything": method.seed, "run_dir": str(self.run_dir), "model": model, "data": settings_of(data)}
        kinds = {"ask": AskTeacher, "relabel": RelabelRewards}
        for callback in self.callbacks:  # type: ignore[attr-defined]
            found |= {key: settings_of(callback)["init_args"] for key, kind in kinds.items() if isinstance(callback, kind)}
        return found


def _folder(run_dir: str | Path | None, root: str | Path | None, kwargs: Mapping[str, Any]) -> Path:
    """Return the run folder, made if it is not there."""
    if root is not None and run_dir is not None and Path(root) != Path(run_dir):
        raise UserError(f"run_dir is {run_dir} and default_root_dir {root}: a run has one folder, so leave default_root_dir out.")
    run_dir = root if run_dir is None else run_dir
    if run_dir is not None:
        return run_folder.opened(run_dir)
    if _get_rank() is not None or kwargs.get("devices", 1) not in (1, "1") or kwargs.get("num_nodes", 1) != 1:
        raise UserError("Several processes write to one run folder: give run_dir.")
    return run_folder.new(Path("runs"), time.strftime("%Y-%m-%d_%H-%M-%S"))


def _completed(kwargs: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Lightning's arguments from ours: defaults, callbacks and loggers."""
    kwargs = {**DEFAULTS, **kwargs, "default_root_dir": folder}
    several = kwargs["devices"] not in (1, "1", "auto") or kwargs.get("num_nodes", 1) not in (1, "1")
    if several and kwargs.get("strategy", "auto") in ("auto", "ddp"):
        kwargs["strategy"] = DDPStrategy(broadcast_buffers=False)  # they are equal on all ranks: nothing to send
    given = kwargs.get("callbacks") or []
    callbacks = list(given) if isinstance(given, list | tuple) else [given]
    if kwargs.get("enable_progress_bar") is False:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    elif not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(RoundProgress())
    for kind in USUAL:
        if not any(isinstance(callback, kind) for callback in callbacks):
            callbacks.append(kind())
    return {**kwargs, "callbacks": callbacks, "logger": _loggers(kwargs.get("logger"), folder)}


def _loggers(given: Any, folder: Path) -> list[Any] | bool:
    """CSV and TensorBoard in the run folder, and what ``logger`` names; that alone where it is one of these."""
    if given is False:
        return False
    named = [] if given in (None, True) else list(given) if isinstance(given, list | tuple) else [given]
    if any(isinstance(logger, CSVLogger | TensorBoardLogger) for logger in named):
        return named
    return [CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard", version=""), *named]


def prepare() -> None:
    """Let this process draw without a display, and hide messages that a user can do nothing about."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)  # device tables, tips and seeds at every start of a short run
    for message in (
        "SpearmanCorrcoef. will save",  # a thousand pairs
        "Checkpoint directory .* exists and is not empty",  # last.ckpt is replaced
        "It is recommended to use .*sync_dist=True",  # values are equal on all ranks
        "LeafSpec",  # torch deprecation inside Lightning 2.6
        "srun. command is available",  # a sweep starts its processes itself
        "Total length of `Share`",  # data without a simulator: nothing to roll out
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
