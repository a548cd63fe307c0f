"""``python -m benchmarks.house``: what the house costs a reader, before and after; a table and ``results/house.json``.

What it counts, and by which rules, stands in ``house_source.py`` (files, lines, classes, imports), ``house_round.py`` (files to
open for a round of QPA) and ``house_speed.py`` (reads of the label store, operator calls, speed).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import house_round, house_source, house_speed
from benchmarks.house_source import PARTS, Tree
from benchmarks.measure import machine
from benchmarks.readme import RESULTS, rewrite

ROOT = Path(__file__).parents[1]
MARKER = "house: written by python -m benchmarks.house"


class Figure(NamedTuple):
    """A row of the table.

    Attributes:
        key: of the number.
        text: what it is.
        bound: at most that, or ``before`` for the number of the tree before; None for information.
        least: at least ``bound`` instead.
    """

    key: str
    text: str
    bound: float | Literal["before"] | None = None
    least: bool = False


FIGURES = [
    Figure("conf_files", "YAML files in conf/", 240),
    Figure("conf_lines", "their lines", 3_800),
    Figure("longest_file", "longest file of the package, lines", 360),
    Figure("longest_test", "longest file of tests/"),
    Figure("longest_benchmark", "longest file of benchmarks/"),
    Figure("ask_teacher_lines", "callbacks/ask_teacher.py, lines", 150),
    Figure("learner_lines", "methods/ + rewards/ + engine/, lines", "before"),
    Figure("fit_lines", "the same, fitting/ and compute/, which were in methods/, engine/ and nn/ before"),
    Figure("depth", "own classes above LightningModule, parents and mixins", 5),
    Figure("longest_path", "longest chain of direct bases"),
    Figure("circles", "import circles", 0),
    Figure("circles_in_functions", "import circles, imports inside functions included"),
    Figure("phase_tests", "places of methods that ask which phase runs", 0),
    Figure("samplers", "samplers written by methods and rewards", 3),
    Figure("other_draws", "their other functions that draw"),
    Figure("round_files", "files to open to read one round of QPA", 4),
    Figure("noun_clauses", "public classes that begin with What, How, Whether, Where", 0),
    Figure("store_reads", "reads of the label store in a round", 2),
    Figure("old_answers", "cost of a round of 50: 10,000 / 100 old answers", 1.5),
    Figure("aten", "16 batched replicas of IQL: aten calls an update, outside the gradients", 25),
    *(Figure(f"speed_{kind}", f"speed of {kind}, after / before", 0.97, least=True) for kind in house_speed.KINDS),
]


def static(root: Path) -> dict[str, Any]:
    """Count what a source tree shows without being run.

    Returns:
        The figures by key, and under ``found`` what was counted, where that is a list.
    """
    tree = Tree(root)
    conf_files, conf_lines = house_source.conf(tree)
    longest = {
        "longest_file": house_source.longest(tree, *PARTS),
        "longest_test": house_source.longest(tree, "tests"),
        "longest_benchmark": house_source.longest(tree, "benchmarks"),
        "depth": house_source.depth(tree),
        "longest_path": house_source.longest_path(tree),
    }
    found: dict[str, list[Any]] = {
        "circles": house_source.circles(tree),
        "circles_in_functions": house_source.circles_at_runtime(tree),
        "phase_tests": house_source.phase_tests(tree),
        "samplers": house_source.samplers(tree),
        "other_draws": house_source.other_draws(tree),
        "round_files": [f"{path}: {', '.join(names)}" for path, names in house_round.files(tree).items()],
        "noun_clauses": house_source.noun_clauses(tree),
    }
    return {
        "commit": house_source.commit(root),
        "conf_files": conf_files,
        "conf_lines": conf_lines,
        "ask_teacher_lines": tree.lines("callbacks/ask_teacher.py"),
        "learner_lines": house_source.learner_lines(tree),
        "fit_lines": house_source.fit_lines(tree),
        **{key: number for key, (number, _) in longest.items()},
        **{key: len(places) for key, places in found.items()},
        "found": {**{key: [which] for key, (_, which) in longest.items()}, **found},
    }


def run(root: Path) -> dict[str, Any]:
    """Measure what a source tree shows when it is run, about a minute and a half."""
    asked = house_speed.asking(root)
    return {"store_reads": asked["reads"], "old_answers": asked["ratio"], "aten": house_speed.aten(root)}


def speed(before: Path, after: Path, kinds: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Compare the speed of some kinds of fit, one to two minutes each; prints each ratio as soon as it is known."""
    found = {}
    for kind in kinds:
        found[f"speed_{kind}"] = one = house_speed.side_by_side(before, after, kind, rounds)
        print(
            f"speed of {kind}: {one['ratio']:.3f} ({one['min']:.3f} .. {one['max']:.3f}), best {one['of_best']:.3f}", flush=True
        )
    return found


def rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table: each figure before and after, its bound, and whether that holds (None where it is not measured)."""
    table = []
    for figure in FIGURES:
        then, now = before.get(figure.key), after.get(figure.key)
        bound = then if figure.bound == "before" else figure.bound
        holds = None if now is None or bound is None else bool(now >= bound if figure.least else now <= bound)
        table.append({"key": figure.key, "text": figure.text, "before": then, "after": now, "bound": bound, "holds": holds})
    return table


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row as text: what, before, after, bound, whether it holds."""
    least = row["key"].startswith("speed_")
    bound = "" if row["bound"] is None else f"{'at least' if least else 'at most'} {_number(row['bound'])}"
    verdict = {None: "", True: "yes", False: "NO"}[row["holds"]]
    return [row["text"], _number(row["before"]), _number(row["after"]), bound, verdict]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


COLUMNS = ("", "before", "after", "bound", "holds")


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the table, the files of a QPA round, and what breaks a bound."""
    table = Table(*COLUMNS)
    for row in result["rows"]:
        table.add_row(*cells(row))
    console.print(table)
    found = result["after"].get("found", {})
    for row in result["rows"]:
        if row["key"] in found and (row["holds"] is False or row["key"] == "round_files"):
            console.print(
                f"[bold]{row['text']}[/bold]", *map(str, found[row["key"]]), sep="\n  ", soft_wrap=True, highlight=False
            )


def in_readme(result: Mapping[str, Any]) -> str:
    """Return the README's block."""
    about = result["machine"]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in result["rows"]]
    return "\n".join([f"`{about['command']}`: {about['cpu']}, torch {about['torch']}, python {about['python']}.", "", *lines])


def earlier(path: Path) -> dict[str, Any]:
    """Return the tree before, as the last result tells; empty without one."""
    return json.loads(path.read_text())["before"] if path.exists() else {}


def command_line(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=__doc__)
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout to look at (default: this one)")
    parser.add_argument("--before", type=Path, help="checkout to compare with (default: the numbers of the last result)")
    parser.add_argument("--static", action="store_true", help="only what is seen without running anything (seconds)")
    kinds = {"nargs": "*", "choices": house_speed.KINDS, "metavar": "KIND"}
    parser.add_argument("--speed", **kinds, help="also the speed side by side, of all kinds of fit or some; needs --before")
    parser.add_argument("--rounds", type=int, default=house_speed.ROUNDS, help="of the speed (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the result (default: results/house.json, with the README's table)")
    options = parser.parse_args(arguments)
    if options.speed is not None and options.before is None:
        parser.error("--speed compares two checkouts: give --before, such as a git worktree of the commit before.")

    def look(root: Path) -> dict[str, Any]:
        return {**static(root), **({} if options.static else run(root))}

    before = earlier(RESULTS / "house.json") if options.before is None else look(options.before)
    after = look(options.tree)
    kinds_of = () if options.speed is None else options.speed or house_speed.KINDS
    speeds = speed(options.before, options.tree, kinds_of, options.rounds)
    after |= {key: each["ratio"] for key, each in speeds.items()}
    told = [f"--before {before.get('commit', '')}", *(["--speed", *kinds_of] if kinds_of else [])]
    about = {**machine(), "command": " ".join(["python -m benchmarks.house", *told])}  # commits, not somebody's folders
    result = {"machine": about, "rows": rows(before, after), "before": before, "after": after, "speed": speeds}
    if options.out is not None or not options.static:
        out = options.out or RESULTS / "house.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
    if options.out is None and not options.static:
        rewrite(MARKER, in_readme(result))
    show(result, Console(width=None if sys.stdout.isatty() else 120))
    return int(any(row["holds"] is False for row in result["rows"]))


if __name__ == "__main__":
    raise SystemExit(command_line())
