"""Does each paper's claim hold in this library? One table from the runs in ``results/``, with its arithmetic.

    python -m benchmarks.claims                                        # print the table at the top of docs/results.md
    python -m benchmarks.claims --collect runs/NAME --command "..." --machine "..."      # runs into results/NAME.json

A claim says that one arm of an experiment ends above another. Here are both arms' means, and the 95 % interval of their
difference by Welch's t (seeds are independent; with three of them it is wide). The claim holds here if the interval lies above 0,
does not hold if it lies below, and otherwise these seeds cannot say.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lightning_pbrl.reports.comparison import share_of_wins

RESULTS = Path(__file__).parent / "results"
CURVES = ("pref/accuracy", "reward/pearson", "teacher/clear_ratio")
"""Figures that are kept after every round of questions, by the number of answers."""


@dataclass(frozen=True)
class Claim:
    """One comparison of two arms, file and prefix of the runs' names, by a metric at the end or after ``labels`` answers."""

    text: str
    published: str
    new: tuple[str, str]
    old: tuple[str, str]
    metric: str
    name: str
    section: str
    labels: int | None = None


FETCH, POLICIES, RATIO = "examples-small-fetch-reach", "policies-button-press-topdown", "clear-ratio-button-press-topdown"
WALK, BUTTON, CHEETAH = "online-small-walker-walk", "comparisons-button-press", "active-rlhf-small-cheetah"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "CLARIFY asks clearer questions than uniform ones (`preset/clarify/clear.yaml`)",
        "0.763 and 0.470",
        (f"{RATIO}-clear", "clarify_clear"),
        (RATIO, "mr"),
        "teacher/clear_ratio",
        "clear ratio",
        "clear-query-ratio-can-the-teacher-answer-what-is-asked",
    ),
)


def values(arm: tuple[str, str], metric: str, labels: int | None = None) -> list[float]:
    """Return one figure per seed of an arm, by seed."""
    runs = json.loads((RESULTS / f"{arm[0]}.json").read_text())["runs"]
    found = {run["seed"]: run for name, run in runs.items() if name.rpartition("/")[0] == arm[1]}
    if not found:
        raise KeyError(f"{arm[0]}.json has no runs of {arm[1]}")
    rows = [found[seed]["metrics"] if labels is None else found[seed]["curves"][metric] for seed in sorted(found)]
    return [row[metric if labels is None else str(labels)] for row in rows]


def judged(new: list[float], old: list[float]) -> tuple[float, float, float, str]:
    """Return the difference of the means, its 95 % interval, and the verdict."""
    difference = float(np.mean(new) - np.mean(old))
    if np.ptp(new) == np.ptp(old) == 0:  # no spread at all: the difference itself
        low = high = difference
    else:
        low, high = map(float, stats.ttest_ind(new, old, equal_var=False).confidence_interval(0.95))
    return difference, low, high, "holds" if low > 0 else "does not hold" if high < 0 else "cannot say"


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| claim | published | figure | ours | beside | seeds | difference, 95 % interval | wins | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        new, old = (values(arm, claim.metric, claim.labels) for arm in (claim.new, claim.old))
        difference, low, high, verdict = judged(new, old)
        shown = f"{difference:+.3g} ({low:+.3g} .. {high:+.3g})"
        seeds, wins = f"{len(new)}, {len(old)}", f"{float(share_of_wins(new, old)):.2f}"
        cells = (
            f"[{claim.text}](#{claim.section})",
            claim.published,
            claim.name,
            _mean(new),
            _mean(old),
            seeds,
            shown,
            wins,
            f"**{verdict}**",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(found: list[float]) -> str:
    return f"{np.mean(found):.3g} ± {np.std(found, ddof=1) / len(found) ** 0.5:.2g}"


def collected(folder: Path) -> dict[str, Any]:
    """Return what runs below ``folder`` have ended with, and the curves of their rounds."""
    runs = {}
    for run in sorted(file.parent for file in folder.rglob("config.yaml") if file.parent.name.startswith("seed")):
        results, curves = run / "results.json", _curves(run)
        ended = json.loads(results.read_text()) if results.is_file() else {"seed": int(run.name.removeprefix("seed"))}
        runs[str(run.relative_to(folder))] = {**ended, **({"curves": curves} if curves else {})}
    return runs


def _curves(run: Path) -> dict[str, dict[str, float]]:
    """Return the figures after each round by the number of answers; a row without it belongs to the last one before."""
    found: dict[str, dict[str, float]] = {}
    for file in sorted(run.glob("csv/version_*/metrics.csv")):
        labels = ""
        for row in csv.DictReader(file.open()):
            labels = str(int(float(row["labels"]))) if row.get("labels") else labels
            for name in CURVES:
                if row.get(name) and labels not in ("", "0"):
                    found.setdefault(name, {})[labels] = float(row[name])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("--collect", type=Path, metavar="RUNS")
    parser.add_argument("--command")
    parser.add_argument("--machine")
    options = parser.parse_args()
    if options.collect is None:
        print(table())
        return 0
    about = {"command": options.command, "machine": options.machine, "runs": collected(options.collect)}
    (RESULTS / f"{options.collect.name}.json").write_text(json.dumps(about, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
