"""LightningCLI with this library's keys: ``run_dir``, ``resume``, ``then_test``, ``ask:``, ``relabel:``, ``video:`` ..."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import warnings
from pathlib import Path
from typing import Any

import jsonargparse
import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import _get_rank
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console

from lightning_pbrl import registry
from lightning_pbrl.arguments import with_packaged_configs
from lightning_pbrl.callbacks.ask_teacher import AskTeacher, asking_plan
from lightning_pbrl.callbacks.embedding_map import EmbeddingMap
from lightning_pbrl.callbacks.feedback_diagnostics import FeedbackDiagnostics
from lightning_pbrl.callbacks.learning_curve import LearningCurve
from lightning_pbrl.callbacks.progress import RoundProgress
from lightning_pbrl.callbacks.query_coverage import QueryCoverage
from lightning_pbrl.callbacks.record_video import RecordVideo
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.callbacks.write_predictions import WritePredictions
from lightning_pbrl.callbacks.write_results import WriteResults
from lightning_pbrl.data.archive import replacing
from lightning_pbrl.datamodules.base import OfflineDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.loading import read_checkpoint
from lightning_pbrl.methods.trainer_arguments import check_given
from lightning_pbrl.ranges import SEED
from lightning_pbrl.run_folder import LAST, let_go, recover
from lightning_pbrl.same_run import claimed, imports_of

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,  # the method's plan ends a fit
    "num_sanity_val_steps": 0,  # evaluation is real episodes
    "log_every_n_steps": 1,  # a step is a block
    "use_distributed_sampler": False,  # it repeats items, which biases a mean; data modules share episodes out themselves
    "enable_model_summary": False,
    "accelerator": "auto",
    "devices": 1,
}


class RoundCheckpoint(ModelCheckpoint):
    """``checkpoints/last.ckpt`` of the run folder, replaced whole at the end of every round."""

    def __init__(self) -> None:
        super().__init__(filename="last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / Path(LAST).parent)
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("dirpath") == self.dirpath:  # a checkpoint of another run folder says nothing about this one
            super().load_state_dict(state_dict)


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config of a fit to ``config.yaml`` in the run folder; it can be fed back with ``-c``.

    When training starts, because until then a run that shall go on may be refused.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "overwrite": True, "save_to_log_dir": False})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Nothing is written yet."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Now that it trains, the run that it replaces is lost."""
        if batch_idx == 0 and trainer.is_global_zero:
            let_go(Path(trainer.default_root_dir))

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            config = self.config.clone()
            config.overwrite = False  # what was lost once is not asked for again by whoever feeds the config back
            with replacing(Path(trainer.default_root_dir) / "config.yaml") as part:
                self.parser.save(config, part, skip_none=False, overwrite=True, multifile=self.multifile)


