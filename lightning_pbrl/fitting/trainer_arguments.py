"""Arguments of Lightning's ``Trainer``: each acts as Lightning documents it, or a fit refuses it at its start.

Lightning's loop is written for a gradient step per batch. Here a step is a block of many updates that the engine makes itself,
and an epoch is a round. Some of its switches would silently do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.callbacks.timer import Interval

from lightning_pbrl.errors import UserError

ACTS = frozenset({
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "plugins"),  # check_strategy refuses some values
    *("logger", "callbacks", "profiler", "default_root_dir", "enable_autolog_hparams"),
    *("enable_progress_bar", "enable_model_summary"),
    *("max_epochs", "max_steps", "max_time"),  # rounds; updates; the end of the round in which it is up
    *("check_val_every_n_epoch", "limit_val_batches", "limit_predict_batches"),
    *("deterministic", "benchmark", "inference_mode", "detect_anomaly", "reload_dataloaders_every_n_epochs"),
})  # fmt: skip
"""Arguments that act here as Lightning documents them."""


class Refused(NamedTuple):
    """An argument that could not act.

    Attributes:
        value: returns the value that a trainer was built with.
        allowed: values that ask for nothing, Lightning's default among them.
        cure: why it cannot act, and what does.
    """

    value: Callable[[pl.Trainer], Any]
    allowed: tuple[Any, ...]
    cure: str


def _attribute(name: str) -> Callable[[pl.Trainer], Any]:
    return lambda trainer: getattr(trainer, name)


def _interval(trainer: pl.Trainer) -> Any:
    seconds: float | None = getattr(trainer, "_val_check_time_interval", None)  # set where the interval is a time
    return trainer.val_check_interval if seconds is None else f"{seconds:g} s"


ROUNDS = "a round's length is the method's: set model.init_args.updates and eval_interval, or trainer.max_steps"
PLAN = "a method's plan says how long it learns: raise model.init_args.updates, env_steps or epochs"
CLIPS = "the engine takes its own optimiser steps: a method that clips has an argument for it, such as PPO's max_grad_norm"

REFUSED: dict[str, Refused] = {
    "fast_dev_run": Refused(
        _attribute("fast_dev_run"),
        (False, 0),
        "a run without checkpoints and logs checks little here: add `-c debug/tiny.yaml`, or set trainer.max_steps",
    ),
    "min_epochs": Refused(_attribute("min_epochs"), (None, 0, 1), PLAN),
    "min_steps": Refused(_attribute("min_steps"), (None, 0, 1), PLAN),
    "overfit_batches": Refused(
        _attribute("overfit_batches"),
        (0, 0.0),
        "a method draws its own minibatches: give it smaller data (a data module of few episodes)",
    ),
    "limit_train_batches": Refused(_attribute("limit_train_batches"), (None, 1.0), ROUNDS),
    "limit_test_batches": Refused(
        _attribute("limit_test_batches"), (None, 1.0), "results.json names the episodes tested: set data.init_args.test_episodes"
    ),
    "val_check_interval": Refused(
        _interval,
        (None, 1.0),
        "evaluation comes at the end of a round: set model.init_args.eval_interval, or trainer.check_val_every_n_epoch",
    ),
    "num_sanity_val_steps": Refused(
        _attribute("num_sanity_val_steps"),
        (0, 2),
        "evaluation is real episodes, of which none are rolled out to try: leave it at 0",
    ),
    "log_every_n_steps": Refused(
        _attribute("log_every_n_steps"), (1, 50), "a step is a block of updates and each is logged: raise model.init_args.block"
    ),
    "enable_checkpointing": Refused(
        lambda trainer: bool(trainer.checkpoint_callbacks), (True, False), "a run folder keeps its last checkpoint: leave it out"
    ),
    "accumulate_grad_batches": Refused(
        _attribute("accumulate_grad_batches"), (1,), "the engine takes its own optimiser steps: raise model.init_args.batch_size"
    ),
    "gradient_clip_val": Refused(_attribute("gradient_clip_val"), (None, 0, 0.0), CLIPS),
    "gradient_clip_algorithm": Refused(
        lambda trainer: trainer.gradient_clip_algorithm and trainer.gradient_clip_algorithm.value, (None,), CLIPS
    ),
    "use_distributed_sampler": Refused(
        lambda _: False, (False,), "data modules share evaluation out themselves, without repeating an episode: leave it out"
    ),
    "barebones": Refused(
        _attribute("barebones"), (False,), "it forbids the logs and checkpoints that a run is made of: leave it out"
    ),
    "model_registry": Refused(
        _attribute("_model_registry"), (None,), "nothing here uploads to Lightning's model hub: leave it out"
    ),
    "sync_batchnorm": Refused(
        lambda trainer: trainer._accelerator_connector._layer_sync is not None,
        (False,),
        "the engine's flat parameters are no layers to convert: leave it out",
    ),
}
"""Arguments that would do nothing, or harm."""


def check_trainer(trainer: pl.Trainer) -> None:
    """Raise a UserError for the first argument that could not act, however the trainer was built."""
    check_given({name: refused.value(trainer) for name, refused in REFUSED.items()}, {})


GIVEN: dict[str, tuple[Any, ...]] = {
    "num_sanity_val_steps": (0, None),
    "log_every_n_steps": (1, None),
    "enable_checkpointing": (True, None),
}
"""Values without effect on the command line; a built trainer does not tell Lightning's default from the same number given."""


def check_given(arguments: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]] = GIVEN) -> None:
    """Raise a UserError for the first argument, by name, that could not act, before a trainer is built.

    ``allowed`` are values that ask for nothing, in place of those of :data:`REFUSED`.
    """
    for name, refused in REFUSED.items():
        value = arguments.get(name)
        nothing = [other for other in allowed.get(name, refused.allowed) if type(other) is type(value)]  # 1 batch is not 1.0
        if name in arguments and value not in nothing:
            raise UserError(f"trainer.{name} is {value}, and {refused.cure}.")


def end_with_rounds(trainer: pl.Trainer) -> None:
    """Let ``max_time`` end a fit at the end of a round, the only point that resumes exactly."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer):
            callback._interval = Interval.epoch
