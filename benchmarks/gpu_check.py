"""Everything that needs a GPU, in one command of less than 8 minutes: ``make gpu-check`` or ``python -m benchmarks.gpu_check``.

It runs the tests marked ``gpu``, then a table of updates per second: eager, compiled, and replayed as CUDA graphs, of 1 to 16
replicas, with peak memory and the difference of the weights from the eager ones. A ``lax.scan`` in JAX runs beside, if a JAX with
CUDA is installed. It writes ``results/gpu.json``. Without a GPU it says so and runs the same table on the CPU at tiny sizes. A
stand-in then records nothing and calls the updates again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks import engine, ipl, online, scoring
from benchmarks.measure import machine
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import Program, UpdateEngine
from lightning_pbrl.engine.program import Part
from lightning_pbrl.methods.laeo import LAEO

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
NONE_HERE = "There is no GPU here, so nothing is measured: the same table runs on the CPU at tiny sizes, to show that it works."
MINUTES = 7.5
"""Of the whole check; what does not fit in is left out and named."""
TEST_MINUTES = 4.0
REPLICAS = (1, 16, 4, 8)
"""In the order of their measurement."""
WAYS = ("eager", "compiled", "graph")
SIDE = 64
"""Side of a picture, pixels."""


class Size(NamedTuple):
    """How much is measured."""

    rows: int = 250_000
    pictures: int = 20_000
    hidden: tuple[int, ...] = (256, 256)
    batch_size: int = 256
    reward_batch: int = 128
    block: int = 64
    rounds: int = 5
    compile: bool = True


QUICK = Size(rows=600, pictures=60, hidden=(16,), batch_size=8, reward_batch=8, block=8, rounds=1, compile=False)


class Case(NamedTuple):
    """One kind of update.

    Attributes:
        owner: module that owns networks and losses.
        parts: its parts.
        program: its update.
    """

    owner: nn.Module
    parts: dict[str, Part]
    program: Program


class Stand:
    """Stand-in for CUDA's recorder: a replay calls the function again."""

    def warm_up(self, run: Callable[[], None]) -> None:
        run()

    def record(self, run: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        return run


def iql(size: Size, device: torch.device) -> Case:
    """IQL on 39 observations and 4 actions."""
    source = engine.transitions(size.rows, 39, 4).to(device)
    method = engine.iql(source, engine.Size(hidden=size.hidden, batch_size=size.batch_size), False)
    method.configure_model()
    method.source = source
    method.to(device).on_data()
    return Case(method, method.groups(), method.programs()["policy"])


def sac(size: Size, device: torch.device) -> Case:
    """SAC's update on a full replay; nothing acts."""
    method = online.sac(24, 6, size.hidden, size.batch_size)
    method.source = online.replay(size.rows, 24, 6).to(device)
    method.to(device)
    return Case(method, method.groups(), method.programs()["policy"])


def reward(size: Size, device: torch.device) -> Case:
    """A fit of three members to 1,024 answers about segments of 50 steps; minibatches are of one size."""
    few = size.rows < 10_000
    sizes = scoring.Size(hidden=(*size.hidden, size.hidden[-1]), length=10 if few else 50, batch_size=size.reward_batch)
    source = engine.transitions(size.rows, sizes.obs_dim, sizes.action_dim)
    count = 8 * size.reward_batch
    query = source.pool(sizes.length).pairs(count, torch.Generator().manual_seed(1))
    value = torch.arange(count).remainder(2).float()
    model = scoring.ensemble(source.to(device), sizes).to(device)
    model.pairs = Labels(query.start, sizes.length, value, torch.full((count,), int(Status.ANSWERED))).to(device)
    return Case(model, model.groups(), model.programs()["reward"])


def pairs(size: Size, device: torch.device) -> Case:
    """IPL-IQL on windows of 64 steps of 8 pairs, and 256 transitions."""
    few = size.rows < 10_000
    sizes = ipl.QUICK if few else ipl.Size(rows=size.rows, hidden=size.hidden, batch_size=size.batch_size)
    source = engine.transitions(size.rows, sizes.obs_dim, sizes.action_dim)
    labels = ipl.answers(source, sizes)
    method = ipl.ipl(source.to(device), labels, sizes).to(device)
    return Case(method, method.groups(), method.programs()["policy"])


def pixels(size: Size, device: torch.device) -> Case:
    """LAEO on pictures of 64 x 64 pixels, which stay bytes on the device."""
    length, rng = 20, torch.Generator().manual_seed(0)
    rows = size.pictures // length * length
    frames = torch.randint(256, (rows + rows // length, SIDE, SIDE, 3), dtype=torch.uint8, generator=rng)
    state, action = torch.randn(rows, 4, generator=rng), torch.rand(rows, 4, generator=rng) * 2 - 1
    offsets = torch.arange(0, rows + 1, length)
    source = Transitions.from_columns(state, action, state, offsets, frames=frames).to(device)
    spec = {"obs_dim": SIDE * SIDE * 3, "action_dim": 4, "horizon": length, "pixels": SIDE}
    method = LAEO(spec, hidden=size.hidden, repr_dim=64, batch_size=size.batch_size)
    method.configure_model()
    method.source = source
    method.use_examples(frames[:64])
    method.to(device)
    return Case(method, method.groups(), method.programs()["policy"])


CASES: dict[str, Callable[[Size, torch.device], Case]] = {
    "IQL": iql,
    "SAC update": sac,
    "reward fit": reward,
    "IPL": pairs,
    "LAEO pixels": pixels,
}


def runner(case: Case, way: str, replicas: int, size: Size) -> UpdateEngine:
    """Return a bare engine of a case that runs in one of the :data:`WAYS`."""
    on_cuda = next(case.owner.parameters()).is_cuda
    recorder = None if on_cuda or way != "graph" else Stand()
    how: Any = False if way == "eager" or not size.compile else "graph" if way == "graph" else "auto"
    return UpdateEngine(case.owner, case.parts, {"policy": case.program}, range(replicas), how, "batched", recorder=recorder)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that work takes: wall on CUDA, of the process on a CPU."""
    if device.type != "cuda":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def measured(
    name: str, way: str, replicas: int, size: Size, device: torch.device
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Measure one way; return its row and the weights after its updates."""
    torch.manual_seed(0)
    updates = runner(CASES[name](size, device), way, replicas, size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    first = seconds(lambda: updates.run("policy", size.block), device)
    weights = {key: value.clone() for key, value in updates.state.storage.items()}
    taken = [seconds(lambda: updates.run("policy", size.block), device) for _ in range(size.rounds)]
    rate = [size.block / each for each in taken]
    row = {"updates_per_s": median(rate), "min": min(rate), "max": max(rate), "first_block_s": first}
    if device.type == "cuda":
        row["peak_MiB"] = torch.cuda.max_memory_allocated(device) / 2**20
    if updates._graphs is not None:
        row["graphs"] = updates._graphs.recorded
    if way == "compiled" and not updates.compile and size.compile:
        row["note"] = "the compiler failed"
    return row, weights


def table(size: Size, device: torch.device, until: float) -> dict[str, Any]:
    """Return rows by case, replicas and way; those for which no time is left are named under ``left_out``."""
    found: dict[str, Any] = {name: {} for name in CASES}
    left_out: list[str] = []
    for replicas in REPLICAS:
        for name in CASES:
            rows: dict[str, Any] = found[name].setdefault(str(replicas), {})
            eager: dict[str, torch.Tensor] = {}
            for way in WAYS:
                if time.monotonic() > until:
                    left_out.append(f"{name}, {replicas} replicas, {way}")
                    continue
                try:
                    rows[way], weights = measured(name, way, replicas, size, device)
                except (RuntimeError, ValueError) as error:  # such as memory: the other rows are still worth having
                    rows[way] = {"error": " ".join(str(error).split())[:300]}
                    continue
                eager = eager or weights
                rows[way]["difference"] = max(float((weights[key] - eager[key]).abs().max()) for key in eager)
                rate = rows[way]["updates_per_s"] * replicas
                print(f"{name:12} {replicas:3} {way:9}{rate:12,.0f} updates/s of all replicas", flush=True)
    return {"rows": found, "left_out": left_out}


def beside_jax(size: Size, minutes: float) -> dict[str, Any]:
    """Return the rate of IQL as a ``lax.scan`` on the GPU, measured in a process of its own; what is missing if there is none."""
    if importlib.util.find_spec("jax") is None:
        return {"missing": "jax is not installed"}
    call = [sys.executable, "-m", "benchmarks.gpu_check", "--jax", json.dumps(size._asdict())]
    own = {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_FLAGS": ""}
    try:
        done = subprocess.run(call, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        return {"missing": "no time was left"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"missing": (done.stderr.strip().splitlines() or ["no answer"])[-1][:300]}


def scanned(size: Size) -> dict[str, Any]:
    """Measure the scan in this process."""
    from benchmarks import jax_iql

    source = engine.transitions(size.rows, 39, 4)
    columns = [column.numpy() for column in engine.columns(source)]
    run = jax_iql.scan(columns, size.hidden, size.batch_size, size.block)
    run(size.block)
    taken = []
    for _ in range(size.rounds):
        began = time.perf_counter()
        run(size.block)
        taken.append(size.block / (time.perf_counter() - began))
    return {"updates_per_s": median(taken), "min": min(taken), "max": max(taken)}


def tests(minutes: float) -> dict[str, Any]:
    """Run the tests that need a GPU."""
    call = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/engine"]
    try:
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60 * minutes)
    except subprocess.TimeoutExpired as error:
        return {"rc": 124, "tail": str(error.stdout or "")[-4000:]}
    return {"rc": done.returncode, "tail": done.stdout[-4000:]}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], help="by default a GPU if there is one")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, its numbers mean nothing")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file (default: %(default)s)")
    parser.add_argument("--jax", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.jax:
        print(json.dumps(scanned(Size(**json.loads(options.jax)))))
        return 0
    began, there = time.monotonic(), torch.cuda.is_available()
    if options.device == "cuda" and not there:
        parser.error("PyTorch sees no CUDA device")
    if options.device is None and not there:
        print(NONE_HERE)
        options.quick = True
    device = torch.device(options.device or ("cuda" if there else "cpu"))
    size, result = QUICK if options.quick else Size(), {"machine": machine(), "device": str(device)}
    if device.type == "cuda":
        result |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "tests": tests(TEST_MINUTES)}
        print(result["tests"]["tail"], flush=True)
    else:
        torch.set_num_threads(1)
    until = began + 60 * (MINUTES - 1.0)
    result |= {"size": size._asdict(), **table(size, device, until)}
    if device.type == "cuda":
        result["jax"] = beside_jax(size, max(MINUTES - (time.monotonic() - began) / 60, 0.1))
    result["seconds"] = time.monotonic() - began
    if device.type == "cuda" or options.out != RESULT:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1))
        print(f"Written to {options.out}.")
    rows = [(f"{name}, {k} replicas", row) for name, found in result["rows"].items() for k, row in found.items()]
    wrong = [f"{what}, {way}" for what, row in rows for way in row if "error" in row[way]]
    if wrong:
        print(f"Failed: {'; '.join(wrong)}.")
    return 1 if wrong or result.get("tests", {"rc": 0})["rc"] else 0


if __name__ == "__main__":
    sys.exit(main())
