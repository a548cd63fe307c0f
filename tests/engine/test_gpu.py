"""What needs a GPU: CUDA graphs, compiled code and batched layouts against plain updates in float32, memory, precision.

``make gpu-check`` runs these first. Sums are taken in another order on a GPU, so numbers are compared with tolerances; replays of
uncompiled updates start the very same kernels.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from recorders import addresses, counted
from test_graphs import DATA, Learner, change
from torch import Tensor, nn

from lightning_pbrl.compute.graphs import CudaRecorder
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import Follows, Group, Program, UpdateEngine
from lightning_pbrl.nn import MLP

pytestmark = pytest.mark.gpu
CLOSE = {"rtol": 1e-3, "atol": 2e-4}
"""Of weights that have moved by about 0.1: Adam amplifies rounding where a gradient is nearly zero."""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    gc.collect()
    torch.cuda.empty_cache()


def engine(way: str, replicas: int = 1, layout: Any = "batched", owner: Any = None, **changes: Any) -> UpdateEngine:
    """A learner on the GPU: eager, compiled, graph (compiled), or recorded (uncompiled)."""
    owner = (owner or Learner()).cuda()
    owner.data = DATA.cuda()
    drawn = engine_program(owner, **changes)
    how: Any = {"eager": False, "compiled": True, "graph": "graph", "recorded": False}[way]
    recorder = CudaRecorder(torch.device("cuda")) if way == "recorded" else None
    precision = changes.get("precision", "float32")
    return UpdateEngine(
        owner, owner.parts(), {"main": drawn}, range(replicas), how, layout, recorder=recorder, precision=precision
    )


def engine_program(owner: Learner, **changes: Any) -> Program:
    from lightning_pbrl.engine import Below, Normal

    draws = {"rows": Below(64, 16), "noise": Normal(16, 4)}
    every, follow_every = changes.get("every", (1, 2)), changes.get("follow_every", 4)
    return Program([owner.first, owner.second], draws, owner.gather, every=every, follow_every=follow_every)


def close(one: UpdateEngine, two: UpdateEngine, **tolerance: float) -> None:
    for key, value in one.state.storage.items():
        torch.testing.assert_close(two.state.storage[key], value, **(tolerance or CLOSE))


@pytest.mark.parametrize("way", ["compiled", "graph", "recorded"])
@pytest.mark.parametrize(("replicas", "layout"), [(1, "loop"), (2, "loop"), (4, "batched")])
def test_all_ways_give_the_numbers_of_eager_updates(way: str, replicas: int, layout: str) -> None:
    plain, fast = engine("eager", replicas, layout), engine(way, replicas, layout)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for updates in (24, 16):
            a, b = plain.run("main", updates), fast.run("main", updates)
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, rtol=1e-2, atol=1e-4)
    close(plain, fast)
    if way != "compiled":
        assert fast._graphs is not None and fast._graphs.recorded >= 3
    if way != "recorded":
        assert fast.compile


def test_a_gpu_gives_the_numbers_of_a_cpu() -> None:
    """Random numbers come from the CPU, so both see the same minibatches."""
    owner = Learner()
    program = engine_program(owner)
    cpu = UpdateEngine(owner, owner.parts(), {"main": program}, [0], False)
    gpu = engine("recorded")
    a, b = cpu.run("main", 30), gpu.run("main", 30)
    for key, value in a.items():
        torch.testing.assert_close(b[key].cpu(), value, rtol=1e-2, atol=1e-4)


def test_nothing_is_compiled_or_recorded_twice() -> None:
    fast = engine("graph", 2)
    fast.run("main", 24)
    compiled, recorded, where = dict(torch._dynamo.utils.counters["stats"]), fast._graphs.recorded, addresses(fast)
    for _ in range(3):
        fast.run("main", 24)
    assert dict(torch._dynamo.utils.counters["stats"]) == compiled
    assert fast._graphs.recorded == recorded and addresses(fast) == where


CHANGES = ("loss", "data", "rows", "rate", "moments", "values")


@pytest.mark.parametrize(("way", "what"), [("graph", "loss"), ("graph", "values"), *(("recorded", each) for each in CHANGES)])
def test_whatever_changes_is_recorded_anew(way: str, what: str) -> None:
    plain, fast = engine("eager"), engine(way)
    for each in (plain, fast):
        each.run("main", 24)
    count = fast._graphs.recorded
    for each in (plain, fast):
        change(each, what)
        each.run("main", 40)
    close(plain, fast)
    if what in ("loss", "rows"):  # elsewhere new tensors may lie where the old ones did
        assert fast._graphs.recorded > count


def test_dropout_draws_new_masks_in_every_replay_and_the_same_as_without() -> None:
    class Dropped(Learner):
        def __init__(self) -> None:
            super().__init__()
            self.f = MLP(4, 1, (64,), dropout=0.5)

    plain, fast = engine("eager", owner=Dropped()), engine("recorded", owner=Dropped())
    seen = []
    for each in (plain, fast):
        each.owner.train()
        torch.manual_seed(3)
        seen.append(torch.stack([each.run("main", 8)["size"] for _ in range(6)]))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-3, atol=1e-4)
    assert len(set(seen[1].flatten().tolist())) > 4


def test_a_private_generator_goes_on_in_replays() -> None:
    class Draws(Learner):
        def __init__(self) -> None:
            super().__init__()
            self.rng = torch.Generator("cuda").manual_seed(3)

        def first(self, batch: dict[str, Tensor]) -> Any:
            drawn = torch.randn(batch["x"].shape, generator=self.rng, device="cuda")
            return super().first({**batch, "x": batch["x"] + 0.1 * drawn})

    plain, fast = engine("eager", 1, owner=Draws()), engine("recorded", 1, owner=Draws())
    for each in (plain, fast):
        each.run("main", 30)
    close(plain, fast)
    assert torch.equal(plain.owner.rng.get_state(), fast.owner.rng.get_state())


def test_a_loss_that_waits_runs_as_always_with_one_warning() -> None:
    class Waits(Learner):
        def first(self, batch: dict[str, Tensor]) -> Any:
            losses, handed = super().first(batch)
            return {**losses, "rounded": losses["f"] * float(losses["f"].detach())}, handed

    plain, fast = engine("eager", 1, "loop", owner=Waits()), engine("recorded", 1, "loop", owner=Waits())
    plain.run("main", 20)
    with pytest.warns(UserWarning, match="waits for the device") as seen:
        fast.run("main", 20)
    assert len([each for each in seen if "CUDA graph" in str(each.message)]) == 1
    close(plain, fast)


def test_replays_take_little_memory() -> None:
    """Weights, moments, inputs and one update's intermediates: no more than the plain updates and another update beside."""

    class Wide(Learner):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.g = MLP(4, 1, (512, 512)), MLP(4, 1, (512, 512), members=2)
            self.g_target = MLP(4, 1, (512, 512), members=2).requires_grad_(False)

    peaks = []
    for way in ("eager", "recorded"):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        each = engine(way, 4, owner=Wide(), every=(), follow_every=1)
        each.run("main", 32)
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del each
    assert peaks[1] < 2.5 * peaks[0] + (64 << 20)


