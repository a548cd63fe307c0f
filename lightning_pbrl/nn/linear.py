"""The linear map of every network: ``F.linear``, computed by oneDNN where that is faster.

PyTorch's CPU build multiplies float32 matrices with MKL. On an AMD EPYC (family 26) a layer of 256 x 256 on 256 rows takes 313 us
with MKL. It takes 182 us with oneDNN, which PyTorch ships as well; both round as float32 does (``benchmarks/``). On an Intel Xeon
(family 6, model 167) it takes 200 us with MKL and 272 us with oneDNN. Intel processors therefore use MKL throughout. On one
processor the choice depends on shapes alone, so a resumed run repeats it bit for bit.

For every new shape oneDNN generates code, which takes a fifth of a millisecond and half a megabyte, and caches it. By default it
keeps a thousand of them in two caches. Batch sizes that change from round to round would fill both, so both are kept small here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # oneDNN's own, PyTorch's; read at first use
    os.environ.setdefault(_cache, "128")

_CPU = Path("/proc/cpuinfo")
INTEL = _CPU.exists() and "GenuineIntel" in _CPU.read_text()[:4096]
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and not INTEL
"""True if oneDNN is used; ``benchmarks/`` switches it off to measure its effect."""
MIN_WIDTH, MIN_WORK = 32, 2_500_000
"""Smallest side of a weight, and number of multiplications (rows x in x out), from which oneDNN repays its overhead (20 us)."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b: (..., in), (out, in), (out,) -> (..., out)."""
    if ONEDNN and _suits_onednn(x, weight):
        return _Product.apply(x.contiguous(), weight, bias)  # oneDNN's gradient of a strided view takes hundreds of times as long
    return F.linear(x, weight, bias)


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    large = x.dim() == 2 and min(weight.shape) >= MIN_WIDTH and x.shape[0] * weight.numel() >= MIN_WORK
    return large and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32


class _Product(torch.autograd.Function):
    """Product x W^T + b of two matrices, whose gradients are such products again."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        of_x, of_weight, of_bias = ctx.needs_input_grad
        product = _Product.apply if torch.is_grad_enabled() else _product  # a graph when second derivatives are wanted
        return (
            product(grad, weight.T, None) if of_x else None,
            product(grad.T, x.T, None) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, int]:
        """Use PyTorch's own batched product under a leading axis (replicas in the batched layout)."""
        return torch.vmap(F.linear, in_dims=in_dims)(x, weight, bias), 0


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():
        return torch.ops.lightning_pbrl.product(x, weight, bias)
    return _onednn(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


# torch.compile replaces oneDNN's operator by one that accepts constant weights only. Registered under a name that torch.compile
# does not know, the operator is called unchanged.
_library = torch.library.Library("lightning_pbrl", "DEF")
_library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("product", _onednn, "CPU")


@torch.library.register_fake("lightning_pbrl::product", lib=_library)
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])
