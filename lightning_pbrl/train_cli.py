"""LightningCLI with this library's keys: ``run_dir``, ``resume``, ``then_test``, ``ask:``, ``relabel:``, ``video:`` ..."""

from __future__ import annotations

import json
import os
import re
import secrets
import warnings
from typing import Any

import jsonargparse
import yaml
from lightning_fabric.utilities.rank_zero import _get_rank
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from rich.console import Console

from lightning_pbrl import registry
from lightning_pbrl.arguments import with_packaged_configs
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.asking_table import asking_plan
from lightning_pbrl.callbacks.embedding_map import EmbeddingMap
from lightning_pbrl.callbacks.feedback_diagnostics import FeedbackDiagnostics
from lightning_pbrl.callbacks.progress import RoundProgress
from lightning_pbrl.callbacks.query_coverage import QueryCoverage
from lightning_pbrl.callbacks.record_video import RecordVideo
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.ranges import SEED
from lightning_pbrl.run_folder import opened
from lightning_pbrl.same_run import imports_of
from lightning_pbrl.trainer import DEFAULTS, Trainer, prepare


class TrainCLI(LightningCLI):
    """Stock LightningCLI plus the keys named in the module's first line."""

    def __init__(self, *, args: list[str], **settings: Any) -> None:
        self._args = args
        super().__init__(args=args, **settings)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the verb that is asked for alone: a parser takes a while to build."""
        return {verb: skipped for verb, skipped in LightningCLI.subcommands().items() if verb in self._args[:1]}

    @classmethod
    def start(cls, args: list[str], run: bool) -> TrainCLI:
        """Parse ``args`` and, if ``run``, do what the verb says."""
        prepare()
        warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")  # it does
        registry.import_all()  # short class names resolve to what is imported
        if modules := imports_of(args):
            registry.import_named(modules)
            args = [*args, f"--imports={json.dumps(modules)}"]  # those of all files, where the last file's would win
        jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)  # ${model...} works below `fit`
        return cls(
            model_class=Method,
            datamodule_class=FeedbackDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_class=Trainer,
            trainer_defaults=DEFAULTS,
            # interpolations resolve after overrides
            parser_kwargs={"prog": "lightning-pbrl", "parser_mode": "omegaconf+", "exit_on_error": False},
            args=args,
            run=run,
        )

    def setup_parser(self, add_subcommands: bool, *settings: Any) -> None:
        """Build the parser, or take the one that this process has built for the verb, which parses as a new one would."""
        verb = self._args[0] if add_subcommands and self._args else ""
        kept = _PARSERS.get((add_subcommands, verb))
        if kept is None:
            super().setup_parser(add_subcommands, *settings)
            kept = {name: value for name, value in vars(self).items() if name in _OF_A_PARSER}
            _PARSERS[add_subcommands, verb] = kept
        vars(self).update(kept)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Make the run's seed a number, also where one is to be chosen."""
        parser.add_argument("--seed_everything", type=_Seed(), default=0, help="Seed of the run; true has one chosen.")

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
        for key in ("run_dir", "resume", "overwrite"):
            parser.link_arguments(key, f"trainer.{key}")
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
        parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")

    @property
    def _own(self) -> Any:
        return self.config[self.subcommand] if self.subcommand else self.config

    def before_instantiate_classes(self) -> None:
        opened(self._own.run_dir)  # before the data are read
        if self.subcommand not in (None, "fit") and self._own.get("ckpt_path") is None:
            raise UserError(f"{self.subcommand} needs a trained method: set ckpt_path to the .ckpt file of a fit.")

    def before_fit(self) -> None:
        content = _plain(self._parser(self.subcommand), self._own)
        trainer: Any = self.trainer
        trainer.config = {**content, "overwrite": False}  # what was lost once is not asked for again by who feeds it back
        plan = asking_plan(self.trainer, self.model)
        if plan is not None and not _get_rank():
            Console().print(plan)

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
        finally:
            self.parser._instantiators = None  # they hold this run, and the parser is kept

    def _dump_config(self) -> None:
        """Keep the whole config as plain types, for the method's hyper-parameters; parsing has checked it."""
        if not hasattr(self, "config_dump"):
            content = _plain(self.parser, self.config, skip_link_targets=False)
            self.config_dump = content[self.subcommand] if self.subcommand else content

    def _parse_ckpt_path(self) -> None:
        """Keep hyper-parameters as the config says them; a checkpoint brings weights, not settings."""

    def after_fit(self) -> None:
        if self._own.then_test:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)


def _plain(parser: jsonargparse.ArgumentParser, config: jsonargparse.Namespace, **options: Any) -> dict[str, Any]:
    """Return a parsed config as plain types, those of YAML."""
    text = parser.dump(config, format="yaml of libyaml", skip_none=False, skip_validation=True, **options)
    content: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return content


def _dumped(content: dict[str, Any]) -> str:
    text: str = yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True, sort_keys=False)
    return text


jsonargparse.set_dumper("yaml of libyaml", _dumped)  # the parser's own takes ten times as long


def run_seed(value: Any) -> int:
    """Return the seed that ``seed_everything`` means; true has one chosen, which the saved config then names.

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


class _Seed:
    """The type of ``seed_everything``, with a name for ``--help``."""

    def __call__(self, value: Any) -> int:
        return run_seed(value)

    def __repr__(self) -> str:
        return "int or true"


class Parsed(TrainCLI):
    """The parsed command line alone: builds and writes nothing."""

    def _add_instantiators(self) -> None: ...

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


def train_cli(args: list[str], run: bool = True) -> TrainCLI:
    """Build data, method and Trainer from the command line, and run the verb.

    Args:
        args: the verb and its arguments; without the verb when ``run`` is False.
        run: False only builds everything (a dry run).

    Returns:
        The LightningCLI object, with ``model``, ``datamodule`` and ``trainer``.
    """
    return TrainCLI.start(with_packaged_configs(args), run)


def resolved_config(args: list[str]) -> dict[str, Any]:
    """Every key of a stage with its value, defaults of the named classes included; nothing is built.

    Args:
        args: arguments of a fit, without the verb.
    """
    return dict(Parsed.start(with_packaged_configs(args), run=False).config.as_dict())


_PARSERS: dict[tuple[bool, str], dict[str, Any]] = {}
"""Attributes of a command line that hold its parser, by whether there is a verb, and the verb."""
_OF_A_PARSER = ("parser", "_subcommand_parsers", "_subcommand_method_arguments")


def rehearse() -> None:
    """Parse a shipped stage, which keeps the parser of ``fit`` for the processes that are forked from this one."""
    args = with_packaged_configs(["fit", "-c", "data/demo.yaml", "-c", "model/iql.yaml", "--relabel.reward=true"])
    Parsed.start(args, run=True)
