"""Precision of the products of an update: float32, TF32 on CUDA, or bfloat16. Weights, moments and losses stay float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch

from lightning_pbrl.errors import UserError

Precision = Literal["float32", "tf32", "bf16"]
Step = Callable[[Any], Any]
"""Computation of the losses of a batch."""


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise a UserError if the device has no such products."""
    if precision == "tf32" and device.type != "cuda":
        raise UserError(
            f"precision=tf32 is for CUDA and the method is on the {device.type} device: set model.init_args.precision to float32 "
            "or bf16."
        )


def step_in(precision: Precision, step: Step, device: torch.device) -> Step:
    """Return a loss step whose products are computed in this precision; only bf16 needs another function."""
    if precision != "bf16":
        return step

    def in_bf16(batch: Any) -> Any:
        # Without the cache: it would keep the weights of the first update of a block.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return step(batch)

    return in_bf16


def flush_denormals(device: torch.device) -> None:
    """Let a CPU round denormal numbers to zero: underflowing moments would slow the fused optimiser threefold."""
    if device.type == "cpu":
        np.finfo(np.float32), np.finfo(np.float64)  # looked at once per process, with a warning where denormals are flushed
        torch.set_flush_denormal(True)


@contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Let CUDA use TF32 or not: float32 is exact here, and cuDNN's own default is not."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