def test_members_are_one_product_a_layer() -> None:
    def products(members: int) -> int:
        net, x = MLP(6, 1, (32, 32), members).cuda(), torch.randn(members, 16, 6, device="cuda")
        with counted() as names:
            net(x)
        return len([name for name in names if "mm" in name])

    assert products(3) == products(7) == 3


def test_pictures_lie_on_the_device_as_bytes() -> None:
    frames = torch.randint(256, (22, 8, 8, 3), dtype=torch.uint8)
    state, offsets = torch.randn(20, 3), torch.tensor([0, 10, 20])
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    source = Transitions.from_columns(state, state, state, offsets, frames=frames).to("cuda")
    assert source.frames.is_cuda and source.frames.dtype == torch.uint8
    assert torch.cuda.memory_allocated() - before < 64 << 10
    found = source.pictures(torch.tensor([1, 21], device="cuda"))
    assert found.dtype == torch.uint8 and torch.equal(found.cpu(), frames[[1, 21]])


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_precision_acts_and_is_put_back(precision: str) -> None:
    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.f = MLP(256, 256, (256,))

        def losses(self, batch: Any) -> dict[str, Tensor]:
            return {"f": self.f(self.x).square().mean()}

    found = []
    for each in ("float32", precision):
        owner = Regression().cuda()
        owner.x = torch.randn(256, 256, generator=torch.Generator().manual_seed(1)).cuda()
        choice: Any = each
        updates = UpdateEngine(owner, {"f": Group(1e-3)}, {"main": Program([owner.losses])}, [0], False, precision=choice)
        found.append(updates.run("main", 1)["f"])
    assert torch.get_float32_matmul_precision() == "highest"
    if precision == "bf16" or torch.cuda.get_device_capability() >= (8, 0):
        assert not torch.equal(*found)
    torch.testing.assert_close(*found, rtol=2e-2, atol=0)


def test_a_checkpoint_of_the_cpu_goes_on_on_the_gpu() -> None:
    """Step counts come back to the device where the fused kernel counts."""
    first = engine("recorded")
    first.run("main", 24)
    saved = torch.utils._pytree.tree_map(lambda x: x.cpu() if torch.is_tensor(x) else x, first.state_dict())
    second, plain = engine("recorded"), engine("eager")
    for each in (second, plain):
        each.load_state_dict(saved)
    for each in (first, second, plain):
        each.begin([5])
        each.run("main", 24)
    close(first, second)
    close(first, plain)
    assert all(state["step"].is_cuda for o in second.state.optimizers[0].values() for state in o.state.values())
    assert second.state.targets == {"g_target": Follows("g", 0.1)}
