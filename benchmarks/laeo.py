"""LAEO in the update engine against plain PyTorch code: one thread, side by side, at two sizes, and its peak memory.

The small size is ``preset/laeo/small.yaml`` on FetchReach, the large one the published.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.engine import columns, transitions
from benchmarks.measure import Claim, interleave, judge, per_unit, summary, without_onednn
from benchmarks.plain_laeo import PlainLAEO
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.methods.laeo import LAEO
from lightning_pbrl.rng import stream

LENGTH = 50
"""Steps of an episode (FetchReach)."""


class Shape(NamedTuple):
    """Sizes of networks and batch."""

    hidden: tuple[int, ...]
    repr_dim: int
    batch_size: int
    updates: int
    """Updates per turn."""


class Size(NamedTuple):
    """How much is measured; goals are stated for the default."""

    rows: int = 200_000
    obs_dim: int = 10
    action_dim: int = 4
    examples: int = 200
    small: Shape = Shape((256, 256), 64, 256, 32)
    large: Shape = Shape((1024, 1024), 256, 1024, 1)
    rounds: int = 11
    compile: bool = True


TINY = Shape((32, 32), 8, 64, 4)
QUICK = Size(rows=2_000, examples=20, small=TINY, large=TINY._replace(batch_size=96, updates=1), rounds=2, compile=False)


def claims(size: Size) -> list[Claim]:
    """What is compared, at both sizes."""
    found = []
    for name, goal in (("small", 1.3), ("large", 1.15)):
        at = f"batch {getattr(size, name).batch_size}"
        found += [
            Claim(f"LAEO {at}: engine compiled / plain PyTorch loop", goal, f"{name} plain", f"{name} compiled"),
            Claim(f"LAEO {at}: engine eager / plain PyTorch loop", None, f"{name} plain", f"{name} eager"),
            Claim(f"... {at}: compiled / plain, B x B matrix for the policy", None, f"{name} plain matrix", f"{name} compiled"),
            Claim(f"... {at}: compiled, without oneDNN / plain", None, f"{name} plain", f"{name} compiled, default library"),
        ]
    return found


def example_states(size: Size) -> torch.Tensor:
    """States that count as success."""
    return torch.randn(size.examples, size.obs_dim, generator=stream(0, "examples"))


def laeo(source: Transitions, size: Size, shape: Shape) -> LAEO:
    """The method with its data and examples, without a Trainer."""
    spec = {"obs_dim": size.obs_dim, "action_dim": size.action_dim, "horizon": LENGTH}
    method = LAEO(spec, hidden=shape.hidden, repr_dim=shape.repr_dim, batch_size=shape.batch_size)
    method.configure_model()
    method.source = source
    method.use_examples(example_states(size))
    return method


def engine(method: LAEO, compile: bool) -> UpdateEngine:  # noqa: A002 - as the engine calls it
    """The bare engine of the method."""
    return UpdateEngine(method, method.groups(), method.programs(), [0], compile)


def plain(source: Transitions, size: Size, shape: Shape, whole_matrix: bool = False) -> PlainLAEO:
    """The opponent on the same data."""
    sizes = (shape.hidden, shape.repr_dim, shape.batch_size)
    return PlainLAEO(columns(source), LENGTH, example_states(size), *sizes, whole_matrix)


def contestants(source: Transitions, size: Size, name: str) -> dict[str, Any]:
    """All that run at one size, by name."""
    shape = getattr(size, name)
    runners: dict[str, Callable[[int], Any]] = {
        "plain": plain(source, size, shape).run,
        "plain matrix": plain(source, size, shape, whole_matrix=True).run,
        "eager": partial(engine(laeo(source, size, shape), False).run, "policy"),
        "compiled": partial(engine(laeo(source, size, shape), size.compile).run, "policy"),
    }
    found = {f"{name} {key}": per_unit(lambda run=run: run(shape.updates), shape.updates) for key, run in runners.items()}
    return {**found, f"{name} compiled, default library": without_onednn(found[f"{name} compiled"])}


def peak_memory(size: Size) -> dict[str, float]:
    """Peak resident memory of fits at the large size, each in a process of its own, MiB; and what there is before the updates."""
    found = {}
    for what in ("idle", "eager", "compiled") if size.compile else ("idle", "eager"):
        call = [sys.executable, "-m", "benchmarks.laeo", what, json.dumps(size._asdict())]
        done = subprocess.run(call, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        found[what] = float(done.stdout.split()[-1])
    return found


def occupied(what: str, size: Size) -> float:
    """Peak resident memory of this process after some updates, MiB."""
    torch.set_num_threads(1)
    method = laeo(transitions(size.rows, size.obs_dim, size.action_dim, LENGTH), size, size.large)
    updates = engine(method, what == "compiled")
    if what != "idle":
        updates.run("policy", 3 * size.large.updates)
    status = Path("/proc/self/status").read_text()  # getrusage's peak would be that of the process this one was started from
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(size: Size) -> dict[str, Any]:
    """Measure everything; plain JSON."""
    source = transitions(size.rows, size.obs_dim, size.action_dim, LENGTH)
    seen = {}
    for name in ("small", "large"):
        seen |= interleave(contestants(source, size, name), size.rounds)
    memory, shape = peak_memory(size), size.large
    peaks = ", ".join(f"{kind} {memory[kind]:,.0f} MiB" for kind in memory if kind != "idle")
    return {
        "size": {key: value._asdict() if isinstance(value, Shape) else value for key, value in size._asdict().items()},
        "unit": "CPU seconds per update",
        "claims": [judge(claim, seen) for claim in claims(size)],
        "seconds": summary(seen),
        "peak_memory_mib": memory,
        "note": f"Peak memory, batch {shape.batch_size}, hidden {list(shape.hidden)}, repr_dim {shape.repr_dim}: {peaks}; before "
        f"the first update {memory['idle']:,.0f} MiB, {size.rows:,} rows of data included.",
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    shapes = {key: Shape(*given[key]) for key in ("small", "large")}
    print(occupied(sys.argv[1], Size(**{**given, **shapes})))
