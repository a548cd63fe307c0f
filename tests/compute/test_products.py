"""The choice of a matrix library follows the measured times, is made once per machine, and goes with the run."""

from __future__ import annotations

import json

import pytest
import torch

from lightning_pbrl.compute import products
from lightning_pbrl.nn import linear as linear_module
from lightning_pbrl.nn.linear import linear


class Times:
    """Invented times of a layer, (default library, oneDNN) by size, in place of :func:`products.measure`; counts its calls."""

    def __init__(self, *times: tuple[float, float]) -> None:
        self.times, self.asked = list(times), []

    def __call__(self, size: products.Size) -> tuple[float, float]:
        self.asked.append(tuple(size))
        return self.times[len(self.asked) - 1]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Return a function that invents the coming measurements of what counts as a fresh process with an own cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(products, "AVAILABLE", True)

    def invent(*times):
        found = Times(*times)
        monkeypatch.setattr(products, "measure", found)
        monkeypatch.setattr(products, "_choices", {})
        return found

    return invent


def test_the_faster_library_is_chosen_for_each_size(measured):
    times = measured((2.0, 1.0), (1.0, 2.0), (1.04, 1.0))
    assert products.by_onednn(256, 256, 256)
    assert not products.by_onednn(256, 256, 128)
    assert not products.by_onednn(512, 256, 256)  # a lead within the margin is none
    assert products.by_onednn(300, 256, 256)  # shares the choice of 256 rows
    assert times.asked == [(256, 256, 256), (256, 256, 128), (512, 256, 256)]


def test_rows_beyond_the_most_share_a_choice(measured):
    times = measured((2.0, 1.0))
    assert products.by_onednn(1024, 256, 256) and products.by_onednn(12_800, 256, 256)
    assert times.asked == [(products.MOST_ROWS, 256, 256)]


def test_the_first_process_of_a_machine_decides(measured):
    measured((2.0, 1.0))
    products.by_onednn(256, 256, 256)
    later = measured((1.0, 2.0))
    assert products.by_onednn(256, 256, 256) and later.asked == []
    entry = json.loads(products.cache().read_text())["256 x 256 x 256, 1 threads"]
    assert entry == {"onednn": True, "seconds": {"default": 2.0, "oneDNN": 1.0}}


def test_another_number_of_threads_is_measured_anew(measured, monkeypatch):
    measured((2.0, 1.0), (1.0, 2.0))
    assert products.by_onednn(256, 256, 256)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not products.by_onednn(256, 256, 256)


@pytest.mark.parametrize("damage", ["{", "[]", '{"256 x 256 x 256, 1 threads": 1}'])
def test_a_damaged_file_is_replaced(measured, damage):
    times = measured((2.0, 1.0))
    products.cache().parent.mkdir(parents=True)
    products.cache().write_text(damage)
    assert products.by_onednn(256, 256, 256) and len(times.asked) == 1
    assert list(json.loads(products.cache().read_text())) == ["256 x 256 x 256, 1 threads"]


def test_a_cache_that_cannot_be_written_costs_a_measurement_per_process(measured, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    times = measured((2.0, 1.0))
    assert products.by_onednn(256, 256, 256) and products.by_onednn(256, 256, 256)
    assert len(times.asked) == 1


def test_a_run_keeps_its_choices_on_its_machine_only(measured, monkeypatch, tmp_path):
    measured((2.0, 1.0))
    products.by_onednn(256, 256, 256)
    kept = products.kept()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "removed"))
    resumed = measured((1.0, 2.0))
    products.restore(kept)
    assert products.by_onednn(256, 256, 256) and resumed.asked == []
    measured((1.0, 2.0))
    products.restore({**kept, "machine": "another"})
    products.restore(None)  # of an older checkpoint
    assert not products.by_onednn(256, 256, 256)


def test_gradients_are_transposed_where_that_repays_an_own_gradient(measured, monkeypatch):
    measured()
    orders = Times((100e-6, 59e-6), (100e-6, 61e-6))
    monkeypatch.setattr(products, "measure_orders", orders)
    assert products.by_transposing(256, 17, 256) and products.by_transposing(300, 17, 256)
    assert not products.by_transposing(256, 23, 256)  # 39 us are less than what it costs
    assert orders.asked == [(256, 17, 256), (256, 23, 256)]
    kept = products.kept()
    measured()
    products.restore(kept)
    assert products.by_transposing(256, 17, 256) and len(orders.asked) == 2
    entry = json.loads(products.cache().read_text())["256 x 17 x 256, 1 threads, transposed"]
    assert entry == {"transposed": True, "seconds": {"as it is": 100e-6, "transposed": 59e-6}}
    measured()
    assert products.by_transposing(256, 17, 256) and len(orders.asked) == 2  # by the file


