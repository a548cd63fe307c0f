"""The update engine on a small problem: stop and resume, attaching, replicas, tiles, compiling."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.engine import Below, Follows, Group, Part, Program, UpdateEngine
from lightning_pbrl.engine.program import cosine
from lightning_pbrl.nn import MLP

DATA = torch.randn(64, 4, generator=torch.Generator().manual_seed(9))


class Learner(nn.Module):
    """Two regressions, the second with a target network: y = sum(x), z = prediction of the target."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.f, self.g = MLP(4, 1, (8, 8)), MLP(4, 1, (8,), members=2)
        self.g_target = copy.deepcopy(self.g).requires_grad_(False)
        self.to(dtype)

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            target = self.g_target(batch).mean(0)
        f = self.f(batch)
        return {
            "f": (f - batch.sum(-1, keepdim=True)).square().mean(),
            "g": (self.g(batch) - 0.9 * target - f.detach()).square().mean(),
            "size": f.abs().mean(),
        }

    def parts(self, **changes: Part) -> dict[str, Part]:
        decayed = Group(1e-2, options={"weight_decay": 0.01}, schedule=cosine(30))
        return {"f": Group(1e-2), "g": decayed, "g_target": Follows("g", 0.1), **changes}

    def program(self, batch: int = 16, **changes: Any) -> Program:
        dtype = self.f.weights[0].dtype
        draws = {"rows": Below(64, batch)}
        return Program(
            **{"steps": [self.losses], "draws": draws, "gather": lambda drawn: DATA.to(dtype)[drawn["rows"]], **changes}
        )

    def engine(self, seed: int = 0, replicas: int = 1, layout: Any = "loop", **changes: Any) -> UpdateEngine:
        parts = self.parts(**changes.pop("parts", {}))
        seeds = [seed + k for k in range(replicas)]
        return UpdateEngine(self, parts, {"main": self.program(**changes)}, seeds, compile=False, layout=layout)


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


# State --------------------------------------------------------------------------------------------


def test_stop_and_resume_is_bit_exact() -> None:
    """Run K, begin a phase, run K == the first half, a file of tensors and plain types, fresh objects, the same phase."""
    straight = Learner()
    engine = straight.engine()
    engine.run("main", 10)
    halfway = engine.state_dict()  # a snapshot: it does not move with the engine
    file = io.BytesIO()
    torch.save(halfway, file)
    engine.begin([77])
    engine.run("main", 10)
    for state in (halfway, torch.load(io.BytesIO(file.getvalue()), weights_only=True)):
        resumed = Learner(seed=5)
        other = resumed.engine(seed=7)
        other.load_state_dict(state)
        assert other.updates == {"main": 10} and other.state.updates == {"f": 10, "g": 10}
        other.begin([77])
        other.run("main", 10)
        assert equal(values(straight), values(resumed))
        first, second = engine.state_dict()["state"]["moments"][0], other.state_dict()["state"]["moments"][0]
        assert equal(first["f"]["exp_avg_sq"], second["f"]["exp_avg_sq"])
        assert first["g"]["step"].item() == second["g"]["step"].item() == 20


