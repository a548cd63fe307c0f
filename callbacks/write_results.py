"""Test results on disk, for tables."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.envs.collect import versions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.settings import Checked


class WriteResults(Checked, pl.Callback):
    """Write ``results.json`` to the run folder after ``test``: metrics, seed, updates, labels, simulator and versions.

    Further training invalidates it, so the first round of a continued fit removes it.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "results.json").unlink(missing_ok=True)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if not trainer.is_global_zero:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key != "step"}
        metrics = {key: value for key, value in metrics.items() if key.split("/")[0] in ("test", "pref", "embedding")}
        lost = [key for key, value in metrics.items() if not math.isfinite(value)]
        if lost:
            raise UserError(
                f"{type(pl_module).__name__} was tested and {lost[0]} is {metrics[lost[0]]}, so no results.json is written: look "
                "for what is not finite in the episodes or predictions, or log the metric only where it is defined."
            )
        if len(pl_module.labels):  # over all rounds, the first included
            skipped = (pl_module.labels.status == Status.SKIPPED).double().mean()
            metrics["teacher/clear_ratio"] = 1.0 - float(skipped)
        data = trainer.datamodule  # type: ignore[attr-defined]
        simulator = getattr(data, "simulator", None)
        results: dict[str, Any] = {
            "method": type(pl_module).__name__,
            "seed": pl_module.seed,
            "replicas": pl_module.replicas,
            "updates": trainer.global_step or pl_module.updates_loaded,  # tested after a fit, or from a checkpoint
            "labels": pl_module.asked.total,
            "metrics": metrics,
            "episodes": getattr(data, "test_episodes", 0),
            "versions": versions(getattr(simulator, "packages", ("pytorch-lightning",))),
        }
        if simulator is not None:
            results["simulator"] = simulator.describe()
            if simulator.d4rl_task is not None:  # a D4RL score needs the note whether the bodies are D4RL's own
                results["d4rl_physics"] = simulator.d4rl_physics
        path = Path(trainer.default_root_dir) / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(results, indent=2))
        os.replace(temporary, path)
