"""The linear map gives F.linear's numbers and derivatives whichever library computes it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lightning_pbrl.nn import linear as module
from lightning_pbrl.nn.linear import linear

ROWS, IN, OUT = 256, 100, 120


@pytest.fixture(autouse=True)
def _on_any_processor(monkeypatch):
    """Elsewhere an Intel processor leaves oneDNN alone."""
    monkeypatch.setattr(module, "ONEDNN", hasattr(torch.ops.mkldnn, "_linear_pointwise"))


@pytest.fixture
def inputs():
    rng = torch.Generator().manual_seed(0)
    shapes = ((ROWS, IN), (OUT, IN), (OUT,))
    return [torch.randn(shape, generator=rng).requires_grad_() for shape in shapes]


def test_oneDNN_takes_large_float32_matrices_only(inputs):
    x, weight, bias = inputs
    assert type(linear(x, weight, bias).grad_fn).__name__ == "_ProductBackward"
    for other in ((x[:200], weight), (x.repeat(8, 1), weight[:31]), (x[None], weight), (x.double(), weight.double())):
        b = bias[: other[1].shape[0]].to(other[0].dtype)
        assert type(linear(*other, b).grad_fn).__name__ != "_ProductBackward"


@pytest.mark.parametrize("wanted", [(0, 1, 2), (1, 2), (0,)])
def test_value_and_gradients_equal_float64(inputs, wanted):
    exact = [t.detach().double().requires_grad_() for t in inputs]
    values = [linear(*inputs), F.linear(*exact)]
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-5, atol=1e-5)
    losses = [value.square().sum() for value in values]
    grads, right = (torch.autograd.grad(loss, [t[i] for i in wanted]) for loss, t in zip(losses, (inputs, exact), strict=True))
    for got, expected in zip(grads, right, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)


def test_second_derivative_of_a_gradient_penalty(inputs):
    def penalty_gradient(function, x, weight, bias):
        (slope,) = torch.autograd.grad(function(x, weight, bias).square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().mean(), weight)[0]

    exact = [t.detach().double().requires_grad_() for t in inputs]
    got, expected = penalty_gradient(linear, *inputs), penalty_gradient(F.linear, *exact)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_vmap_over_replicas_of_weights_and_gradients(inputs):
    x, weight, bias = inputs
    weights = torch.stack([weight.detach(), -weight.detach()]).requires_grad_()
    out = torch.vmap(linear, in_dims=(None, 0, None))(x, weights, bias)
    torch.testing.assert_close(out[1], F.linear(x, -weight, bias), rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(out[0].sum(), weights)
    torch.testing.assert_close(grad[0], x.detach().sum(0).expand(OUT, IN), rtol=1e-4, atol=1e-4)
    assert grad[1].abs().max() == 0


def test_switch_off_gives_torchs_own(inputs, monkeypatch):
    monkeypatch.setattr(module, "ONEDNN", False)
    assert torch.equal(linear(*inputs), F.linear(*inputs))


def test_a_strided_view_is_as_good_as_its_copy():
    """oneDNN's own gradient of a view is right, but takes hundreds of times as long; so it gets a copy."""
    rng = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(shape, generator=rng) for shape in ((ROWS, 2 * IN), (OUT, IN), (OUT,)))
    weight.requires_grad_()
    view = rows[:, :IN]
    found = [linear(x, weight, bias) for x in (view, view.clone(memory_format=torch.contiguous_format))]
    assert not view.is_contiguous() and found[0].grad_fn.saved_tensors[0].is_contiguous()
    grads = [torch.autograd.grad(value.sum(), weight)[0] for value in found]
    assert torch.equal(*found) and torch.equal(*grads)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads this process's memory from Linux")
def test_memory_does_not_grow_with_the_number_of_shapes():
    """Unbounded, a thousand new shapes keep 700 MB."""
    rng = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=rng) for shape in ((1_300, 256), (256, 256), (256,)))

    def after(shapes):
        for rows in shapes:
            linear(x[:rows], weight, bias)
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = after(range(100, 300))  # fills the caches
    assert after(range(300, 1_300)) - before < 300e6


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("wanted", [(0, 1, 2), (1, 2), (0,)])
def test_gradients_of_a_narrow_layer_equal_float64(onednn, wanted, monkeypatch):
    """A layer of 40 inputs and 256 outputs, whose gradients are computed transposed."""
    monkeypatch.setattr(module, "ONEDNN", onednn and module.ONEDNN)
    monkeypatch.setattr(module, "by_transposing", lambda *size: True)  # on whatever machine
    rng = torch.Generator().manual_seed(0)
    narrow = [torch.randn(shape, generator=rng).requires_grad_() for shape in ((ROWS, 40), (256, 40), (256,))]
    exact = [t.detach().double().requires_grad_() for t in narrow]
    values = [linear(*narrow), F.linear(*exact)]
    assert type(values[0].grad_fn).__name__ == "_ProductBackward"
    grads, right = (
        torch.autograd.grad(value.square().sum(), [t[i] for i in wanted])
        for value, t in zip(values, (narrow, exact), strict=True)
    )
    for got, expected in zip(grads, right, strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)


def test_second_derivative_of_a_narrow_layer(monkeypatch):
    monkeypatch.setattr(module, "ONEDNN", False)
    monkeypatch.setattr(module, "by_transposing", lambda *size: True)  # on whatever machine
    rng = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in ((ROWS, 11), (256, 11)))

    def curvature(function):
        (slope,) = torch.autograd.grad(function(x, weight, None).pow(3).sum(), weight, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    torch.testing.assert_close(curvature(linear), curvature(F.linear))


def test_small_and_gradient_free_narrow_layers_stay_with_torch(monkeypatch):
    monkeypatch.setattr(module, "ONEDNN", False)
    monkeypatch.setattr(module, "by_transposing", lambda *size: True)  # on whatever machine
    x, weight = torch.ones(ROWS, 11), torch.ones(256, 11, requires_grad=True)
    assert type(linear(x, weight).grad_fn).__name__ == "_ProductBackward"
    assert type(linear(x[:64], weight).grad_fn).__name__ != "_ProductBackward"
    with torch.no_grad():
        assert torch.equal(linear(x, weight), F.linear(x, weight))
