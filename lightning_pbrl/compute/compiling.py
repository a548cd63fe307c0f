"""Ready the compiler: keep on disk, or in the process from which jobs are forked, what compilation needs before the first update.

PyTorch 2.13 keeps compiled code on disk. By itself it would differentiate a graph with a custom autograd function anew in each
process, and ask a new interpreter (0.4 s each) whether the library that tests for an instruction set can be loaded. On a new
machine it would first compile such a library for every instruction set of the processor, of which it uses the widest.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_pbrl.compute.products import machine

_observers: list[Callable[[], None]] = []


def observe(told: Callable[[], None]) -> None:
    """Call ``told`` when this process compiles for the first time."""
    _observers.append(told)


def prepare() -> None:
    """Set what the compiler needs for our graphs; called before anything is compiled."""
    import torch._dynamo
    import torch._functorch.config

    torch._dynamo.config.trace_autograd_ops = True  # lets autograd.grad be part of the graph
    torch._dynamo.config.record_runtime_overhead = False  # or each call tells a profiler twice that it begins, 10 us
    # All steps of a process share the code of `gradients`, and with it one limit (8 by default).
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    # What such a function computes is traced into the graph, and so is part of its key.
    torch._functorch.config.autograd_cache_allow_custom_autograd_functions = True
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # products are float32 because that was asked for
    warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)  # Dynamo does
    _keep_probes()
    with suppress(Exception):  # no compiler on this machine: whoever needs it will say so
        _widest_alone()
    while _observers:
        _observers.pop()()


def warm() -> None:
    """Do ahead what the first compilation of a process does whatever it compiles; starts no thread."""
    import torch._inductor.compile_fx  # noqa: F401 - imported for those who fork
    from torch._inductor.codecache import torch_key
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    _keep_probes()
    with suppress(Exception):  # no compiler on this machine: whoever needs it will say so
        _widest_alone()
        pick_vec_isa(), torch_key()


def _widest_alone() -> None:
    """Test only the widest instruction set, and a narrower one where it fails: by itself PyTorch compiles a test for each."""
    from torch._inductor import config, cpu_vec_isa

    if "ATEN_CPU_CAPABILITY" in os.environ or config.cpp.simdlen is not None or platform.machine() not in ("x86_64", "AMD64"):
        return  # another than the widest may be wanted
    known, sets = cpu_vec_isa.x86_isa_checker(), cpu_vec_isa.supported_vec_isa_list
    sets[:] = next(([each] for each in sets if set(str(each).split()) <= set(known) and each), sets)


def _keep_probes() -> None:
    """Keep on disk that a test library of an instruction set can be loaded on this machine; a failure is tried again."""
    from torch._inductor.cpu_vec_isa import VecISA

    probe: Any = getattr(VecISA, "_probe_load", None)
    if probe is None or hasattr(probe, "kept"):  # another version of PyTorch, or done
        return

    def kept(self: VecISA, output_path: str) -> bool:
        passed = Path(f"{output_path}.{machine()}")
        if passed.is_file():
            return True
        found = bool(probe(self, output_path))
        if found:
            with suppress(OSError):
                passed.touch()
        return found

    kept.kept = True  # type: ignore[attr-defined]
    VecISA._probe_load = kept  # type: ignore[method-assign]