def test_a_phase_has_numbers_of_its_own() -> None:
    """Equal seeds draw equal numbers, whatever was drawn before; another seed draws others."""
    engine = Learner().engine()
    found = []
    for seed, before in ((3, 0), (3, 5), (4, 0)):
        engine.begin([seed + 1])
        if before:
            engine.run("main", before)
        engine.begin([seed])
        found.append(torch.stack([drawn["rows"] for drawn in engine.drawn("main", 4, 0)]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_state_names_are_the_modules_own() -> None:
    learner = Learner()
    engine = learner.engine()
    engine.run("main", 1)
    state = engine.state_dict()["state"]
    assert set(state["weights"][0]) == set(learner.state_dict())
    assert {k: v.shape for k, v in state["moments"][0]["f"]["exp_avg"].items()} == {
        name: value.shape for name, value in learner.state_dict().items() if name.startswith("f.")
    }


def test_a_group_of_one_scalar_resumes_too() -> None:
    """One weight: the step count has as many entries as the group and must not be taken for a moment."""

    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_alpha = nn.Parameter(torch.tensor(0.5))

        def losses(self, batch: Tensor) -> dict[str, Tensor]:
            return {"log_alpha": (self.log_alpha - batch.mean()).square()}

    def engine() -> UpdateEngine:
        program = Program([owner.losses], {"rows": Below(64, 4)}, lambda drawn: DATA[drawn["rows"]])
        return UpdateEngine(owner, {"log_alpha": Group(0.1)}, {"main": program}, [0], compile=False)

    owner = Scalar()
    first = engine()
    first.run("main", 3)
    state = first.state_dict()
    first.begin([1])
    first.run("main", 3)
    expected, owner = owner.log_alpha.item(), Scalar()
    second = engine()
    second.load_state_dict(state)
    (moments,) = second.state_dict()["state"]["moments"]
    assert moments["log_alpha"]["step"].shape == () and moments["log_alpha"]["step"].item() == 3
    second.begin([1])
    second.run("main", 3)
    assert owner.log_alpha.item() == expected


def test_optimizer_without_state_resumes() -> None:
    learner = Learner()
    groups: dict[str, Part] = {name: Group(1e-2, optimizer=torch.optim.SGD) for name in ("f", "g")}
    engine = learner.engine(parts=groups)
    engine.run("main", 3)
    state = engine.state_dict()
    engine.begin([1])
    engine.run("main", 3)
    other = Learner(seed=1)
    resumed = other.engine(parts=groups)
    resumed.load_state_dict(state)
    resumed.begin([1])
    resumed.run("main", 3)
    assert equal(values(learner), values(other))


def test_dtype_round_trip_is_attached_again() -> None:
    straight, moved = Learner(), Learner()
    one, two = straight.engine(), moved.engine()
    one.run("main", 5)
    two.run("main", 5)
    moved.double().float()
    assert not two.state.attached()
    assert equal(values(straight), values(moved))
    one.run("main", 5)
    two.run("main", 5)
    assert two.state.attached()
    assert equal(values(straight), values(moved))


def test_dtype_change_moves_the_moments() -> None:
    learner = Learner()
    engine = learner.engine(gather=lambda drawn: DATA.to(learner.f.weights[0].dtype)[drawn["rows"]])
    engine.run("main", 5)
    before = engine.state_dict()["state"]["moments"][0]["f"]["exp_avg"]
    learner.double()
    engine.run("main", 5)
    after = engine.state_dict()["state"]["moments"][0]["f"]
    assert engine.state.storage["f"].dtype == after["exp_avg"]["f.weights.0"].dtype == torch.float64
    assert after["step"].item() == 10 and before["f.weights.0"].dtype == torch.float32
    assert all(torch.isfinite(p).all() for p in learner.parameters())


def test_load_state_dict_of_the_module_keeps_the_views() -> None:
    learner = Learner()
    engine = learner.engine()
    engine.run("main", 2)
    learner.load_state_dict(Learner(seed=4).state_dict())
    assert engine.state.attached()
    assert torch.equal(engine.state.storage["f"][0][:32].view(8, 4), Learner(seed=4).f.weights[0])
    engine.run("main", 1)
    assert not torch.equal(learner.f.weights[0], Learner(seed=4).f.weights[0])


def test_attach_follows_replaced_parameters() -> None:
    learner, straight = Learner(), Learner()
    engine, other = learner.engine(), straight.engine()
    engine.run("main", 2)
    other.run("main", 2)
    learner.load_state_dict(values(learner), assign=True)  # replaces the Parameter objects
    assert not engine.state.attached()
    engine.run("main", 3)
    other.run("main", 3)
    assert equal(values(learner), values(straight))


# Replicas -----------------------------------------------------------------------------------------


def replicas(layout: str, dtype: torch.dtype) -> tuple[UpdateEngine, dict[str, Tensor]]:
    """Three replicas, replica k with the initial weights and samples of seed k."""
    engine = (learner := Learner(0, dtype)).engine(replicas=3, layout=layout)
    for k in (1, 2):
        engine.state.set_weights(k, values(Learner(k, dtype)))
    assert learner is engine.owner
    engine.run("main", 7)
    return engine, engine.run("main", 8)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_looped_replica_is_its_seed_alone_bit_for_bit(k: int) -> None:
    engine, meters = replicas("loop", torch.float32)
    alone = Learner(k)
    single = alone.engine(seed=k)
    single.run("main", 7)
    expected = single.run("main", 8)
    assert equal(engine.state.weights(k), values(alone))
    for key, value in expected.items():
        assert value.shape == (1,) and meters[key][k] == value[0]


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-5), (torch.float64, 1e-13)])
def test_batched_layout_equals_the_loop_to_rounding(dtype: torch.dtype, atol: float) -> None:
    (loop, looped), (batched, meters) = replicas("loop", dtype), replicas("batched", dtype)
    assert batched.batched and not loop.batched
    for k in range(3):
        one, two = loop.state.weights(k), batched.state.weights(k)
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=atol)
    for key, value in looped.items():
        torch.testing.assert_close(meters[key], value, rtol=0, atol=atol)
    assert not torch.equal(looped["f"][0], looped["f"][1])


