"""Precision of an update's products: bf16 acts and keeps everything else in float32; TF32 is refused without CUDA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recorders import counted
from test_update import Learner
from torch import Tensor

from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.errors import UserError
from lightning_pbrl.nn import MLP


def engine(precision: Any, replicas: int = 1) -> UpdateEngine:
    owner, seeds = Learner(), range(replicas)
    return UpdateEngine(owner, owner.parts(), {"main": owner.program()}, seeds, False, "batched", precision=precision)


def test_bf16_computes_products_only() -> None:
    """Operands have 8 bits: losses differ by about 1 % and not at all in type; weights and moments are float32."""
    exact, coarse = engine("float32"), engine("bf16")
    a, b = exact.run("main", 40), coarse.run("main", 40)
    for key, value in a.items():
        assert b[key].dtype == torch.float32
        assert not torch.equal(value, b[key]) and torch.allclose(value, b[key], rtol=0.05)
    moments = [state["exp_avg"] for each in coarse.state.optimizers[0].values() for state in each.state.values()]
    assert {value.dtype for value in (*coarse.state.storage.values(), *moments)} == {torch.float32}


def test_bf16_reads_the_weights_of_every_update() -> None:
    """Autocast's cache would keep the weights of a block's first update: K updates equal K blocks of one."""
    together, alone = engine("bf16"), engine("bf16")
    together.run("main", 6)
    for _ in range(6):
        alone.run("main", 1)
    assert all(torch.equal(value, alone.state.storage[key]) for key, value in together.state.storage.items())


def test_bf16_replicas_in_one_call() -> None:
    a, b = (engine(precision, replicas=2).run("main", 10) for precision in ("bf16", "float32"))
    assert not torch.equal(a["f"], b["f"]) and torch.allclose(a["f"], b["f"], rtol=0.05)


def test_bf16_is_asked_of_wide_layers_too() -> None:
    """Layers that oneDNN would compute in float32 are products of bf16 operands as well."""
    net, x = MLP(256, 256, (256,)), torch.randn(256, 256)
    with torch.autocast("cpu", torch.bfloat16), counted() as names:
        found = net(x)
    assert found.dtype == torch.float32 and not [name for name in names if "_linear_pointwise" in name]
    assert (found - net(x)).abs().max() > 1e-5


def test_tf32_is_refused_without_cuda() -> None:
    with pytest.raises(UserError, match=r"precision=tf32 is for CUDA .* on the cpu device: set model\.init_args\.precision"):
        engine("tf32")


def test_members_are_one_product_a_layer_where_products_are_batched() -> None:
    """What "auto" does on CUDA: kernels do not grow with the number of members (forward and backward)."""

    def calls(members: int, layout: str) -> int:
        net = MLP(6, 1, (32, 32), members, layout=layout)
        x: Tensor = torch.randn(members, 16, 6)
        with counted() as names:
            net(x).square().sum().backward()
        return len([name for name in names if "mm" in name])

    assert calls(3, "batched") == calls(7, "batched") == 3 + 5  # forward; backward of weights and of all inputs but the first
    assert calls(7, "loop") == 7 * calls(1, "loop")
