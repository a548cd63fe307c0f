"""``python -m benchmarks.peers``: whole fits and acting loops beside those of d3rlpy, stable-baselines3 and SBX themselves.

Each contestant is a process of its own, one thread, and only one works at a time: turns alternate in a rotating order, and a turn
counts the CPU seconds of its process. The peers are no dependencies of this project: ``pip install d3rlpy stable-baselines3
sbx-rl`` first. Comparisons with a peer that is missing are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.measure import Claim, Rounds, judge, machine, summary
from benchmarks.readme import RESULTS, rewrite

MARKER = "peers: written by python -m benchmarks.peers"
ROOT = Path(__file__).parents[1]
PACKAGES = {"d3rlpy": "d3rlpy", "SB3": "stable_baselines3", "SBX": "sbx"}


class Duel(NamedTuple):
    """Contestants that take turns.

    Attributes:
        claims: comparisons by the names of contestants (``benchmarks/peer_workers.py``).
        units: updates, or env steps with an update each, of a turn.
        rounds: turns of each.
    """

    claims: list[Claim]
    units: int
    rounds: int


DUELS = {
    "fit": Duel([Claim("IQL, a whole fit of 5,000 updates / d3rlpy's", 2.3, "d3rlpy", "IQL")], 5_000, 3),
    "loop": Duel(
        [
            Claim("SAC on HalfCheetah-v5, env step and update / SBX", 1.25, "SBX", "SAC"),
            Claim("SAC on HalfCheetah-v5, env step and update / stable-baselines3", 2.0, "SB3", "SAC"),
        ],
        512,
        9,
    ),
}


class Worker:
    """A contestant's process: for each number of units on its input it prints the CPU seconds that these took."""

    def __init__(self, name: str) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        env = {**os.environ, **threads, "XLA_FLAGS": one, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "benchmarks.peer_workers", name]
        self.name = name
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer(self) -> str:
        """The next line that is meant for us; a library may print others.

        Raises:
            RuntimeError: if the process has ended.
        """
        for line in self.process.stdout or ():
            if line.startswith("turn "):
                return line.removeprefix("turn ").strip()
        raise RuntimeError(f"the process of {self.name} has ended with code {self.process.wait()}")

    def turn(self, units: int) -> float:
        """CPU seconds per unit."""
        assert self.process.stdin is not None
        print(units, file=self.process.stdin, flush=True)
        return float(self.answer()) / units

    def end(self) -> None:
        """End the process."""
        with self.process:  # closes the pipes and waits
            self.process.kill()


def duel(contestants: list[str], units: int, rounds: int) -> Rounds:
    """CPU seconds per unit of every contestant's turns."""
    workers = {name: Worker(name) for name in contestants}
    seen: Rounds = {name: [] for name in contestants}
    try:
        for worker in workers.values():
            worker.answer()  # ready
        for turn in range(rounds):
            at = turn % len(contestants)
            for name in contestants[at:] + contestants[:at]:
                seen[name].append(workers[name].turn(units))
                print(f"{name}: {1 / seen[name][-1]:.1f} per CPU second", flush=True)
    finally:
        for worker in workers.values():
            worker.end()
    return seen


def measured(name: str, rounds: int | None, units: int | None) -> dict[str, Any] | None:
    """Measure a duel with the peers that are installed; plain JSON, or None without any."""
    wanted, usual, often = DUELS[name]
    here = [claim for claim in wanted if importlib.util.find_spec(PACKAGES[claim.other])]
    for claim in wanted:
        if claim not in here:
            print(f"Left out: {claim.text}: {claim.other} is not installed.", file=sys.stderr)
    if not here:
        return None
    seen = duel([here[0].ours, *(claim.other for claim in here)], units or usual, rounds or often)
    installed = {"d3rlpy": "d3rlpy", "stable-baselines3": "stable_baselines3", "sbx-rl": "sbx", "jax": "jax"}
    peers = {package: version(package) for package, module in installed.items() if importlib.util.find_spec(module)}
    about = {**machine("python -m benchmarks.peers"), "peers": peers}
    unit = "CPU seconds per update (fit), env step with its update (loop)"
    return {"machine": about, "unit": unit, "claims": [judge(claim, seen) for claim in here], "seconds": summary(seen)}


def in_readme(results: dict[str, dict[str, Any]]) -> str:
    """The README's block: a line on each run, and a row per claim."""
    about, rows = [], []
    for result in results.values():
        machine, found = result["machine"], result["claims"]
        peers = ", ".join(f"{name} {number}" for name, number in machine["peers"].items())
        cpu = f"{machine['cpu']} ({machine['cpu_capability']}), {machine['threads']} thread"
        about.append(f"`{machine['command']}`: {cpu}, torch {machine['torch']}, {peers}.")
        for row in found:
            numbers = f"{row['ratio']:.3g} | {row['min']:.3g} .. {row['max']:.3g} | {row['rounds']}"
            rows.append(f"| {row['claim']} | {row['goal']:g} | {numbers} |")
    return "\n".join([*dict.fromkeys(about), "", "| claim | goal | measured | range | rounds |", "|---|---|---|---|---|", *rows])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("duels", nargs="*", help=f"some of {', '.join(DUELS)} (default: all); results of others stay")
    parser.add_argument("--rounds", type=int, help="turns of each contestant")
    parser.add_argument("--units", type=int, help="updates, or env steps with an update each, of a turn")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.duels if name not in DUELS]:
        parser.error(f"unknown comparison {unknown[0]!r}: choose from {', '.join(DUELS)}")
    torch.set_num_threads(1)
    path = RESULTS / "peers.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    new = {name: measured(name, options.rounds, options.units) for name in options.duels or DUELS}
    if not any(new.values()):
        return 2
    results |= {name: result for name, result in new.items() if result}
    path.write_text(json.dumps(results, indent=2) + "\n")
    rewrite(MARKER, in_readme(results))
    print(in_readme(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
