"""Updates that are recorded and replayed: equal numbers, what stays in place, when they are recorded anew, what stays outside."""

from __future__ import annotations

import copy
import shutil
import warnings
from typing import Any

import pytest
import torch
from recorders import Caller, Failing, Tape, addresses, counted
from torch import Tensor, nn

from lightning_pbrl.compute.graphs import WARM_UP, Recorder, Watch
from lightning_pbrl.engine import Below, Follows, Group, Normal, Part, Program, UpdateEngine
from lightning_pbrl.engine.program import cosine
from lightning_pbrl.errors import UserError
from lightning_pbrl.nn import MLP

DATA = torch.randn(64, 4, generator=torch.Generator().manual_seed(9))
COLD = WARM_UP + 1
"""Updates before the first recording: the first makes the optimisers' moments and so does not count as one of three alike."""


class Learner(nn.Module):
    """Two steps: a regression on a schedule, then one with a target, weight decay and a clip, every second update."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.g = MLP(4, 1, (8,)), MLP(4, 1, (8,), members=2)
        self.g_target = copy.deepcopy(self.g).requires_grad_(False)
        self.scale, self.data, self.stored = 1.0, DATA, {"rows": 64}

    def first(self, batch: dict[str, Tensor]) -> Any:
        f = self.f(batch["x"] + 0.01 * batch["noise"])
        return {"f": (f - self.scale * batch["x"].sum(-1, keepdim=True)).square().mean(), "size": f.abs().mean()}, {"seen": f}

    def second(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            target = self.g_target(batch["x"]).mean(0)
        return {"g": (self.g(batch["x"]) - 0.9 * target - batch["seen"]).square().mean()}

    def gather(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": self.data[drawn["rows"] % self.stored["rows"]], "noise": drawn["noise"]}

    def parts(self, **changes: Part) -> dict[str, Part]:
        decayed = Group(1e-2, torch.optim.AdamW, {"weight_decay": 0.01}, clip=0.5)
        return {"f": Group(1e-2, schedule=cosine(60)), "g": decayed, "g_target": Follows("g", 0.1), **changes}


def engine(recorder: Recorder | None = None, replicas: int = 1, layout: Any = "loop", **changes: Any) -> UpdateEngine:
    owner = changes.pop("owner", None) or Learner()
    parts, compiled = owner.parts(**changes.pop("parts", {})), changes.pop("compile", False)
    program = Program(
        **{
            "steps": [owner.first, owner.second],
            "draws": {"rows": Below(64, 16), "noise": Normal(16, 4)},
            "gather": owner.gather,
            "every": (1, 2),
            "follow_every": 4,
            **changes,
        }
    )
    return UpdateEngine(owner, parts, {"main": program}, range(replicas), compiled, layout, recorder=recorder)


def same(one: UpdateEngine, two: UpdateEngine) -> bool:
    """Return True if weights, moments and step counts are equal bit for bit."""
    a, b = one.state_dict(), two.state_dict()
    return all(
        torch.equal(x, y)
        for x, y in zip(torch.utils._pytree.tree_leaves(a), torch.utils._pytree.tree_leaves(b), strict=True)
        if torch.is_tensor(x)
    )


@pytest.mark.parametrize("recorder", [Caller, Tape])
@pytest.mark.parametrize(("replicas", "layout"), [(1, "loop"), (2, "loop"), (3, "batched")])
def test_replays_equal_plain_updates_bit_for_bit(recorder: type[Caller], replicas: int, layout: Any) -> None:
    plain, stub = engine(None, replicas, layout), recorder()
    recorded = engine(stub, replicas, layout)
    for updates in (24, 7, 33):
        a, b = plain.run("main", updates), recorded.run("main", updates)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert same(plain, recorded)
    assert stub.recorded == (3 if layout == "batched" else 3 * replicas)  # one step alone, both, both and the target
    assert stub.replayed > 25


def test_three_updates_alike_come_first_and_one_of_every_block() -> None:
    stub = Caller()
    recorded = engine(stub, every=(), follow_every=1)
    recorded.run("main", COLD)
    assert (stub.warmed, stub.recorded, stub.replayed) == (COLD, 0, 0)
    recorded.run("main", 10)
    assert (stub.warmed, stub.recorded, stub.replayed) == (COLD + 1, 1, 9)
    recorded.run("main", 10)
    assert (stub.warmed, stub.recorded, stub.replayed) == (COLD + 2, 1, 18)


def test_nothing_is_allocated_anew() -> None:
    """Weights, moments, step counts, learning rates and sums stay where they are; so do the inputs of a recorded update."""
    stub = Tape()
    recorded = engine(stub, 2, "batched")
    recorded.run("main", 24)
    before, kinds = addresses(recorded), list(recorded._graphs._kinds.values())
    inputs = [value.data_ptr() for kind in kinds for value in kind.drawn.values()]
    recorded.run("main", 24)
    assert addresses(recorded) == before and "rate of f 0" in before and "step of g 0" in before
    assert [value.data_ptr() for kind in kinds for value in kind.drawn.values()] == inputs


def test_a_replay_calls_nothing_but_the_copy_of_its_input() -> None:
    """Outside of a graph an update costs a copy of what was drawn and of the scheduled learning rate, whatever the replicas."""

    class Silent(Caller):
        def record(self, run: Any, generators: Any) -> Any:
            return lambda: None

    found = []
    for replicas in (1, 16):
        recorded = engine(Silent(), replicas, "batched", every=(), follow_every=1)
        recorded.run("main", 8)
        for updates in (8, 16):
            with counted() as names:
                recorded.run("main", updates)
            found.append([name for name in names if "unbind" not in name and "select" not in name])
    per_update = [(len(found[k + 1]) - len(found[k])) / 8 for k in (0, 2)]
    assert per_update == [2, 2]
    assert {"aten._foreach_copy_.default", "aten.fill_.Scalar"} <= set(found[1])


def change(each: UpdateEngine, what: str) -> None:
    """Change, between two blocks, something that updates depend on."""
    owner, (optimizers,) = each.owner, each.state.optimizers
    if what == "weight decay":
        optimizers["g"].param_groups[0]["weight_decay"] = 0.1
    elif what == "rate":
        optimizers["g"].param_groups[0]["lr"] = 0.05
    elif what == "loss":
        owner.scale = 2.0
    elif what == "data":
        owner.data = owner.data.flip(0)
    elif what == "rows":
        owner.stored["rows"] = 30
    elif what == "moments":
        each.state.restart("g")
    elif what == "values":
        owner.double().float()  # re-binds every parameter
    else:
        each.state.targets["g_target"] = Follows("g", 0.3)


def begun() -> tuple[UpdateEngine, UpdateEngine, Tape]:
    """A plain and a recorded engine after a block, and what records."""
    plain, stub = engine(), Tape()
    recorded = engine(stub)
    for each in (plain, recorded):
        each.run("main", 24)
    return plain, recorded, stub


@pytest.mark.parametrize("what", ["weight decay", "rate", "loss", "data", "rows", "moments", "polyak"])
def test_whatever_changes_is_recorded_anew(what: str) -> None:
    """Between blocks a setting, the data and the optimisers' memory may change; numbers stay those of plain updates."""
    plain, recorded, stub = begun()
    count = stub.recorded
    for each in (plain, recorded):
        change(each, what)
    a, b = plain.run("main", 40), recorded.run("main", 40)
    assert all(torch.equal(a[key], b[key]) for key in a) and same(plain, recorded)
    if what not in ("rate", "moments"):  # whose new tensors may lie where the old ones did
        assert stub.recorded > count


