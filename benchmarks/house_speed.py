"""Measurements of source trees side by side: each in a process of its own, one thread, their turns interleaved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

TOYS = Path(__file__).with_name("house_toys.py")
KINDS = ("IQL", "SAC", "IPL", "reward", "asking-100")
"""Of fits whose speed is compared; the last asks rounds of 50 questions with 100 answers or more in the store."""
OLD = (100, 10_000)
"""Answers in the store before the rounds whose cost is compared."""
ROUNDS = 7


class Toys:
    """A process that runs the fits of ``house_toys.py`` by the package of one tree, one fit each time it is asked.

    Args:
        tree: root of a checkout.
        kind: of fit.

    Raises:
        RuntimeError: when the process ends early, or imports the package of another tree.
    """

    def __init__(self, tree: Path, kind: str) -> None:
        one = {"PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1", "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")}
        command = [sys.executable, "-P", str(TOYS), kind]  # -P: the folder of the script is not searched for modules
        self.process = subprocess.Popen(
            command, env={**os.environ, **one}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, {max(os.sched_getaffinity(0))})
        package = Path(self._read()["package"])
        if package.parent != tree.resolve():
            raise RuntimeError(f"{tree} was to be measured and {package} was imported.")

    def __enter__(self) -> Toys:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.communicate()  # closes its input, which ends it

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended with {self.process.wait()}.")

    def measure(self) -> dict[str, Any]:
        """Run one fit; return what it took."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read()


def once(tree: Path, kind: str) -> dict[str, Any]:
    """Return one measurement of one tree."""
    with Toys(tree, kind) as toys:
        return toys.measure()


def aten(tree: Path) -> float:
    """Return the aten calls per update of 16 batched replicas of IQL, outside the gradient functions."""
    return once(tree, "aten")["per_update"]


def asking(tree: Path, repeats: int = 3) -> dict[str, Any]:
    """Return the reads of the label store in a round, the most of any, and what old answers add to its cost.

    Both numbers of old answers take turns; the first fit of each only warms up.
    """
    few, many = (Toys(tree, f"asking-{count}") for count in OLD)
    with few, many:
        runs = [(few.measure(), many.measure()) for _ in range(1 + repeats)][1:]
    seconds = [[second for run in column for second in run["seconds"]] for column in zip(*runs, strict=True)]
    cost = [median(each) for each in seconds]
    return {
        "reads": max(count for pair in runs for run in pair for count in run["reads"]),
        "seconds": cost,
        "ratio": cost[1] / cost[0],
    }


def side_by_side(before: Path, after: Path, kind: str, rounds: int = ROUNDS) -> dict[str, Any]:
    """Compare the CPU seconds of one kind of fit.

    Returns:
        ``ratio``, the median over the rounds of seconds before / seconds after, with ``min`` and ``max``; ``of_best``, the
        ratio of the shortest times, which a busy machine disturbs least; the seconds of each tree.
    """
    with Toys(before, kind) as old, Toys(after, kind) as new:
        seen: list[list[float]] = [[], []]
        for turn in range(-1, rounds):  # the first one warms up
            for which in (turn % 2, 1 - turn % 2):
                took = (old, new)[which].measure()["seconds"]
                if turn >= 0:
                    seen[which].append(sum(took) if isinstance(took, list) else took)
    ratios = [then / now for then, now in zip(*seen, strict=True)]
    best = min(seen[0]) / min(seen[1])
    spread = {"ratio": median(ratios), "min": min(ratios), "max": max(ratios), "of_best": best}
    return {**spread, "before": seen[0], "after": seen[1]}