class TrainCLI(LightningCLI):
    """Stock LightningCLI plus the keys named in the module's first line."""

    @classmethod
    def start(cls, args: list[str], run: bool) -> TrainCLI:
        """Parse ``args`` and, if ``run``, do what the verb says."""
        registry.import_all()  # short class names resolve to what is imported
        if modules := imports_of(args):
            registry.import_named(modules)
            args = [*args, f"--imports={json.dumps(modules)}"]  # those of all files, where the last file's would win
        jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)  # ${model...} works below `fit`
        for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
            logging.getLogger(name).setLevel(logging.WARNING)  # device tables, tips and seeds at every start of a short run
        return cls(
            model_class=Method,
            datamodule_class=OfflineDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            trainer_defaults={
                **TRAINER_DEFAULTS,
                "callbacks": [RoundCheckpoint(), LearningCurve(), WriteResults(), WritePredictions()],
            },
            parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False},  # interpolations resolve after overrides
            args=args,
            run=run,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's seed is a number from here on, also where one is to be chosen."""
        parser.add_argument("--seed_everything", type=run_seed, default=0, help="Seed of the run; true has one chosen.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str, default="runs/fit", help="Everything a run leaves goes here.")
        parser.add_argument("--resume", action="store_true", help="Go on from the last finished round, if there is one.")
        parser.add_argument("--overwrite", action="store_true", help="Begin anew and lose the run that the folder holds.")
        parser.add_argument("--imports", type=list[str], default=[], help="Modules of yours to import first: [my_package].")
        parser.add_argument("--then_test", action="store_true", help="Test the final weights after the fit.")
        parser.add_lightning_class_args(AskTeacher, "ask")
        parser.add_lightning_class_args(RelabelRewards, "relabel")
        parser.add_lightning_class_args(RecordVideo, "video")
        parser.add_lightning_class_args(EmbeddingMap, "embedding")
        parser.add_lightning_class_args(QueryCoverage, "coverage")
        parser.add_lightning_class_args(FeedbackDiagnostics, "feedback")
        parser.add_lightning_class_args(RoundProgress, "progress")
        parser.set_defaults({"video.every": None})  # films are asked for
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
        parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")

    @property
    def _own(self) -> Any:
        return self.config[self.subcommand] if self.subcommand else self.config

    def before_instantiate_classes(self) -> None:
        config = self._own
        folder = local_folder(config.run_dir)
        config.run_dir = config.trainer.default_root_dir = str(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"The run folder {folder} cannot be written ({error.strerror}): choose another run_dir.") from error
        if config.trainer.strategy in ("auto", "ddp") and config.trainer.devices not in (1, "1", "auto"):
            config.trainer.strategy = {  # buffers are equal on all ranks: nothing to send at every block
                "class_path": "pytorch_lightning.strategies.DDPStrategy",
                "dict_kwargs": {"broadcast_buffers": False},
            }
        if self.subcommand is None:
            return
        if not _get_rank():
            recover(folder, self.subcommand)
        if self.subcommand == "fit" and config.resume and (folder / LAST).is_file():
            config.ckpt_path = str(folder / LAST)
        path = config.get("ckpt_path")
        if path is not None:
            read_checkpoint(path)  # refuses with a sentence what Lightning would fail on
        elif self.subcommand != "fit":
            raise UserError(f"{self.subcommand} needs a trained method: set ckpt_path to the .ckpt file of a fit.")

    def _run_subcommand(self, subcommand: str) -> None:
        with claimed(self, subcommand):
            super()._run_subcommand(subcommand)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            absent = re.search(r"Problem with given class_path '([^']+)':\s+Requirement '(\w+)[^']*' not met", str(error))
            if absent is None:
                raise
            package = f"'lightning-pbrl[{absent[2]}]'" if absent[2] == "wandb" else absent[2]
            name = absent[1].rpartition(".")[2]
            raise UserError(f"{name} needs the package {absent[2]}: install it with pip install {package}.") from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        check_given(self._get(self.config_init, "trainer"))
        kwargs["logger"] = self._loggers()
        keys = self._parser(self.subcommand).callback_keys
        if self._get(self.config_init, "trainer").enable_progress_bar is False and "progress" in keys:
            keys.remove("progress")  # Lightning refuses a bar of ours where none is wanted
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, RuntimeError, MisconfigurationException) as error:
            if isinstance(error, RuntimeError) and "SLURM" not in str(error):
                raise
            raise UserError(f"The trainer cannot be built as configured: {error}") from error

    def _loggers(self) -> list[Any] | bool:
        """CSV and TensorBoard in the run folder, and what ``trainer.logger`` names; that alone where it is one of these."""
        given = self._get(self.config_init, "trainer").logger
        if given is False:
            return False
        named = [] if given in (None, True) else given if isinstance(given, list) else [given]
        if any(isinstance(logger, CSVLogger | TensorBoardLogger) for logger in named):
            return list(named)
        folder = self._own.run_dir  # not in the saved config, which may be run again in another folder
        return [CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard", version=""), *named]

    def _parse_ckpt_path(self) -> None:
        """Keep hyper-parameters as the config says them; a checkpoint brings weights, not settings."""

    def before_fit(self) -> None:
        """Print the plan of the questions."""
        plan = asking_plan(self.trainer, self.model)
        if plan is not None and not _get_rank():
            Console().print(plan)

    def after_fit(self) -> None:
        if self._own.then_test:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)


def local_folder(name: str) -> Path:
    """A run folder by its name, ``~`` resolved.

    Raises:
        UserError: for an address; loggers would read it as one and checkpoints as a path.
    """
    if "://" in name or "::" in name:
        raise UserError(f"run_dir is {name}: give a folder of this machine, without :// and ::.")
    return Path(name).expanduser()


def run_seed(value: Any) -> int:
    """The seed that ``seed_everything`` means; true has one chosen, which the saved config then names.

    Raises:
        UserError: for what is no seed, and where processes that are started apart would each choose their own.
    """
    text = str(value).strip()
    if text.lower() != "true":
        try:
            seed = -1 if isinstance(value, bool | float) else int(text)
        except ValueError:
            seed = -1
        if not SEED.holds(seed):
            raise UserError(f"seed_everything is {text}: give a whole number{SEED}, or true to have one chosen.")
        return seed
    if not _get_rank():
        return secrets.randbelow(int(SEED.high) + 1)
    try:
        return int(os.environ["PL_GLOBAL_SEED"])  # what the process that started this one has chosen
    except (KeyError, ValueError):
        raise UserError("seed_everything=true would give each process a seed of its own: give a number.") from None


class Parsed(TrainCLI):
    """The parsed command line alone: builds and writes nothing."""

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...


def train_cli(args: list[str], run: bool = True) -> TrainCLI:
    """Build data, method and Trainer from the command line, and run the verb.

    Args:
        args: the verb and its arguments; without the verb when ``run`` is False.
        run: False only builds everything (a dry run).

    Returns:
        The LightningCLI object, with ``model``, ``datamodule`` and ``trainer``.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    _quieten()
    return TrainCLI.start(with_packaged_configs(args), run)


def resolved_config(args: list[str]) -> dict[str, Any]:
    """Every key of a stage with its value, defaults of the named classes included; nothing is built.

    Args:
        args: arguments of a fit, without the verb.
    """
    _quieten()
    return dict(Parsed.start(with_packaged_configs(args), run=False).config.as_dict())


def _quieten() -> None:
    """Hide warnings that a user can do nothing about."""
    warnings.filterwarnings("ignore", message=".*SpearmanCorrcoef. will save.*")  # a thousand pairs
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")  # last.ckpt is replaced
    warnings.filterwarnings("ignore", message=".*It is recommended to use .*sync_dist=True.*")  # values are equal on all ranks
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # torch deprecation inside Lightning 2.6
    warnings.filterwarnings("ignore", message=".*srun. command is available.*")  # a sweep starts its processes itself
    warnings.filterwarnings("ignore", message=".*Total length of `Share`.*")  # data without a simulator: nothing to roll out
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")  # it does
