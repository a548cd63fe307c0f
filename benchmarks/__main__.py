"""``python -m benchmarks [SUITE ...] [--quick]``: measure the claims of all suites or of some; a table and ``results/*.json``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import bald, encoder, engine, ipl, laeo, online, scoring
from benchmarks.measure import machine
from benchmarks.readme import RESULTS, rewrite

MARKER = "results: written by python -m benchmarks"
SUITES = {
    "engine": engine,
    "scoring": scoring,
    "encoder": encoder,
    "ipl": ipl,
    "online": online,
    "laeo": laeo,
    "bald": bald,
}


def table(claims: list[dict[str, Any]]) -> Table:
    """Claim, goal, measured ratio, spread over the rounds."""
    shown = Table("claim", "goal", "measured", "spread", "", title="times as fast: median and range over rounds")
    for row in claims:
        goal = "" if row["goal"] is None else f">= {row['goal']:g}"
        mark = {None: "", True: "reached", False: "[bold red]missed"}[row["reached"]]
        shown.add_row(row["claim"], goal, f"{row['ratio']:,.4g}", f"{row['min']:,.4g} .. {row['max']:,.4g}", mark)
    return shown


def in_readme(folder: Path) -> str:
    """The README's block of results: a line on each run and the claims, from the JSON files of ``folder``."""
    lines = []
    for name in SUITES:
        result = json.loads((folder / f"{name}.json").read_text())
        about = result["machine"]
        versions = ", ".join(f"{key} {about[key]}" for key in ("torch", "pytorch_lightning", "numpy", "python"))
        rounds = {row["rounds"] for row in result["claims"]}
        lines += [
            f"`{about['command']}`, suite {name}: {about['cpu']}, {about['threads']} thread, {versions}; {max(rounds)} rounds.",
            "",
            "| claim | goal | measured | range over rounds |",
            "|---|---|---|---|",
        ]
        for row in result["claims"]:
            goal = "" if row["goal"] is None else f"{row['goal']:g}"
            lines.append(f"| {row['claim']} | {goal} | {row['ratio']:.4g} | {row['min']:.4g} .. {row['max']:.4g} |")
        lines += ["", *([result["note"], ""] if "note" in result else [])]
    return "\n".join(lines[:-1])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"which of {', '.join(SUITES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, its ratios mean nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files (default: %(default)s)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.suites if name not in SUITES]
    if unknown:
        parser.error(f"unknown suite {unknown[0]!r}: choose from {', '.join(SUITES)}")

    if options.quick and options.out == RESULTS:
        options.out = RESULTS / "quick"

    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    claims = []
    for name in options.suites or SUITES:
        suite = SUITES[name]
        before = machine()
        result = suite.main(suite.QUICK if options.quick else suite.Size())
        path = options.out / f"{name}.json"
        path.write_text(json.dumps({"machine": before, **result}, indent=2) + "\n")
        claims += result["claims"]
    if options.out == RESULTS and not options.quick and all((RESULTS / f"{name}.json").exists() for name in SUITES):
        rewrite(MARKER, in_readme(RESULTS))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(claims))
    console.print(f"Written to {options.out}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
