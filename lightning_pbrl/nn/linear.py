"""The linear map of every network: ``F.linear``, on a CPU in the fastest of the ways of ``compute/products.py``.

Both libraries round as float32 does. Small layers and other types stay with PyTorch's own.

For every new shape oneDNN generates code, which takes a fifth of a millisecond and half a megabyte, and caches it. By default it
keeps a thousand of them in two caches. Batch sizes that change from round to round would fill both, so both are kept small here.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_pbrl.compute.products import Product, by_onednn, by_transposing, is_narrow, of_input, of_weight, onednn

for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # oneDNN's own, PyTorch's; read at first use
    os.environ.setdefault(_cache, "128")

ONEDNN: bool | None = None
"""True or False computes every large layer by oneDNN or by the default library (``benchmarks/``); None by the faster one."""
MIN_WIDTH, MIN_WORK = 32, 2_500_000
"""Smallest side of a weight, and number of multiplications (rows x in x out), from which oneDNN repays its overhead (20 us)."""
MIN_NARROW = 500_000
"""Number of multiplications of a layer with narrow inputs from which a faster order of its gradients may repay its overhead."""
MIN_BIASED = 8_192
"""Number of outputs (rows x out) from which a compiled layer adds its bias outside of the product."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b: (..., in), (out, in), (out,) -> (..., out)."""
    if x.dim() == 2 and x.device.type == "cpu" and x.dtype == weight.dtype and not torch.is_autocast_enabled("cpu"):
        fan_out, fan_in = weight.shape
        work = x.shape[0] * weight.numel()
        large = min(fan_in, fan_out) >= MIN_WIDTH and work >= MIN_WORK and x.dtype == torch.float32
        if large and ONEDNN is not False and (ONEDNN or by_onednn(x.shape[0], fan_in, fan_out)):
            return _Product.apply(
                x.contiguous(), weight, bias, True
            )  # the gradient of a strided view takes a hundred times as long
        if bias is not None and x.dtype == torch.float32 and _biased_apart(x.shape[0] * fan_out):
            return _Biased.apply(linear(x, weight), bias)
        narrow = is_narrow(fan_in, fan_out) and work >= MIN_NARROW and torch.is_grad_enabled()
        if narrow and (torch.compiler.is_compiling() or by_transposing(x.shape[0], fan_in, fan_out)):
            return _Product.apply(x, weight, bias, False)
    return F.linear(x, weight, bias)


def _biased_apart(outputs: int) -> bool:
    """Return True while a layer is compiled that repays a sum of its own: the activation's kernel adds the bias for nothing.

    A product with a bias copies it to every row of the result first.
    """
    return outputs >= MIN_BIASED and torch.compiler.is_compiling()


def _over_rows(grad: Tensor) -> Tensor:
    """Sum over rows, (B, out) -> (out,): by a product where a compiled sum would take 5 times as long, column after column."""
    if _biased_apart(grad.numel()):
        return torch.mm(grad.new_ones(1, grad.shape[0]), grad).squeeze(0)
    return grad.sum(0)


class _Biased(torch.autograd.Function):
    """Sum of a product and a bias, (B, out) + (out,), which the compiler does not merge with the product again.

    It would merge an addition. Subtracting the negative gives the same bits.
    """

    @staticmethod
    def forward(x: Tensor, bias: Tensor) -> Tensor:
        return x - (-bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, _over_rows(grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, bias: Tensor) -> tuple[Tensor, int]:
        """Add the biases under a leading axis (replicas in the batched layout)."""
        return torch.vmap(torch.add, in_dims=in_dims)(x, bias), 0


class _Product(torch.autograd.Function):
    """Product x W^T + b of two matrices, whose gradients are such products again; by oneDNN or by the default library."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, by_onednn: bool) -> Tensor:
        return _product(x, weight, bias) if by_onednn else F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, bool], output: Tensor) -> None:
        x, weight, _, ctx.by_onednn = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        product: Product = F.linear
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        if ctx.by_onednn:
            grad, product = grad.contiguous(), _differentiable if torch.is_grad_enabled() else _product
        return (
            of_input(product, grad, weight) if for_x else None,
            of_weight(product, grad, x) if for_weight else None,
            _over_rows(grad) if for_bias else None,
            None,
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None, _: bool
    ) -> tuple[Tensor, int]:
        """Use PyTorch's own batched product under a leading axis (replicas in the batched layout)."""
        return torch.vmap(F.linear, in_dims=in_dims[:3])(x, weight, bias), 0


def _differentiable(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a product by oneDNN of which second derivatives may be taken."""
    return _Product.apply(x, weight, bias, True)


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
