"""Adaptation of Lightning's loop to blocks and rounds.

One ``training_step`` is a block of many gradient updates, one epoch is a round. Everything that depends on Lightning's
internals is here, guarded by ``tests/methods/test_lightning_glue.py``.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric
from torch import Tensor

from lightning_pbrl import shared_scoring, signals
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.errors import UserError
from lightning_pbrl.shared_scoring import Found


def end_when_told(trainer: pl.Trainer) -> None:
    """End a run at once when its process is told to end, in place of Lightning's exit with 0 after the batch.

    Nothing is saved then: a resumed run starts from the last round. Lightning's checkpoint for SLURM's requeueing would lie
    inside a round.
    """
    connector = trainer._signal_connector

    def register() -> None:
        connector.received_sigterm = False
        connector._original_handlers = connector._get_current_signal_handlers()
        signals.listen()

    connector.register_signal_handlers = register  # type: ignore[method-assign]


def advance_global_step(trainer: pl.Trainer, updates: int) -> None:
    """Make ``trainer.global_step`` count gradient updates, for ``max_steps`` and x axes.

    With manual optimisation Lightning counts ``optimizer.step()`` calls of its own wrappers; our engine steps flat storage.
    """
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    for tracker in (progress.total, progress.current):
        tracker.ready += updates
        tracker.completed += updates


class RoundLoader:
    """Train loader whose items mean nothing: one per block, until the round is over.

    It has no length, because Lightning caches an epoch's length and rounds differ. Lightning fetches one item ahead, so
    every round ends with one empty block.

    Args:
        round_done: returns True if the present round has run all its blocks.
    """

    def __init__(self, round_done: Callable[[], bool]) -> None:
        self.round_done = round_done

    def __iter__(self) -> Iterator[int]:
        block = 0
        while True:
            yield block
            block += 1
            if self.round_done():
                return


def run_in_rounds(trainer: pl.Trainer, replicas: int) -> None:
    """Prepare a Trainer for blocks and rounds, or refuse it.

    A step is a block here, and evaluation is real episodes. Lightning's own defaults, 50 and 2, cannot be told from the same
    numbers given; other numbers have been refused (``trainer_arguments.py``).
    """
    check_strategy(trainer, replicas)
    checkpoint_at_round_edges(trainer)
    write_checkpoints_in_place(trainer)
    trainer.fit_loop.epoch_loop._results = _Results(training=True)
    trainer.log_every_n_steps = 1  # type: ignore[attr-defined]
    trainer.num_sanity_val_steps = 0


LIGHTNINGS_END = 1_000
"""Epochs after which a plain Lightning Trainer ends a fit that says nothing of its length."""


def warn_of_default_end(trainer: pl.Trainer, finished: bool) -> None:
    """Warn when Lightning's default has ended a fit before its plan did."""
    if trainer.max_epochs == LIGHTNINGS_END and trainer.current_epoch >= LIGHTNINGS_END and not finished:
        warnings.warn(
            f"The fit ended after {LIGHTNINGS_END:,} rounds, Lightning's default for max_epochs, and not where its method's plan "
            "ends: use lightning_pbrl.Trainer, or max_epochs=-1.",
            stacklevel=2,
        )


class _Results(_ResultCollection):
    """Logged values that are moved only from another device: Lightning walks through all of a value's state to move it."""

    def __setitem__(self, key: str, metric: _ResultMetric) -> None:
        def to(device: torch.device) -> _ResultMetric:
            return metric if metric.value.device == device else _ResultMetric.to(metric, device)

        super().__setitem__(key, metric)
        if metric.is_tensor:
            metric.to = to  # type: ignore[method-assign]


def check_strategy(trainer: pl.Trainer, replicas: int) -> None:
    """Raise a UserError unless the strategy is one device or DDP, replicas share one device and the precision is float32."""
    strategy = trainer.strategy
    if trainer.precision != "32-true":
        raise UserError(
            f"trainer.precision is {trainer.precision}, and the update engine has a switch of its own: leave it at 32-true and "
            "set model.init_args.precision to bf16 or tf32."
        )
    if not isinstance(strategy, SingleDeviceStrategy) and type(strategy) is not DDPStrategy:  # DeepSpeed is a DDPStrategy
        raise UserError(
            f"Strategy {type(strategy).__name__} is not supported, because the update engine averages gradients itself; "
            "use trainer.strategy=ddp, or one device."
        )
    if trainer.world_size > 1 and replicas > 1:
        raise UserError(
            f"{replicas} replicas on {trainer.world_size} devices: replicas share one device; use devices=1, or replicas=1 "
            "and one run per seed."
        )