def test_weights_that_are_loaded_keep_graphs_valid() -> None:
    """Values that come in another way are copied into the same buffers: nothing is recorded anew."""
    plain, recorded, stub = begun()
    count = stub.recorded
    for each in (plain, recorded):
        change(each, "values")
        each.owner.load_state_dict({name: 1.1 * value for name, value in each.owner.state_dict().items()})
        assert not each.state.attached()
        each.run("main", 24)
    assert stub.recorded == count and same(plain, recorded)


def test_new_parameter_objects_are_recorded_anew() -> None:
    plain, recorded, _ = begun()
    for each in (plain, recorded):
        each.owner.load_state_dict({name: 1.1 * value for name, value in each.owner.state_dict().items()}, assign=True)
        each.run("main", 24)
    assert same(plain, recorded)


@pytest.mark.parametrize("outside", ["optimizer", "gather", "reduce"])
def test_what_a_graph_cannot_hold_stays_outside(outside: str) -> None:
    """An optimiser that counts in Python, a gather that waits for the device, an exchange between ranks."""
    changes: dict[str, Any] = {"every": (), "follow_every": 1}
    owners = Learner(), Learner()
    if outside == "optimizer":
        changes["parts"] = {"g": Group(1e-2, optimizer=torch.optim.RMSprop, schedule=cosine(50))}
    stub = Tape()
    engines = []
    for owner, recorder in zip(owners, (None, stub), strict=True):
        if outside == "gather":
            changes["gather"] = lambda drawn, owner=owner: {
                "x": owner.data[int(drawn["rows"][0]) :][drawn["rows"] % 3],
                "noise": drawn["noise"],
            }
        engines.append(engine(recorder, owner=owner, **changes))
        if outside == "reduce":
            engines[-1].reduce = lambda flat: flat.mul_(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in engines:
            if outside == "gather":
                each.owner.data = torch.cat([DATA, DATA])
            each.run("main", 40)
    assert same(*engines)
    assert stub.recorded == {"optimizer": 2, "gather": 1, "reduce": 2}[outside] and stub.replayed >= 30


def test_acting_between_updates_keeps_the_gather_outside() -> None:
    """What may be drawn changes with every step of the environment, and a setting may change while the method acts."""
    stub = Tape()
    engines = engine(every=(), follow_every=1), engine(stub, every=(), follow_every=1)
    for each in engines:

        def act(update: int, owner: Any = each.owner) -> None:
            owner.stored["rows"] = 10 + update
            owner.scale = 1.0 if update < 20 else 3.0

        each.run("main", 40, before=act)
    assert same(*engines) and stub.recorded == 2 and stub.replayed > 25


def test_failed_recording_costs_one_warning_and_no_update() -> None:
    plain, recorded = engine(), engine(Failing())
    plain.run("main", 40)
    with pytest.warns(UserWarning, match="could not be recorded as a CUDA graph, running them without: operation not") as seen:
        recorded.run("main", 24)
    recorded.run("main", 16)
    assert len(seen) == 1 and same(plain, recorded)


def test_a_loss_that_waits_runs_as_always() -> None:
    class Waits(Learner):
        def first(self, batch: dict[str, Tensor]) -> Any:
            losses, handed = super().first(batch)
            return {**losses, "rounded": losses["f"] * float(losses["f"].detach())}, handed

    plain, stub = engine(owner=Waits()), Tape()
    recorded = engine(stub, owner=Waits())
    plain.run("main", 30)
    with pytest.warns(UserWarning, match="_local_scalar_dense.default waits for the device") as seen:
        recorded.run("main", 30)
    assert len(seen) == 1 and stub.recorded == 0 and same(plain, recorded)


def test_gathers_of_changing_size_run_as_always() -> None:
    def gather(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        x = torch.unique(drawn["rows"])
        return {"x": DATA[x], "noise": drawn["noise"][: len(x)]}

    plain, recorded = engine(gather=gather), engine(Tape(), gather=gather)
    plain.run("main", 40)
    with pytest.warns(UserWarning, match="differs in size") as seen:
        recorded.run("main", 40)
    assert len(seen) == 1 and same(plain, recorded)


def test_generators_that_a_loss_draws_from_are_registered() -> None:
    class Draws(Learner):
        def __init__(self) -> None:
            super().__init__()
            self.rng = torch.Generator().manual_seed(3)

        def first(self, batch: dict[str, Tensor]) -> Any:
            drawn = torch.randn(batch["x"].shape, generator=self.rng)
            return super().first({**batch, "x": batch["x"] + 0.1 * drawn})

    stub = Caller()
    recorded, plain = engine(stub, owner=Draws()), engine(owner=Draws())
    for each in (plain, recorded):
        each.run("main", 30)
    assert same(plain, recorded)
    assert stub.generators and all(torch.equal(each.get_state(), recorded.owner.rng.get_state()) for each in stub.generators)


def test_graphs_need_cuda() -> None:
    with pytest.raises(UserError, match="compile=graph records CUDA graphs and Learner is on the cpu device"):
        engine(compile="graph")


def test_watching_sees_constants_addresses_and_copies_between_devices() -> None:
    x = torch.ones(3)

    def seen(run: Any) -> Watch:
        with Watch() as watch:
            run()
        return watch

    assert seen(lambda: x * 2 + 1).calls == seen(lambda: x * 2 + 1).calls
    assert seen(lambda: x * 2).calls != seen(lambda: x * 3).calls
    assert seen(lambda: x * 2).calls != seen(lambda: x.clone() * 2).calls
    assert seen(lambda: x.clone().mul_(2)).calls == seen(lambda: x.clone().mul_(2)).calls
    assert seen(lambda: x[torch.tensor([0, 1])]).waits is None
    assert seen(lambda: x[x > 0]).waits is not None
    assert seen(lambda: torch.empty(3, device="meta").copy_(x)).waits == "aten.copy_.default"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_code_that_changes_is_recorded_anew() -> None:
    """Back to a setting that was compiled before: nothing is compiled, and yet other code runs."""
    plain, stub = engine(compile=True), Caller()
    recorded = engine(stub, compile=True)
    counts = []
    for scale in (1.0, 2.0, 1.0, 1.0):
        for each in (plain, recorded):
            each.owner.scale = scale
            each.run("main", 24)
        counts.append(stub.recorded)
    assert recorded.compile and same(plain, recorded)
    assert counts[0] < counts[1] < counts[2] == counts[3]