@pytest.mark.parametrize("pays", [False, True])
def test_the_order_changes_no_gradient_beyond_rounding(measured, monkeypatch, pays):
    measured()
    monkeypatch.setattr(linear_module, "MIN_NARROW", 0)
    monkeypatch.setattr(products, "measure_orders", lambda size: (1.0, 0.0) if pays else (1.0, 1.0))
    x, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((50, 7), (40, 7), (40,)))
    found = linear(x, weight, bias)
    assert ("_Product" in type(found.grad_fn).__name__) is pays
    ours = torch.autograd.grad(found.square().sum(), (x, weight, bias))
    plain = torch.autograd.grad(torch.nn.functional.linear(x, weight, bias).square().sum(), (x, weight, bias))
    torch.testing.assert_close(ours, plain)


def layer(rows: int) -> tuple[torch.Tensor, ...]:
    return torch.ones(rows, 100), torch.ones(120, 100), torch.ones(120)


@pytest.mark.skipif(not products.AVAILABLE, reason="this build of PyTorch has no oneDNN")
def test_the_choice_decides_which_library_computes_a_layer(measured, monkeypatch):
    monkeypatch.setattr(linear_module, "ONEDNN", None)
    measured((2.0, 1.0), (1.0, 2.0))
    used = [type(linear(x, weight.requires_grad_(), bias).grad_fn).__name__ for x, weight, bias in (layer(256), layer(512))]
    assert used == ["_ProductBackward", "AddmmBackward0"]


@pytest.mark.skipif(not products.AVAILABLE, reason="this build of PyTorch has no oneDNN")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile on its own way
def test_a_compiled_layer_is_measured_while_it_is_traced(measured, monkeypatch):
    real = products.measure
    monkeypatch.setattr(linear_module, "ONEDNN", None)
    times = measured((2.0, 1.0))
    monkeypatch.setattr(products, "measure", lambda size: (real(size), times(size))[1])
    function = torch.compile(linear, backend="eager", fullgraph=True)
    for _ in range(2):
        assert torch.equal(function(*layer(256)), torch.full((256, 120), 101.0))
    assert times.asked == [(256, 100, 120)]


@pytest.mark.skipif(not products.AVAILABLE, reason="this build of PyTorch has no oneDNN")
def test_a_measurement_takes_the_best_of_its_rounds():
    """Ticks of 1 s for the default library and 2 s for oneDNN; one round of each is disturbed."""
    spent = iter([1.0, 2.0] * products.ROUNDS + [90.0, 90.0])
    now, odd = [0.0], [False]

    def clock() -> float:
        if odd[0]:
            now[0] += next(spent)
        odd[0] = not odd[0]
        return now[0]

    torch.set_default_dtype(torch.float64)  # of a program around it
    try:
        assert products.measure(products.Size(8, 4, 4), clock) == (1.0, 2.0)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does that
@pytest.mark.parametrize("leading", [(), (2,)], ids=["one", "replicas"])
def test_a_compiled_layer_adds_its_bias_apart(leading):
    """Value, first and second derivatives equal PyTorch's own; no product copies the bias into its result first."""
    rng = torch.Generator().manual_seed(0)
    sizes = (*leading, 128, 16), (*leading, 64, 16), (*leading, 64)
    x, weight, bias = (torch.randn(size, generator=rng, dtype=torch.float32) for size in sizes)
    seen = []

    def backend(graph, inputs):
        from torch._dynamo.backends.common import aot_autograd

        return aot_autograd(fw_compiler=lambda made, _: (seen.append(str(made.graph)), made)[1])(graph, inputs)

    def both(layer):
        def losses(x, weight, bias):
            y = torch.vmap(layer)(x, weight, bias) if leading else layer(x, weight, bias)
            (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            return torch.autograd.grad(y.sin().sum() + slope.square().sum(), (x, weight, bias))

        return losses

    leaves = [value.requires_grad_() for value in (x, weight, bias)]
    torch._dynamo.config.trace_autograd_ops = True
    found = torch.compile(both(linear), backend=backend, fullgraph=True)(*leaves)
    for one, other in zip(found, both(torch.nn.functional.linear)(*leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    assert seen and not any("addmm" in graph for graph in seen)
