"""Progress of a run: one live line on a terminal, or one plain line per round, and a heartbeat file."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column

from lightning_pbrl.reports.metrics import run_at
from lightning_pbrl.settings import Checked

SHOWN = {
    "eval/success_rate": "success",
    "eval/return_mean": "return",
    "pref/accuracy": "accuracy",
    "test/success_rate": "success",
    "test/return_mean": "return",
}
"""Metrics shown beside the bar, next to the losses: name -> label in the bar."""

HEARTBEAT_SECONDS = 1.0
BAR_WIDTH = 16


class RoundProgress(Checked, ProgressBar):
    """Progress bar of a run: round, phase, updates done, rate, main metrics; a second line during evaluation.

    On a terminal the line is redrawn at most ``refresh_rate`` times per second. Only then, or for a heartbeat, the device is
    synchronised, once for all metrics. Without a terminal every round prints one plain line.

    Args:
        heartbeat: also write ``progress.json`` to the run folder, atomically and at most once per second, so that another
            process can draw this run's bar. Keys: run, stage (fit, test ...), round, phase, done and total (updates of the
            round, env steps if it only collects; episodes or pairs during evaluation), updates (of the run), env_steps (if
            the method acts), planned (of the run, or null), metrics (finite ones), time (seconds since 1970).
        name: name of the run; None for stage and seed, from the run folder.
        refresh_rate: largest number of redraws per second.
    """

    def __init__(self, heartbeat: bool = False, name: str | None = None, refresh_rate: float = 5.0) -> None:
        super().__init__()
        self.heartbeat, self.name, self.refresh_rate = heartbeat, name, refresh_rate
        self.console: Console | None = None
        self._enabled = True
        self._bars: Progress | None = None
        self._round_bar, self._evaluation_bar = TaskID(0), TaskID(1)
        self._drawn = self._beat = -math.inf
        self._values: dict[str, float] = {}
        self._evaluating, self._done, self._total, self._round_began = False, 0, 0, 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=32)  # (time, updates), for the rate

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False
        self._close()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._values.clear()
        self._marks.clear()
        self._rounds = 0
        if self.console is None:
            self.console = Console()
        if self.name is None:
            run = run_at(trainer.default_root_dir)
            self.name = run.stage if run.seed is None else f"{run.stage}/{run.path.name}"

    # A run: opened by whichever verb comes first ----------------------------------------------------------------------

    def _open(self) -> None:
        if self._bars is not None or not self._enabled or self.console is None or not self.console.is_terminal:
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(BAR_WIDTH),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)),
        )
        self._bars = Progress(*columns, console=self.console, auto_refresh=False, transient=True)
        self._round_bar = self._bars.add_task(str(self.name), total=1, note="")
        self._evaluation_bar = self._bars.add_task("", total=1, note="", visible=False)
        self._bars.start()

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _finish(self) -> None:
        self._tick(last=True)
        self._close()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._close()

    # Rounds -----------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:  # the plan of the round is known from here on
            self._round_began = trainer.global_step
            self._marks.clear()
            self._mark(trainer)
            self._tick(force=True)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._mark(trainer)
        self._tick()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._rounds:
            self._say("no round is left to run", f"{trainer.global_step:,} updates were made before")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._rounds += 1
        if not self._enabled:
            return
        self._values |= self._metrics()
        done = trainer.global_step - self._round_began
        self._say(f"round {trainer.current_epoch}", f"{done:,} updates", *self._counts(), self._note())
        self._tick()

    # Evaluation -------------------------------------------------------------------------------------------------------

    def _begin_evaluation(self, loader: Any) -> None:
        self._open()
        self._evaluating, self._done = True, 0
        self._total = sum(_items(batch) for batch in getattr(loader, "batches", []))
        self._tick(force=True)

    def _evaluated(self, batch: Any) -> None:
        self._done += _items(batch)
        self._total = max(self._total, self._done)
        self._tick()

    def _end_evaluation(self) -> None:
        self._evaluating = False
        if self._bars is not None:
            self._bars.update(self._evaluation_bar, visible=False)
        if not self._fitting and self._enabled:  # a separate verb; in a fit the round continues
            self._values |= self._metrics()
            self._say(self._verb, f"{self._done:,} {self._noun()}", self._note())
            self._finish()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_evaluation(trainer.val_dataloaders)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *place: int) -> None:
        self._evaluated(batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_evaluation()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_evaluation(trainer.test_dataloaders)

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *place: int) -> None:
        self._evaluated(batch)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_evaluation()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_evaluation(trainer.predict_dataloaders)

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *place: int) -> None:
        self._evaluated(batch)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_evaluation()

    # Drawing ----------------------------------------------------------------------------------------------------------

    def _tick(self, force: bool = False, last: bool = False) -> None:
        """Redraw the bar and write the heartbeat if they are due; everything that costs time happens here."""
        now = time.monotonic()
        draw = self._bars is not None and (force or last or now - self._drawn >= 1.0 / self.refresh_rate)
        beat = self.heartbeat and self._enabled and (last or now - self._beat >= HEARTBEAT_SECONDS)
        if not (draw or beat):
            return
        trainer = self.trainer
        self._values |= self._metrics()
        done, total = self._round_progress()
        if draw and self._bars is not None:
            self._drawn = now
            what = (f"round {trainer.current_epoch}", self._phase()) if self._fitting else (self._verb,)
            text = _joined(str(self.name), *what)
            taken = len(text) + BAR_WIDTH + len(f"{done:,}/{total:,}") + 6  # spinner and the gaps between columns
            note = _joined(*self._counts(), self._note())[: max(self._bars.console.width - taken, 0)]
            self._bars.update(self._round_bar, description=text, completed=done, total=max(total, 1), note=note)
            self._bars.update(
                self._evaluation_bar,
                description=f"  {self._noun()}",
                completed=self._done,
                total=max(self._total, 1),
                visible=self._evaluating,
            )
            self._bars.refresh()
        if beat:
            self._beat = now
            self._write_heartbeat(done, total, last)

    def _round_progress(self) -> tuple[int, int]:
        """Return the updates done in this round and their total; phases that ended early count only the updates they did.

        For a round that only collects, the counts are env steps.
        """
        if not self._fitting:
            return self._done, self._total
        rounds = getattr(self.trainer.lightning_module, "rounds", None)
        if rounds is not None and rounds.collecting is not None:
            return int(rounds.collecting[0]), int(rounds.collecting[1])
        done = self.trainer.global_step - self._round_began
        return done, done + (0 if rounds is None else int(rounds.updates_left))

    @property
    def _verb(self) -> str:
        """The Trainer's verb: fit, validate, test or predict."""
        return self.trainer.state.fn.value if self.trainer.state.fn is not None else ""

    @property
    def _fitting(self) -> bool:
        return self._verb == "fit"

    def _counts(self) -> list[str]:
        """Return env steps and feedback so far, for a method that acts while it learns."""
        method: Any = self.trainer.lightning_module
        if not self._fitting or getattr(method, "collector", None) is None:
            return []
        asked = [f"{method.asked.total:,} answers"] if "labels" in method.needs else []
        return [f"{method.env_steps:,} env steps", *asked]

    def _phase(self) -> str:
        rounds = getattr(self.trainer.lightning_module, "rounds", None)
        return "evaluate" if self._evaluating else "" if rounds is None else str(rounds.name)

    def _noun(self) -> str:
        if self.trainer.predicting:
            return "rows"
        noun = str(getattr(self.trainer.lightning_module, "validates_on", "items"))
        return noun if self.trainer.world_size == 1 else f"{noun} on this device"

    def _mark(self, trainer: pl.Trainer) -> None:
        self._marks.append((time.monotonic(), trainer.global_step))

    def _rate(self) -> float:
        """Return updates per second over the last blocks of this round."""
        if len(self._marks) < 2:
            return 0.0
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / max(ended - began, 1e-9)

    def _metrics(self) -> dict[str, float]:
        """Return losses and main metrics as numbers; the only place that synchronises with the device."""
        found = {
            key: value
            for key, value in self.trainer.callback_metrics.items()
            if key in SHOWN or (key.startswith("train/") and key.endswith("_loss"))
        }
        if not found:
            return {}
        device = self.trainer.strategy.root_device
        values = torch.stack([value.detach().to(device, torch.float32).reshape(()) for value in found.values()])
        return dict(zip(found, values.tolist(), strict=True))

    def _note(self) -> str:
        parts = [f"{rate:,.0f} updates/s"] if (rate := self._rate()) else []
        losses = [f"{key.removeprefix('train/')} {v:.3g}" for key, v in self._values.items() if key not in SHOWN]
        main = {SHOWN[key]: value for key, value in self._values.items() if key in SHOWN}
        return _joined(*parts, *losses, *(f"{name} {value:.3g}" for name, value in main.items()))

    def _say(self, *parts: str) -> None:
        """Print a permanent line."""
        self.print(_joined(str(self.name), *parts))

    def print(self, *args: Any, **kwargs: Any) -> None:
        if self._enabled and self.console is not None:
            self.console.print(*args, markup=False, highlight=False, soft_wrap=True)

    def _write_heartbeat(self, done: int, total: int, last: bool) -> None:
        trainer, method = self.trainer, cast("Any", self.trainer.lightning_module)
        if self._evaluating:
            done, total = self._done, self._total
        record = {
            "run": self.name,
            "stage": self._verb,
            "round": trainer.current_epoch,
            "phase": "finished" if last else self._phase(),
            "done": done,
            "total": total,
            "updates": trainer.global_step,
            **({"env_steps": method.env_steps} if getattr(method, "collector", None) is not None else {}),
            "planned": getattr(method, "updates", None),
            "metrics": {key: value for key, value in self._values.items() if math.isfinite(value)},
            "time": time.time(),
        }
        path = Path(trainer.default_root_dir) / "progress.json"
        part = path.with_suffix(".json.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(record))
            os.replace(part, path)
        except OSError:  # a full disk will stop the writers of more important files
            self.heartbeat = False


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _items(batch: Any) -> int:
    return len(batch) if hasattr(batch, "__len__") else 1
