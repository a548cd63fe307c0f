"""Does each paper's claim hold in this library? One table from the runs in ``results/``, with its arithmetic.

    python -m benchmarks.claims                                        # print the table at the top of docs/results.md
    python -m benchmarks.claims --collect runs/NAME --command "..." --machine "..."      # runs into results/NAME.json
    python -m benchmarks.claims --draw NAME --metric reward/pearson    # its curves over answers into docs/images/NAME.png

A claim says that one arm of an experiment ends above another. Here are both arms' means, and the 95 % interval of their
difference by Welch's t (seeds are independent; with three of them it is wide). The claim holds here if the interval lies above 0,
does not hold if it lies below, and otherwise these seeds cannot say. A claim to be as good names a margin, and minus that takes
the place of 0.
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
EVALUATED = ("eval/success_rate", "eval/return_mean")
"""Figures on validation episodes that are kept, by the number of updates or env steps."""


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
    because: str = ""
    """Why these runs cannot say, or what the verdict does not cover."""
    margin: float = 0.0
    """What the new arm may lose and still count as good."""


FETCH, POLICIES, RATIO = "examples-small-fetch-reach", "policies-button-press-topdown", "clear-ratio-button-press-topdown"
LIRE = "lire-published-button-press-topdown"
LABELS, WALKER_LABELS = "active-rlhf-labels-HalfCheetah-v5", "active-rlhf-labels-Walker2d-v5"
SLIDE = "ipl-small-plate-slide-500"
WALK, BUTTON, CHEETAH = "online-small-walker-walk", "comparisons-button-press", "active-rlhf-small-cheetah"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "CLARIFY asks what can be answered, more often than uniform questions (`preset/clarify/clear.yaml`)",
        "0.763 and 0.470",
        (f"{RATIO}-clear", "clarify_clear"),
        (f"{RATIO}-clear", "mr"),
        "teacher/clear_ratio",
        "clear ratio",
        "clear-query-ratio-can-the-teacher-answer-what-is-asked",
    ),
    Claim(
        "CLARIFY (true start times) ends with better policies than OPRL",
        "0.775 and 0.573",
        (POLICIES, "clarify_true"),
        (POLICIES, "oprl"),
        "test/success_rate",
        "success",
        "policies-from-clarify-oprl-mr-and-lire",
        because="three seeds; with 1,000 questions even OPRL's 160 clear answers are many",
    ),
    Claim(
        "LiRE's ranked lists make better policies than MR's pairs, with 500 answers",
        "above (LiRE's paper; no figure at hand)",
        (LIRE, "lire"),
        (LIRE, "mr"),
        "test/success_rate",
        "success",
        "lire-and-mr-at-lires-published-passes",
    ),
    Claim(
        "IPL is as good as a reward and IQL at once, with 500 comparisons",
        "at or above",
        (BUTTON, "ipl/capacity=500"),
        (BUTTON, "mr/capacity=500"),
        "test/success_rate",
        "success",
        "policies-straight-from-comparisons-button-press",
        because="three seeds, and cloning alone solves these data",
    ),
    Claim(
        "... on plate-slide, where cloning fails: success no more than 0.1 below",
        "",
        (SLIDE, "ipl"),
        (SLIDE, "mr"),
        "test/success_rate",
        "success",
        "policies-straight-from-comparisons-plate-slide-where-cloning-fails",
        because="both do what the true reward does",
        margin=0.1,
    ),
    Claim(
        "... the same by return",
        "",
        (SLIDE, "ipl"),
        (SLIDE, "mr"),
        "test/return_mean",
        "return",
        "policies-straight-from-comparisons-plate-slide-where-cloning-fails",
        because="four per cent",
    ),
    Claim(
        "QPA is better than PEBBLE with 100 answers, PEBBLE asking by disagreement",
        "796 and 453",
        (WALK, "qpa"),
        (WALK, "pebble-disagreement"),
        "test/return_mean",
        "return",
        "acting-and-asking-qpa-and-pebble-on-walker-walk",
    ),
    Claim(
        "... PEBBLE asking uniformly",
        "",
        (WALK, "qpa"),
        (WALK, "pebble-uniform"),
        "test/return_mean",
        "return",
        "acting-and-asking-qpa-and-pebble-on-walker-walk",
        because="one of three uniform seeds ended above all of QPA's",
    ),
    Claim(
        "LAEO does with examples what the true reward does (TD3+BC)",
        "",
        (FETCH, "laeo"),
        (FETCH, "true"),
        "test/return_mean",
        "steps at the target",
        "examples-of-success-fetchreach-from-states-and-from-pictures",
    ),
    Claim(
        "BALD saves answers: pairs chosen by BALD or at random",
        "",
        (LABELS, "pairs-bald"),
        (LABELS, "pairs-random"),
        "reward/pearson",
        "r after 300",
        "what-an-answer-teaches-active-rlhf-without-a-policy",
        300,
        because="by the reward on one set of clips; 120 answers cannot say",
    ),
    Claim(
        "... pairs and ratings, half and half",
        "",
        (LABELS, "half-bald"),
        (LABELS, "half-random"),
        "reward/pearson",
        "r after 300",
        "what-an-answer-teaches-active-rlhf-without-a-policy",
        300,
    ),
    *(
        Claim(
            f"... on Walker2d, {what}",
            "",
            (WALKER_LABELS, f"{kind}-bald"),
            (WALKER_LABELS, f"{kind}-random"),
            "reward/pearson",
            "r after 300",
            "what-an-answer-teaches-active-rlhf-without-a-policy",
            300,
            because="above at every budget from 180 answers on, and never by more than the seeds differ",
        )
        for kind, what in (("pairs", "pairs"), ("half", "half and half"))
    ),
    Claim(
        "... an adaptive mix beats half and half, both by BALD",
        "",
        (LABELS, "adaptive-bald"),
        (LABELS, "half-bald"),
        "reward/pearson",
        "r after 300",
        "what-an-answer-teaches-active-rlhf-without-a-policy",
        300,
        because="the interval ends at 0.001",
    ),
    Claim(
        "... and makes better policies (half and half)",
        "",
        (CHEETAH, "bald-fixed"),
        (CHEETAH, "random-fixed"),
        "train/return_mean",
        "return",
        "two-kinds-of-answer-active-rlhf-on-halfcheetah",
        because="three seeds, whose order changes with the processor",
    ),
    Claim(
        "People: IPL from 100 human answers is better than cloning all clips (Hopper)",
        "",
        ("human-policies", "ipl/Hopper-v5/path=hopper-medium-expert-v2"),
        ("human-policies", "bc/Hopper-v5/path=hopper-medium-expert-v2"),
        "test/normalized_score",
        "normalised score",
        "policies-from-what-people-preferred-and-nothing-else",
        because="seeds from 11 to 47; no replay beside the clips",
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


def judged(new: list[float], old: list[float], margin: float = 0.0) -> tuple[float, float, float, str]:
    """Return the difference of the means, its 95 % interval, and the verdict."""
    difference = float(np.mean(new) - np.mean(old))
    parts = [float(np.var(arm, ddof=1)) / len(arm) for arm in (new, old)]
    error, wide = sum(parts) ** 0.5, 0.0
    if error:  # Welch's degrees of freedom
        freedom = error**4 / sum(part**2 / (len(arm) - 1) for part, arm in zip(parts, (new, old), strict=True))
        wide = float(stats.t.ppf(0.975, freedom)) * error
    low, high = difference - wide, difference + wide
    return difference, low, high, "holds" if low > -margin else "does not hold" if high < -margin else "cannot say"


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| claim | published | figure | ours | beside | seeds | difference, 95 % interval | wins | verdict | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        new, old = (values(arm, claim.metric, claim.labels) for arm in (claim.new, claim.old))
        difference, low, high, verdict = judged(new, old, claim.margin)
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
            claim.because,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(found: list[float]) -> str:
    return f"{np.mean(found):.3g} ± {np.std(found, ddof=1) / len(found) ** 0.5:.2g}"


def collected(folder: Path) -> dict[str, Any]:
    """Return what runs below ``folder`` have ended with, the curves of their rounds, and what their evaluations gave."""
    runs = {}
    for run in sorted(file.parent for file in folder.rglob("config.yaml") if file.parent.name.startswith("seed")):
        results, curves = run / "results.json", _curves(run)
        ended = json.loads(results.read_text()) if results.is_file() else {"seed": int(run.name.removeprefix("seed"))}
        more = {"curves": curves, "evaluations": _evaluations(run)}
        runs[str(run.relative_to(folder))] = {**ended, **{key: found for key, found in more.items() if found}}
    return runs


def _evaluations(run: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for file in sorted(run.glob("csv/version_*/metrics.csv")):
        for row in csv.DictReader(file.read_text().splitlines()):
            for name in EVALUATED:
                if row.get(name):
                    found.setdefault(name, {})[row["step"]] = round(float(row[name]), 6)
    return found


def _curves(run: Path) -> dict[str, dict[str, float]]:
    """Return the figures after each round by the number of answers; a row without it belongs to the last one before.

    The last row counts, but not the test's, which is about other pairs: it is the second of one step.
    """
    found: dict[str, dict[str, float]] = {}
    steps: dict[tuple[str, str], str] = {}
    for file in sorted(run.glob("csv/version_*/metrics.csv")):
        labels = ""
        for row in csv.DictReader(file.read_text().splitlines()):
            labels = str(int(float(row["labels"]))) if row.get("labels") else labels
            for name in CURVES:
                if row.get(name) and labels not in ("", "0") and steps.get((name, labels)) != row["step"]:
                    steps[name, labels] = row["step"]
                    found.setdefault(name, {})[labels] = float(row[name])
    return found


def draw(name: str, metric: str) -> Path:
    """Draw what is missing to 1, on a logarithmic axis, by the questions so far: mean and standard error over seeds."""
    from matplotlib.figure import Figure

    arms: dict[str, list[dict[str, float]]] = {}
    for run, found in json.loads((RESULTS / f"{name}.json").read_text())["runs"].items():
        arms.setdefault(run.rpartition("/")[0], []).append(found["curves"][metric])
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (arm, curves) in enumerate(arms.items()):
        labels = sorted(curves[0], key=int)
        missing = 1 - np.array([[curve[at] for at in labels] for curve in curves])
        error = missing.std(0, ddof=1) / len(curves) ** 0.5
        line = "--" if "random" in arm else "-"
        axes.errorbar([int(at) for at in labels], missing.mean(0), error, ls=line, color=f"C{number}", capsize=2, label=arm)
    axes.set(xlabel="questions", ylabel=f"1 - {metric}", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    out = RESULTS.parents[1] / "docs" / "images" / f"{name}.png"
    figure.savefig(out, dpi=110)
    return out


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("--collect", type=Path, metavar="RUNS")
    parser.add_argument("--draw", metavar="NAME")
    parser.add_argument("--metric", default="reward/pearson")
    parser.add_argument("--command")
    parser.add_argument("--machine")
    options = parser.parse_args(args)
    if options.draw:
        known = sorted(file.stem for file in RESULTS.glob("*.json") if f'"{options.metric}"' in file.read_text())
        if options.draw not in known:
            parser.error(f"no results called {options.draw} have curves of {options.metric}: {', '.join(known) or 'none have'}")
        print(draw(options.draw, options.metric))
        return 0
    if options.collect is None:
        print(table())
        return 0
    if not (options.command and options.machine):
        parser.error("--collect needs --command and --machine: a result says what made it, and where")
    about = {"command": options.command, "machine": options.machine, "runs": collected(options.collect)}
    if not about["runs"]:
        parser.error(f"there is no run below {options.collect} (folders seed0, seed1 ...): nothing is written")
    (RESULTS / f"{options.collect.name}.json").write_text(json.dumps(about, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
