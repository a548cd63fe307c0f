"""What the compiler needs once per machine is kept: probes of instruction sets, and traced graphs with functions of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_pbrl.compute import compiling


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the libraries for which a process has been started; those that begin with "bad" cannot be loaded."""
    from torch._inductor.cpu_vec_isa import VecISA

    asked: list[str] = []

    def probe(self: VecISA, output_path: str) -> bool:
        asked.append(output_path)
        return not Path(output_path).name.startswith("bad")

    monkeypatch.setattr(VecISA, "_probe_load", probe)
    compiling._keep_probes()
    return asked


def test_a_library_is_probed_once_per_machine(probes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.cpu_vec_isa import VecAVX2

    compiling._keep_probes()  # wraps once
    good, bad = str(tmp_path / "good.so"), str(tmp_path / "bad.so")
    assert [VecAVX2()._probe_load(path) for path in (good, good, bad, bad)] == [True, True, False, False]
    assert probes == [good, bad, bad]
    monkeypatch.setattr(compiling, "machine", lambda: "another")
    assert VecAVX2()._probe_load(good) and probes[3:] == [good]


class Set:
    """An instruction set that counts how often it is tested."""

    def __init__(self, flags: str, works: bool) -> None:
        self.flags, self.works, self.tested = flags, works, 0

    def __str__(self) -> str:
        return self.flags

    def __bool__(self) -> bool:
        self.tested += 1
        return self.works


def test_the_widest_instruction_set_that_works_is_tested_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config, cpu_vec_isa

    for chosen in ("capability", "simdlen", ""):
        absent, broken, works, narrow = Set("d", True), Set("a b c", False), Set("b c", True), Set("c", True)
        with monkeypatch.context() as patch, config.patch({"cpp.simdlen": 256 if chosen == "simdlen" else None}):
            patch.setattr(cpu_vec_isa, "supported_vec_isa_list", [absent, broken, works, narrow])
            patch.setattr(cpu_vec_isa, "x86_isa_checker", lambda: ["a", "b", "c"])
            patch.setattr(compiling.platform, "machine", lambda: "x86_64")
            patch.delenv("ATEN_CPU_CAPABILITY", raising=False)
            if chosen == "capability":
                patch.setenv("ATEN_CPU_CAPABILITY", "avx2")
            compiling._widest_alone()
            kept: list[Any] = list(cpu_vec_isa.supported_vec_isa_list)
        assert kept == ([absent, broken, works, narrow] if chosen else [works])
        assert [each.tested for each in (absent, broken, works, narrow)] == ([0] * 4 if chosen else [0, 1, 1, 0])


def test_observers_are_told_once() -> None:
    told: list[int] = []
    compiling.observe(lambda: told.append(1))
    compiling.prepare()
    compiling.prepare()
    assert told == [1]


def test_a_graph_with_our_own_functions_is_found_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled again from nothing, Python is traced and no gradient is."""
    from torch._dynamo.utils import counters

    from lightning_pbrl.engine import UpdateEngine
    from lightning_pbrl.methods.bc import BC
    from lightning_pbrl.nn import linear
    from lightning_pbrl.testing.toys import SPEC, synthetic_transitions

    monkeypatch.setattr(linear, "MIN_BIASED", 0)
    monkeypatch.setattr(linear, "MIN_NARROW", 0)
    method = BC(SPEC, hidden=(16,), batch_size=8)
    method.configure_model()
    method.source = synthetic_transitions()
    method.on_data()
    for _ in range(2):
        torch._dynamo.reset()
        counters.clear()
        engine = UpdateEngine(method, method.groups(), method.programs(), [0], compile=True)
        engine.run("policy", 1)
        assert engine.compile
    assert counters["aot_autograd"] == {"total": 1, "autograd_cache_hit": 1, "ok": 1}