def test_replicas_resume() -> None:
    engine, _ = replicas("loop", torch.float32)
    state = engine.state_dict()
    engine.begin([5, 6, 7])
    engine.run("main", 4)
    other = Learner(9).engine(seed=9, replicas=3)
    other.load_state_dict(state)
    other.begin([5, 6, 7])
    other.run("main", 4)
    assert all(equal(engine.state.weights(k), other.state.weights(k)) for k in range(3))


def test_bind_shows_a_replica_through_the_modules() -> None:
    engine, _ = replicas("loop", torch.float32)
    for k in (2, 0, 1):
        engine.state.bind(k)
        assert equal(values(engine.owner), engine.state.weights(k)) and engine.state.attached()


def test_tiles_add_up_to_the_whole_batch() -> None:
    """Tiles of 5, 5, 5 and 1 of 16: gradients and meters are those of the whole batch, to rounding."""
    whole, tiled = Learner(dtype=torch.float64), Learner(dtype=torch.float64)
    one, two = whole.engine().run("main", 10), tiled.engine(tile=5).run("main", 10)
    for name, value in values(whole).items():
        torch.testing.assert_close(values(tiled)[name], value, rtol=0, atol=1e-13)
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-13)


# Compiling ----------------------------------------------------------------------------------------


def test_compile_failure_runs_eagerly_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object, **options: object) -> Callable[..., None]:
        def call(*args: object) -> None:
            raise RuntimeError("no C++ compiler\nsecond line")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    eager, fallen = Learner(), Learner()
    expected = eager.engine().run("main", 4)
    program = fallen.program(steps=[fallen.losses, lambda batch: {}])  # two steps, still one warning
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = UpdateEngine(fallen, fallen.parts(), {"main": program}, [0], compile=True)
        meters = engine.run("main", 2)
        engine.run("main", 2)
    assert [str(w.message) for w in caught] == ["torch.compile failed, running eagerly: no C++ compiler second line"]
    assert not engine.compile and set(meters) == set(expected)
    assert equal(values(eager), values(fallen))


def test_a_compiled_function_that_fails_later_falls_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """For instance when too many batch sizes were compiled: the run goes on."""

    def tiring(function: Callable[..., Any], **options: object) -> Callable[..., Any]:
        calls: list[int] = []

        def call(*gathered: Any) -> Any:
            calls.append(1)
            if len(calls) > 3:
                raise RuntimeError("recompile limit reached")
            return function(*gathered)

        return call

    monkeypatch.setattr(torch, "compile", tiring)
    eager, fallen = Learner(), Learner()
    eager.engine().run("main", 6)
    with pytest.warns(UserWarning, match="running eagerly: recompile limit reached"):
        UpdateEngine(fallen, fallen.parts(), {"main": fallen.program()}, [0], compile=True).run("main", 6)
    assert equal(values(eager), values(fallen))


def test_auto_compiles_long_cpu_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def engine(planned: int) -> UpdateEngine:
        learner = Learner()
        return UpdateEngine(learner, learner.parts(), {"main": learner.program()}, [0], compile="auto", planned=planned)

    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    assert not engine(1_000).compile and engine(100_000).compile
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not engine(100_000).compile


def test_compiled_functions_stay_whole_under_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo's optimiser of DDP would split them at gradient buckets, and a graph that must be whole then fails to compile."""
    seen: list[object] = []

    def watching(function: Callable[..., Any], **options: object) -> Callable[..., Any]:
        def call(*gathered: Any) -> Any:
            seen.append(torch._dynamo.config.optimize_ddp)
            return function(*gathered)

        return call

    monkeypatch.setattr(torch, "compile", watching)
    usual = torch._dynamo.config.optimize_ddp
    for reduce in (lambda flat: None, None):
        learner = Learner()
        UpdateEngine(learner, learner.parts(), {"main": learner.program()}, [0], compile=True, reduce=reduce).run("main", 2)
        assert torch._dynamo.config.optimize_ddp == usual
    assert usual and seen == [False, False, usual, usual]
