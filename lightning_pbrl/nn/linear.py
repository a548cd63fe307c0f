"""The linear map of every network: ``F.linear``, computed by oneDNN where that is faster (``nn/products.py``).

Both libraries round as float32 does. Small layers and other types stay with PyTorch's default library.

For every new shape oneDNN generates code, which takes a fifth of a millisecond and half a megabyte, and caches it. By default it
keeps a thousand of them in two caches. Batch sizes that change from round to round would fill both, so both are kept small here.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_pbrl.nn.products import by_onednn, onednn

for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # oneDNN's own, PyTorch's; read at first use
    os.environ.setdefault(_cache, "128")

ONEDNN: bool | None = None
"""True or False computes every large layer by oneDNN or by the default library (``benchmarks/``); None by the faster one."""
MIN_WIDTH, MIN_WORK = 32, 2_500_000
"""Smallest side of a weight, and number of multiplications (rows x in x out), from which oneDNN repays its overhead (20 us)."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b: (..., in), (out, in), (out,) -> (..., out)."""
    if ONEDNN is not False and _is_large(x, weight) and (ONEDNN or by_onednn(x.shape[0], weight.shape[1], weight.shape[0])):
        return _Product.apply(x.contiguous(), weight, bias)  # oneDNN's gradient of a strided view takes hundreds of times as long
    return F.linear(x, weight, bias)


def _is_large(x: Tensor, weight: Tensor) -> bool:
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
    return onednn(x, weight, bias)


# torch.compile replaces oneDNN's operator by one that accepts constant weights only. Registered under a name that torch.compile
# does not know, the operator is called unchanged.
_library = torch.library.Library("lightning_pbrl", "DEF")
_library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("product", onednn, "CPU")


@torch.library.register_fake("lightning_pbrl::product", lib=_library)
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])
