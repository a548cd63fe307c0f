"""Side-by-side timing: all contestants in one process, round by round, in CPU seconds.

A ratio of two programs measured at different times on a shared machine says little. Here each round runs every
contestant once, in an order that rotates, and counts the CPU seconds of this process (``time.process_time``), which
other programs' load moves much less than wall time. A claim is the median of the rounds' own ratios.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch

from lightning_pbrl.nn import linear

Contestant = Callable[[], float]
"""Runs once and returns CPU seconds per unit of work (update, row, pair ...)."""
Rounds = dict[str, list[float]]
"""CPU seconds per unit of work, one number per round, by contestant."""


class Claim(NamedTuple):
    """``ours`` does the work of ``other`` at least ``goal`` times as fast; goal None: for information only."""

    text: str
    goal: float | None
    other: str
    ours: str


def per_unit(work: Callable[[], object], units: int) -> Contestant:
    """The contestant that does ``work``, which is ``units`` units."""

    def run() -> float:
        began = time.process_time()
        work()
        return (time.process_time() - began) / units

    return run


def with_library(contestant: Contestant, onednn: bool) -> Contestant:
    """The contestant with all large matrix products by oneDNN, or by PyTorch's default library."""

    def run() -> float:
        used, linear.ONEDNN = linear.ONEDNN, onednn
        try:
            return contestant()
        finally:
            linear.ONEDNN = used

    return run


def without_onednn(contestant: Contestant) -> Contestant:
    """The contestant with all matrix products by PyTorch's default library, to tell what oneDNN brings."""
    return with_library(contestant, onednn=False)


def interleave(contestants: Mapping[str, Contestant], rounds: int) -> Rounds:
    """Run every contestant once to warm up, then once per round, the order rotated by one each round."""
    for run in contestants.values():
        run()
    gc.freeze()  # what is alive now need not be looked at again before each turn
    names, seen = list(contestants), {name: [] for name in contestants}
    for turn in range(rounds):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            gc.collect()  # nobody pays for the garbage of the one before
            seen[name].append(contestants[name]())
    gc.unfreeze()
    return seen


def judge(claim: Claim, seen: Rounds) -> dict[str, Any]:
    """A row of the result table: the paired ratio's median, minimum and maximum over the rounds, and the verdict."""
    ratios = [other / ours for other, ours in zip(seen[claim.other], seen[claim.ours], strict=True)]
    return {
        "claim": claim.text,
        "goal": claim.goal,
        "ratio": median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "ratio_of_medians": median(seen[claim.other]) / median(seen[claim.ours]),
        "reached": None if claim.goal is None else median(ratios) >= claim.goal,
        "rounds": len(ratios),
    }


def summary(seen: Rounds) -> dict[str, dict[str, float]]:
    """CPU seconds per unit of each contestant: median, minimum, maximum."""
    return {name: {"median": median(s), "min": min(s), "max": max(s)} for name, s in seen.items()}


def machine(program: str = "python -m benchmarks") -> dict[str, Any]:
    """What the numbers of ``program`` depend on besides the code."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_lightning": pl.__version__,
        "numpy": np.__version__,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "command": " ".join([program, *sys.argv[1:]]),
    }


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
