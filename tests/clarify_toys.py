"""A tiny CLARIFY on synthetic data whose rewards a skipping teacher can use, for every test that fits or steps one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from toys import SPEC, ToyData, drawn

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.fitting.answers import hand_over
from lightning_pbrl.fitting.starting import attach
from lightning_pbrl.methods.clarify import CLARIFY
from lightning_pbrl.rng import stream

LENGTH = 10
TINY: dict[str, Any] = {
    "hidden": [16, 16],
    "ensemble_size": 2,
    "epochs": 5,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "max_episode_steps": 40,
    "encoder_batch_size": 16,
    "encoder_lr": 3e-3,
    "warmup": 5,
    "n_init": 40,
    "n_emb": 20,
}


class SkippableData(ToyData):
    """The synthetic data set with rewards around 1, so that thresholds relative to their mean make sense."""

    def load(self) -> Transitions:
        data = super().load()
        data.reward += 1
        return data


def tiny(**changes: Any) -> CLARIFY:
    return CLARIFY(SPEC, **{**TINY, **changes})


def ready(**changes: Any) -> CLARIFY:
    """A method with data, an engine and labels, without a Trainer's loop: 12 answers of all statuses."""
    method = tiny(**changes)
    data = SkippableData()
    data.setup("fit")
    method.configure_model()
    method.source = data.source
    hand_over(method)
    method.on_data()
    method.__dict__["_trainer"] = SimpleNamespace(current_epoch=0, global_rank=0)  # all that a fit asks it for
    start = data.source.pool(LENGTH).pairs(12, stream(0, "labels")).start
    status = torch.tensor([1, 1, 3, 1, 2, 3, 1, 0, 3, 1, 1, 3])
    value = torch.tensor([0.0, 1, 0, 1, 0.5, 0, 0, 0, 0, 1, 0, 0])
    method.labels = Labels(start, LENGTH, torch.where((status == 1) | (status == 2), value, float("nan")), status)
    hand_over(method)
    attach(method, UpdateEngine(method, method.groups(), method.programs(), [0], compile=False))
    return method


def begin_fits(method: CLARIFY) -> None:
    """Begin the fits of the first round: they learn from the answers there are."""
    for phase in method.plan(0):
        assert phase.start is not None
        phase.start()


def draw(method: CLARIFY) -> dict[str, torch.Tensor]:
    """Random input of the first encoder step."""
    return drawn(method.programs()["encoder"])[0]


def minibatch(method: CLARIFY) -> dict[str, torch.Tensor]:
    """What the first encoder step reads."""
    return method.gather_windows(draw(method))
