"""``python -m benchmarks.startup --before TREE``: CPU seconds that commands take, in two source trees side by side.

Each command runs in a process of its own, one thread, both trees in turns; what it starts counts, too. Stages are tiny fits on
2,000 rows of Hopper (60 updates of IQL, networks of 16 x 16, with evaluations), so they are nearly all start. A further stage is
the difference of 15 stages and 5, by 10.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.house_source import commit
from benchmarks.kills import write_inputs
from benchmarks.measure import machine
from benchmarks.readme import RESULTS, rewrite

ROOT = Path(__file__).parents[1]
MARKER = "startup: written by python -m benchmarks.startup"
POLICY = "{config: [small.yaml, model/iql.yaml], with: {model: {init_args: *short}, relabel: {reward: %s}, then_test: true}}"
STUDY = f"""
name: tiny
stages:
  reward:
    config: [small.yaml, model/reward_ensemble.yaml, teacher/oracle.yaml, query/disagreement.yaml]
    with: {{ask: {{budget: 20, per_round: 10}}, model: {{init_args: {{epochs: 4, hidden: [16, 16]}}}}}}
  learned:
    config: [small.yaml, model/iql.yaml]
    with:
      model: {{init_args: &short {{updates: 60, eval_interval: 20, hidden: [16, 16], batch_size: 32}}}}
      relabel: {{reward: "${{stages.reward.checkpoint}}"}}
      then_test: true
  zero: {POLICY % "zero"}
  "true": {POLICY % '"true"'}
  random: {POLICY % "random"}
"""
FIT = ["fit", "-c", "small.yaml", "-c", "model/iql.yaml", "--relabel.reward=zero", "--then_test", "--overwrite"]
FIT += ["--model.init_args.updates=60", "--model.init_args.eval_interval=20", "--model.init_args.hidden=[16,16]"]
FIT += ["--model.init_args.batch_size=32", "--run_dir={out}"]


class Command(NamedTuple):
    """A row of the table.

    Attributes:
        text: what it is.
        args: command line, with ``{out}`` for a folder that is not there yet; empty for the difference of others.
        often: in every round, not in the first ones alone.
        cache: whether texts of help are kept from the round before.
    """

    text: str
    args: list[str]
    often: bool = True
    cache: bool = True


COMMANDS = {
    "list": Command("`list`", ["list"]),
    "help": Command("`fit --help`, first", ["fit", "--help"], cache=False),
    "again": Command("`fit --help`, again", ["fit", "--help"]),
    "plot": Command("`plot` of 5 runs", ["plot", "drawn", "--out", "{out}.png"]),
    "label": Command("`label --help`", ["label", "--help"]),
    "fit": Command("a tiny `fit` by itself", FIT),
    "run5": Command("`run` with 5 tiny stages", ["run", "tiny.yaml", "--out", "{out}"], often=False),
    "run15": Command("`run` with 15 tiny stages", ["run", "tiny.yaml", "--seeds", "0-2", "--out", "{out}"], often=False),
    "stage": Command("a further tiny stage of a `run`", []),
}
Seconds = dict[str, list[float]]


def cpu_s(tree: Path, folder: Path, command: Command) -> float:
    """Return the CPU seconds of one command by the package of a tree, processes that it has started included.

    Raises:
        RuntimeError: when it fails.
    """
    with tempfile.TemporaryDirectory() as out:
        args = [sys.executable, "-P", "-m", "lightning_pbrl", *(arg.format(out=f"{out}/out") for arg in command.args)]
        own = {"PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": f"{folder if command.cache else out}"}
        settings = {"cwd": folder, "env": {**os.environ, **own}, "stdin": subprocess.DEVNULL}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(args, **settings, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(args)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(before: Path, after: Path, rounds: int, runs: int) -> tuple[Seconds, Seconds]:
    """Return CPU seconds by command of both trees, whose turns alternate; Ctrl-C ends it with what there is.

    Args:
        before: root of a checkout.
        after: root of another one.
        rounds: of the commands.
        runs: rounds that have the studies, too.
    """
    trees, seen = (before, after), (Seconds(), Seconds())
    with tempfile.TemporaryDirectory() as name, suppress(KeyboardInterrupt):
        folder = Path(name)
        write_inputs(folder)
        (folder / "tiny.yaml").write_text(STUDY)
        cpu_s(after, folder, Command("", ["run", "tiny.yaml", "--out", "drawn"]))  # for plot, and to warm up the disk
        cpu_s(after, folder, COMMANDS["again"])
        for turn in range(rounds):
            for key, command in COMMANDS.items():
                if command.args and (command.often or turn < runs):
                    for which in (turn % 2, 1 - turn % 2):
                        seconds = cpu_s(trees[which], folder, command)
                        seen[which].setdefault(key, []).append(seconds)
                        print(f"{key} {('before', 'after')[which]} {seconds:.2f} s", flush=True)
    return seen


def rows(before: Seconds, after: Seconds) -> list[dict[str, Any]]:
    """Return the table: seconds of both trees, median, and the median and range of the rounds' own ratios after / before."""
    table = []
    for key, command in COMMANDS.items():
        pairs = list(zip(*map(partial(_seconds, key=key), (before, after)), strict=False))  # the last round may be half
        if not pairs:
            continue
        then, now = (median(each) for each in zip(*pairs, strict=True))
        ratios = [pair[1] / pair[0] for pair in pairs]
        spread = {"ratio": median(ratios), "min": min(ratios), "max": max(ratios), "rounds": len(ratios)}
        table.append({"key": key, "text": command.text, "before": then, "after": now, **spread})
    return table


def _seconds(seen: Seconds, key: str) -> list[float]:
    """Return the seconds of a command, one per round."""
    if key != "stage":
        return seen.get(key, [])
    return [(many - few) / 10 for many, few in zip(seen.get("run15", []), seen.get("run5", []), strict=False)]


COLUMNS = ("command", "before, CPU-s", "after, CPU-s", "after / before", "range", "rounds")


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row as text."""
    numbers = [f"{row['before']:.2f}", f"{row['after']:.2f}", f"{row['ratio']:.2f}", f"{row['min']:.2f} .. {row['max']:.2f}"]
    return [row["text"], *numbers, str(row["rounds"])]


def in_readme(result: Mapping[str, Any]) -> str:
    """Return the README's block."""
    about = result["machine"]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in result["rows"]]
    versions = f"torch {about['torch']}, pytorch_lightning {about['pytorch_lightning']}, python {about['python']}"
    return "\n".join([f"`{about['command']}`: {about['cpu']}, one thread, {versions}.", "", *lines])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="of each command (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="of each study (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the result (default: results/startup.json, with the README's table)")
    options = parser.parse_args(arguments)
    before, after = measure(options.before, ROOT, options.rounds, options.runs)
    command = f"python -m benchmarks.startup --before {commit(options.before)} --rounds {options.rounds} --runs {options.runs}"
    about = {**machine(), "command": command}
    result = {"machine": about, "rows": rows(before, after), "before": before, "after": after}
    out = options.out or RESULTS / "startup.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    if options.out is None:
        rewrite(MARKER, in_readme(result))
    table = Table(*COLUMNS)
    for row in result["rows"]:
        table.add_row(*cells(row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
