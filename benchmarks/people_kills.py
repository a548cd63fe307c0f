"""Kill trainer and page while a person answers, go on, and look for what was lost.

    python -m benchmarks.people_kills [--page 210] [--trainer 60] [--runs all half none] [--seed 0] [--out FILE]

A run of ``lightning-pbrl fit`` asks a person (``HumanTeacher``); ``lightning-pbrl label`` serves the questions. A person answers
over HTTP as the script on the page does: by the link, with cookie and CSRF token, again and again until the answer is confirmed.
Each confirmation is on disk in a log of the person's own before the next question is taken. Meanwhile either process is
killed at random moments and started again: the page between two bytes of a request, while it stores an answer, and in between;
the trainer during a submission, while it learns and asks, and as it starts.

Three runs are taught so: one whose rounds wait for all answers, one whose rounds go on with half of them, and one whose rounds
wait for none. In the latter two the person also changes answers given before. At the end:

- *lost*: confirmed answers that are not in the store exactly once with that value, or do not make the label;
- *asked twice*: questions that were shown again after a confirmation, or changed what they ask; a budget that is not exact;
- *weights*: bit for bit, with optimiser states, those of a run in a new folder that nobody disturbs: with the recorded answers
  given anew through the page (first run), and with a copy of the store, whose marks say what each round has seen (all runs).

Processes are forked from one that has imported everything; no films are drawn.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import shutil
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.kills import at_home, outcome
from benchmarks.measure import machine
from benchmarks.people_taught import PER_ROUND, PERSON, Killer, Process, Run

RESULT = Path(__file__).parent / "results" / "people-kills.json"

ARMS = (("all", "all", 0.55, 0.0), ("half", "0.5", 0.5, 0.15), ("none", "none", 1.0, 0.15))
"""Runs: name, ``wait``, share of the kills that are left, and share of the answers that are changed later."""


def checked(run: Run) -> dict[str, Any]:
    """Return what was lost or asked twice, and the numbers beside it."""
    from lightning_pbrl.data.feedback import Status
    from lightning_pbrl.labelling.interface import Key
    from lightning_pbrl.labelling.questions import is_swapped

    def stored(key: str, choice: str) -> tuple[float | None, int]:
        if choice in ("equal", "skip"):
            return (0.5, int(Status.EQUAL)) if choice == "equal" else (None, int(Status.SKIPPED))
        parsed = Key.parse(key)
        assert parsed is not None
        return float((choice == "right") != is_swapped(parsed, PERSON)), int(Status.ANSWERED)

    name = "{run}/{round}/{number}".format_map
    answers: dict[tuple[str, int], list[tuple[Any, int]]] = {}
    for row in run.rows("pbrl_answers"):
        answers.setdefault((name(row), row["revision"]), []).append((row["value"], row["status"]))
    questions = run.rows("pbrl_questions")
    labels = {name(row): (row["value"], row["status"]) for row in questions}
    given = [json.loads(line) for line in (run.out / "person.jsonl").read_text().splitlines()]
    lost = [each for each in given if answers.get((each["key"], each["revision"])) != [stored(each["key"], each["choice"])]]
    newest = {each["key"]: stored(each["key"], each["choice"]) for each in given}
    lost += [{"key": key, "label": labels.get(key)} for key, answer in newest.items() if labels.get(key) != answer]
    strangers = sorted(set(answers) - {(each["key"], each["revision"]) for each in given})
    twice = [*run.shown_again, *run.changed_questions]
    exact = sorted(row["number"] for row in questions) == list(range(run.budget)) and len(newest) == run.budget
    return {
        "wait": run.wait,
        "budget": run.budget,
        "questions": len(questions),
        "budget_exact": exact,
        "rounds": len({row["round"] for row in questions}),
        "rounds_that_saw_new_answers": len({row["outcome"] for row in run.rows("pbrl_marks", order="round")} - {0}),
        "answers_confirmed": len(given),
        "of_these_changes": sum(each["revision"] > 0 for each in given),
        "stored_before_the_page_could_confirm": run.stored_unconfirmed,
        "refused_as_late": run.late,
        "lost": lost,
        "never_given": strangers,
        "asked_twice": twice,
        "kills": dict(sorted(run.killer.done.items())) if run.killer else {},
        "starts": {"trainer": run.trainer.starts, "page": run.page.starts},
    }


def replayed(run: Run) -> Path:
    """Repeat the run undisturbed from a copy of the store, whose answers and marks are all there; return its folder."""
    copy = run.out / "replayed.sqlite"
    shutil.copy(run.store, copy)
    for _ in range(100):  # a run that ended because answers were missing ends so again, and goes on
        again = Process(run.fit_args("replayed", copy), run.out / "replayed.txt")
        if (code := again.forked.wait()) != 2:
            break
    if code:
        raise SystemExit(f"The replay ended with {code}: {again.said()[-3000:]}")
    return run.out / "replayed"


def learned(run: Run) -> list[tuple[Any, ...]]:
    """Return all questions with their labels, without times."""
    return [tuple(value for column, value in row.items() if column != "time") for row in run.rows("pbrl_questions")]


def unequal(run: Path, other: Path) -> list[str]:
    """Return the names of what two runs have ended with and differs: weights, optimiser states, counts."""
    ours, theirs = outcome(run), outcome(other)
    return sorted(name for name in {**ours, **theirs} if name not in ours or name not in theirs or ours[name] != theirs[name])


def killed(home: Path, name: str, wait: str, budget: int, killer: Killer, seed: int, changes: float) -> dict[str, Any]:
    """Teach a run while it is killed, then compare it with undisturbed ones; plain JSON."""
    began = time.monotonic()
    run = Run(home, name, wait, budget, seed, killer, changes=changes)
    run.teach()
    row = checked(run) | {"seconds": round(time.monotonic() - began, 1)}
    print(f"{name}: {row}", file=sys.stderr, flush=True)
    row["unequal_to_replay_of_the_store"] = unequal(run.out / "run", replayed(run))
    if wait == "all":
        quiet = Run(home, f"{name}-anew", wait, budget, seed, recorded={key: given[0] for key, given in run.confirmed.items()})
        quiet.teach()
        row["unequal_to_the_answers_given_anew"] = unequal(run.out / "run", quiet.out / "run")
        row["unequal_to_the_answers_given_anew"] += [] if learned(quiet) == learned(run) else ["questions"]
    return row


def main(arguments: list[str] | None = None) -> int:
    """Run all; exit code 1 when anything was lost, asked twice or unequal."""
    parser = argparse.ArgumentParser("python -m benchmarks.people_kills", description=__doc__)
    parser.add_argument("--page", type=int, default=210, help="kills of the page (default 210)")
    parser.add_argument("--trainer", type=int, default=60, help="kills of the trainer (default 60)")
    parser.add_argument(
        "--rounds", type=int, default=20, help="rounds of ten questions; half as many in the other two runs (default 20)"
    )
    parser.add_argument("--runs", nargs="+", default=[each[0] for each in ARMS], choices=[each[0] for each in ARMS])
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and the answers")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder, removed at the end)")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    out = options.out.resolve()
    began = time.monotonic()
    with at_home(options.folder) as home:
        import uvicorn as _uvicorn  # noqa: F401

        from lightning_pbrl import label_cli as _label  # noqa: F401
        from lightning_pbrl.labelling import page as _page  # noqa: F401

        rows, left = {}, {"page": options.page, "trainer": options.trainer}
        for number, (arm, wait, part, changes) in enumerate(ARMS):
            if arm not in options.runs:
                continue
            budget = PER_ROUND * (options.rounds if wait == "all" else options.rounds // 2)
            own = {who: round(part * kills) for who, kills in left.items()}
            killer = Killer(own["page"], own["trainer"], budget, random.Random(options.seed + number))
            rows[arm] = killed(home, arm, wait, budget, killer, options.seed + number, changes)
            left = {who: kills - own[who] + getattr(killer, who) for who, kills in left.items()}
        # they learn from other answers, so they must differ
        controls = [len(unequal(home / one / "run", home / two / "run")) for one, two in pairwise(rows)]
    bad = ("lost", "never_given", "asked_twice", "unequal_to_replay_of_the_store", "unequal_to_the_answers_given_anew")
    wrong = sum(len(row.get(what, ())) for row in rows.values() for what in bad)
    wrong += sum(not row["budget_exact"] for row in rows.values())
    total = sum(sum(row["kills"].values()) for row in rows.values())
    wrong += controls.count(0)
    content = {"machine": machine("python -m benchmarks.people_kills"), "seed": options.seed, "kills": total, "wrong": wrong}
    content["entries_unequal_between_two_runs"] = controls
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**content, "seconds": round(time.monotonic() - began), "runs": rows}, indent=1) + "\n")
    for arm, row in rows.items():
        print(f"{arm}: {row}")
    print(f"{total} kills, {wrong} wrong: {out}")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
