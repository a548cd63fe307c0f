"""Table of a fit's questions, printed before it begins."""

from __future__ import annotations

import pytorch_lightning as pl
from rich.table import Table

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.methods.base import Method


def asking_plan(trainer: pl.Trainer, method: Method) -> Table | None:
    """Return a table of who asks, who answers, how many questions and when; None for a method that reads no answers."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    ask = next((callback for callback in callbacks if isinstance(callback, AskTeacher)), None)
    return None if ask is None or "labels" not in method.needs else ask.plan_for(method).table(method)