def check_devices(trainer: pl.Trainer, method: Any) -> None:
    """Raise a UserError if a fit has several devices and its method takes one, or as :func:`check_tasks`."""
    check_tasks(trainer)
    if trainer.state.fn == "fit" and trainer.world_size > 1 and not method.ddp:
        raise UserError(
            f"{type(method).__name__} acts while it learns, which takes one device, and the Trainer has {trainer.world_size}: "
            "set trainer.devices and trainer.num_nodes to 1, and run seeds side by side (`lightning-pbrl sweep --gpus 1`)."
        )


def check_tasks(trainer: pl.Trainer) -> None:
    """Raise a UserError if a cluster job's tasks are not as many as the Trainer's devices: it would train on part of the data."""
    devices = trainer.num_devices * trainer.num_nodes
    if trainer.world_size != devices:
        raise UserError(
            f"The Trainer asks for {trainer.num_devices} devices on {trainer.num_nodes} node(s), and this job has "
            f"{trainer.world_size} task(s), each of which drives one: submit it with --ntasks-per-node={trainer.num_devices} and "
            f"start it with srun, or set trainer.devices={max(trainer.world_size // trainer.num_nodes, 1)}."
        )


def checkpoint_at_round_edges(trainer: pl.Trainer) -> None:
    """Let ``ModelCheckpoint`` save at the end of a round, the only exact point; raise a UserError if it saves within one."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            if callback._every_n_train_steps or callback._train_time_interval or callback.save_on_exception:
                raise UserError(
                    "A checkpoint inside a round cannot be resumed exactly; set every_n_epochs (an epoch is a round) on "
                    "ModelCheckpoint instead of every_n_train_steps, train_time_interval or save_on_exception."
                )
            callback._save_on_train_epoch_end = True
            callback._monitor_candidates = partial(_monitored, callback)  # type: ignore[method-assign]


def _monitored(callback: ModelCheckpoint, trainer: pl.Trainer) -> dict[str, Tensor]:
    """Return what a checkpoint's name may show, with its own step: a logged step is of its log, and rounded to float32."""
    return type(callback)._monitor_candidates(callback, trainer) | {"step": torch.tensor(trainer.global_step)}


def save_this_round_too(trainer: pl.Trainer) -> None:
    """Let every ``ModelCheckpoint`` save at the end of the round that begins, also when it makes no update.

    Lightning keeps the file that it has when no update came since, yet a round may have collected or asked.
    """
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            callback._last_global_step_saved = -1


class BesideCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and move it there: Lightning's own passes through the system's temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(path) as temporary:
            temporary.write_bytes(content.getbuffer())


def write_checkpoints_in_place(trainer: pl.Trainer) -> None:
    """Let :class:`BesideCheckpointIO` write every checkpoint, unless ``trainer.plugins`` names another writer."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = BesideCheckpointIO()


def gradient_reducer(trainer: pl.Trainer) -> Callable[[Tensor], None] | None:
    """Return a function that averages a flat gradient over all ranks in place; None on one device."""
    if trainer.world_size == 1:
        return None

    def reduce(flat: Tensor) -> None:
        torch.distributed.all_reduce(flat)
        flat.div_(trainer.world_size)

    return reduce


def on_all_ranks(trainer: pl.Trainer, fine: bool) -> bool:
    """Return on every rank whether ``fine`` holds on all of them."""
    return fine if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(fine)


def asked_together(trainer: pl.Trainer, session: Any, ask: Callable[[], Found]) -> Found:
    """Return on every rank what ``ask`` returns on rank 0, where all help the session to score (:func:`shared_scoring.led`)."""
    strategy = trainer.strategy
    ways = strategy.broadcast, strategy.all_gather, strategy.reduce_boolean_decision
    return shared_scoring.led(shared_scoring.Ranks(trainer.global_rank, trainer.world_size, *ways), session, ask)


def last_checkpoint(trainer: pl.Trainer) -> str | None:
    """Return the checkpoint that a fit has saved last, or was resumed from; None if there is none."""
    savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    paths = [*(callback._last_checkpoint_saved for callback in savers), trainer.ckpt_path]
    return next((str(path) for path in paths if path and Path(path).is_file()), None)


def plain(value: Any) -> Any:
    """Return hyper-parameters as plain types, without private keys (which name classes to call)."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if not str(key).startswith("_")}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
