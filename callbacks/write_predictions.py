"""Predictions on disk: learned reward and action for every row of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import reading
from lightning_pbrl.finite import check_finite
from lightning_pbrl.methods.base import Method
from lightning_pbrl.settings import Checked


class WritePredictions(Checked, pl.Callback):
    """Write the outputs of ``predict`` to one safetensors file, in the order of the data's rows.

    The file holds ``row`` (N,) int64 and, whichever the method learns, ``learned_reward`` (N,) and ``action`` (N, A), float32.
    Its metadata name method, checkpoint, seed and the fingerprint of the data. Every rank writes its own part and rank 0 merges
    them, so all ranks must see the run folder.

    It is not a ``BasePredictionWriter``, because that class asks the loader for a sampler, which ours does not have, and warns.

    Args:
        path: file to write; None for ``predictions.safetensors`` in the run folder.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._outputs: list[dict[str, Tensor]] = []

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._outputs.clear()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for key, value in outputs.items():
            if value.is_floating_point() and len(value):  # a rank may have no row
                name = type(pl_module).__name__
                cure = f"predict from data without such rows, or with a {name} whose training has not diverged"
                check_finite(value, f"What {name} predicts as {key} for the rows from {int(outputs['row'][0])} on", cure)
        self._outputs.append({key: value.detach().cpu() for key, value in outputs.items()})

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        path = Path(self.path) if self.path is not None else Path(trainer.default_root_dir) / "predictions.safetensors"
        merged = _in_order(self._outputs)
        self._outputs.clear()
        if trainer.world_size > 1:
            parts = [path.with_name(f".{path.name}.rank{rank}") for rank in range(trainer.world_size)]
            _write(merged, parts[trainer.global_rank], {})
            trainer.strategy.barrier("predictions")
            if not trainer.is_global_zero:
                return
            merged = _in_order([_read(part) for part in parts])
            for part in parts:
                part.unlink()
        about = {
            "method": type(pl_module).__name__,
            "checkpoint": str(trainer.ckpt_path or ""),
            "seed": str(pl_module.seed),
            "data_fingerprint": pl_module.source.fingerprint,
        }
        _write(merged, path, about)


def _in_order(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join the outputs and sort them by row; floats become float32. A rank without rows adds nothing."""
    parts = [part for part in parts if len(part.get("row", ()))]
    if not parts:
        return {"row": torch.empty(0, dtype=torch.int64)}
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    order = joined["row"].argsort()
    return {key: (values if key == "row" else values.float())[order] for key, values in joined.items()}


def _write(tensors: dict[str, Tensor], path: Path, about: dict[str, str]) -> None:
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=about)


def _read(path: Path) -> dict[str, Tensor]:
    cure = "predict again, with a run_dir on a file system that all devices share"
    with reading(path, "is damaged", cure), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
