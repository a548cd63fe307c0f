"""Every argument of Lightning's Trainer acts or is refused: a new one fails here until somebody has said which."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from command_line import BC as BC_ARGS
from command_line import QUIET, mistake
from toys import SPEC, ToyData, make_trainer, read_csv

from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.trainer_arguments import ACTS, REFUSED, check_given
from lightning_pbrl.methods.bc import BC

ARGUMENTS = [name for name in inspect.signature(pl.Trainer).parameters if name != "self"]

SENTENCES: dict[str, tuple[Any, str]] = {
    "fast_dev_run": (True, "add `-c debug/tiny.yaml`, or set trainer.max_steps"),
    "min_epochs": (5, "a method's plan says how long it learns: raise model.init_args.updates, env_steps or epochs"),
    "min_steps": (20, "a method's plan says how long it learns: raise model.init_args.updates, env_steps or epochs"),
    "overfit_batches": (0.1, "a method draws its own minibatches: give it smaller data (a data module of few episodes)"),
    "limit_train_batches": (
        1,
        "a round's length is the method's: set model.init_args.updates and eval_interval, or trainer.max_steps",
    ),
    "limit_test_batches": (0.5, "results.json names the episodes tested: set data.init_args.test_episodes"),
    "val_check_interval": (
        0.5,
        "evaluation comes at the end of a round: set model.init_args.eval_interval, or trainer.check_val_every_n_epoch",
    ),
    "num_sanity_val_steps": (3, "evaluation is real episodes, of which none are rolled out to try: leave it at 0"),
    "log_every_n_steps": (3, "a step is a block of updates and each is logged: raise model.init_args.block"),
    "accumulate_grad_batches": (4, "the engine takes its own optimiser steps: raise model.init_args.batch_size"),
    "gradient_clip_val": (
        1.0,
        "the engine takes its own optimiser steps: a method that clips has an argument for it, such as PPO's max_grad_norm",
    ),
    "gradient_clip_algorithm": (
        "norm",
        "the engine takes its own optimiser steps: a method that clips has an argument for it, such as PPO's max_grad_norm",
    ),
    "sync_batchnorm": (True, "the engine's flat parameters are no layers to convert: leave it out"),
    "model_registry": ("mine", "nothing here uploads to Lightning's model hub: leave it out"),
}
"""Argument -> a value that could not act, and the end of the sentence."""

ON_THE_COMMAND_LINE: dict[str, tuple[Any, str]] = {
    "num_sanity_val_steps": (2, "evaluation is real episodes, of which none are rolled out to try: leave it at 0"),
    "log_every_n_steps": (50, "a step is a block of updates and each is logged: raise model.init_args.block"),
    "enable_checkpointing": (False, "a run folder keeps its last checkpoint: leave it out"),
    "use_distributed_sampler": (
        True,
        "data modules share evaluation out themselves, without repeating an episode: leave it out",
    ),
    "barebones": (True, "it forbids the logs and checkpoints that a run is made of: leave it out"),
}
"""What a built trainer cannot tell, or Lightning refuses to build."""


def method() -> BC:
    return BC(SPEC, updates=12, eval_interval=4, block=2, hidden=(8,))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_acts_or_is_refused(name: str) -> None:
    assert (name in ACTS) + (name in REFUSED) == 1
    assert name in ACTS or name in SENTENCES or name in ON_THE_COMMAND_LINE


@pytest.mark.parametrize("name", SENTENCES)
def test_what_could_not_act_is_refused_from_python(name: str, tmp_path: Path) -> None:
    value, cure = SENTENCES[name]
    with pytest.raises(UserError) as refused:
        make_trainer(tmp_path, **{name: value}).fit(method(), ToyData())
    assert str(refused.value) == f"trainer.{name} is {value}, and {REFUSED[name].cure}."
    assert str(refused.value).endswith(f"{cure}.")


@pytest.mark.parametrize("name", ON_THE_COMMAND_LINE)
def test_what_could_not_act_is_refused_on_the_command_line(name: str) -> None:
    value, cure = ON_THE_COMMAND_LINE[name]
    with pytest.raises(UserError) as refused:
        check_given({name: value})
    assert str(refused.value) == f"trainer.{name} is {value}, and {cure}."


@QUIET
def test_the_command_line_refuses_with_the_same_sentence(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = mistake(capfd, "fit", *BC_ARGS, f"--run_dir={tmp_path}", "--trainer.gradient_clip_val=1.0")
    assert found == f"trainer.gradient_clip_val is 1.0, and {SENTENCES['gradient_clip_val'][1]}."


def test_an_interval_of_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^trainer\.val_check_interval is 1 s, and evaluation comes at the end of a round"):
        make_trainer(tmp_path, val_check_interval="00:00:00:01").fit(method(), ToyData())


def test_lightnings_defaults_ask_for_nothing(tmp_path: Path) -> None:
    """Python's default trainer keeps 50 steps between logs and 2 sanity steps: every block is logged, no episode tried."""
    defaults = {"num_sanity_val_steps": 2, "log_every_n_steps": 50, "gradient_clip_val": 0, "limit_train_batches": 1.0}
    trainer = make_trainer(tmp_path, min_epochs=1, val_check_interval=1.0, overfit_batches=0, **defaults)
    trainer.fit(method(), ToyData())
    rows = read_csv(tmp_path)
    assert trainer.global_step == 12
    assert list(dict.fromkeys(row["step"] for row in rows if "train/actor_loss" in row)) == [2, 4, 6, 8, 10, 12]
    assert sum("eval/return_mean" in row for row in rows) == 3


@pytest.mark.parametrize(
    ("settings", "steps", "evaluations"),
    [
        ({"max_epochs": 2}, 8, 2),
        ({"max_steps": 5}, 5, 1),
        ({"check_val_every_n_epoch": 2}, 12, 1),
        ({"limit_val_batches": 0}, 12, 0),
        ({"limit_val_batches": 0.5}, 12, 3),
        ({"reload_dataloaders_every_n_epochs": 1, "inference_mode": False, "detect_anomaly": True}, 12, 3),
    ],
)
def test_what_acts(settings: dict[str, Any], steps: int, evaluations: int, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **settings)
    trainer.fit(method(), ToyData())
    assert trainer.global_step == steps
    assert sum("eval/return_mean" in row for row in read_csv(tmp_path)) == evaluations


def test_time_runs_out_at_the_end_of_a_round(tmp_path: Path) -> None:
    class Slow(BC):
        def training_step(self, token: int) -> None:
            time.sleep(0.06)
            super().training_step(token)

    trainer = make_trainer(tmp_path, max_time={"milliseconds": 50})
    trainer.fit(Slow(SPEC, updates=12, eval_interval=4, block=2, hidden=(8,)), ToyData())
    assert trainer.global_step == 4  # one round of 4 updates, not the block of 2 in which the time was up
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4 and saved["lightning_pbrl"]["finished"] is False
