"""``python -m benchmarks.metaworld``: our Meta-World against the package's own environment, the same episodes, side by side.

Both make the same numbers, bit for bit (``tests/envs/test_metaworld_scene.py``). A unit is a step of an episode of 150, or a
reset. The package's environment has its task set once, as MT1 has it. Writes ``results/metaworld.json``.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measure import interleave, machine
from lightning_pbrl.envs.metaworld import MetaWorld

RESULTS = Path(__file__).parent / "results" / "metaworld.json"
TASKS = ("plate-slide", "button-press-topdown", "drawer-open", "hammer", "stick-pull")
STEPS, RESETS = 150, 5


def package(task: str) -> Any:
    """The package's environment with a task set."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.types import Task

    kind = ALL_V3_ENVIRONMENTS[f"{task}-v3"]
    drawn: Any = MetaWorld(task).make()
    drawn.reset(seed=0)
    data = {"rand_vec": drawn.physics.env._last_rand_vec, "env_cls": kind, "partially_observable": False}
    env = kind()
    env.set_task(Task(env_name=f"{task}-v3", data=pickle.dumps(data)))
    return env


def resets(begin: Callable[[], object]) -> float:
    """CPU seconds of a reset."""
    began = time.process_time()
    for _ in range(RESETS):
        begin()
    return (time.process_time() - began) / RESETS


def steps(begin: Callable[[], object], step: Callable[[Any], object], actions: Any) -> float:
    """CPU seconds of a step."""
    begin()
    began = time.process_time()
    for action in actions:
        step(action)
    return (time.process_time() - began) / len(actions)


def measured(task: str, rounds: int) -> dict[str, Any]:
    """Microseconds of both, and the median and range of the rounds' ratios."""
    theirs, ours = package(task), MetaWorld(task).make()
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (STEPS, 4)).astype(np.float32)
    seen = interleave(
        {
            "step, package": lambda: steps(theirs.reset, theirs.step, actions),
            "step, ours": lambda: steps(lambda: ours.reset(seed=0), ours.step, actions),
            "reset, package": lambda: resets(theirs.reset),
            "reset, ours": lambda: resets(lambda: ours.reset(seed=0)),
        },
        rounds,
    )
    found: dict[str, Any] = {"microseconds": {name: round(median(values) * 1e6, 1) for name, values in seen.items()}}
    for what in ("step", "reset"):
        ratios = [a / b for a, b in zip(seen[f"{what}, package"], seen[f"{what}, ours"], strict=True)]
        found[what] = [round(value, 2) for value in (median(ratios), min(ratios), max(ratios))]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": f"python -m benchmarks.metaworld --rounds {options.rounds}",
        "machine": machine(),
        "tasks": {},
    }
    for task in options.tasks:
        found = report["tasks"][task] = measured(task, options.rounds)
        for what in ("step", "reset"):
            middle, low, high = found[what]
            theirs, ours = (found["microseconds"][f"{what}, {whose}"] for whose in ("package", "ours"))
            print(f"{task}: {what} {theirs:,.0f} us and ours {ours:,.0f}: {middle} times as fast ({low} .. {high})", flush=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
