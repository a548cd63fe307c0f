"""The benchmarks of people run, their checks find faults, and the simulated clock counts what can be counted by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import ToyData
from warm import CONTEXT, say_to

pytest.importorskip("fastapi")

from benchmarks.people_kills import checked
from benchmarks.people_taught import PERSON, Killer, Process, Run
from lightning_pbrl.data.feedback import Answer, AskKey, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.interface import Key
from lightning_pbrl.labelling.questions import is_swapped


def ask(store: Path, count: int, first: int = 0) -> None:
    """Write open questions of round 0 about segments of the toy's data."""
    start = torch.arange(first, first + count)
    query = Query("pair", torch.stack([start, start + 30], 1), 10)
    pending = Answer(torch.full((count,), torch.nan), torch.full((count,), int(Status.PENDING)))
    who: dict[str, Any] = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "people"}
    LabelStore(store, ToyData().load().fingerprint, "seed0").put(AskKey("seed0", 0, first), query, pending, **who)


def taught(folder: Path, told: list[tuple[int, str, int]]) -> Run:
    """Return a run whose person has noted these answers: number, choice and revision."""
    run = Run(folder, "run", "all", 2, seed=0)
    run.trainer = run.page = SimpleNamespace(starts=1)  # type: ignore[assignment]
    for number, choice, revision in told:
        run.log.write(json.dumps({"key": f"seed0/0/{number}", "choice": choice, "revision": revision, "how": "kept"}) + "\n")
    run.log.close()
    return run


def test_a_run_in_which_nothing_is_lost(tmp_path: Path) -> None:
    run = taught(tmp_path, [(0, "left", 0), (1, "skip", 0), (1, "equal", 1)])
    ask(run.store, 2)
    first = Key("seed0", 0, 0)
    Desk(run.store).answer(PERSON, first, float(is_swapped(first, PERSON)), Status.ANSWERED)
    Desk(run.store).answer(PERSON, Key("seed0", 0, 1), None, Status.SKIPPED)
    Desk(run.store).answer(PERSON, Key("seed0", 0, 1), 0.5, Status.EQUAL, revision=1)
    row = checked(run)
    assert (row["lost"], row["never_given"], row["asked_twice"], row["budget_exact"]) == ([], [], [], True)
    assert (row["answers_confirmed"], row["of_these_changes"]) == (3, 1)


def test_what_is_lost_or_asked_twice_is_found(tmp_path: Path) -> None:
    run = taught(tmp_path, [(0, "left", 0)])
    ask(run.store, 1)
    key = Key("seed0", 0, 0)
    lost = checked(run)  # nothing is stored: neither the answer nor the label
    assert [sorted(each) for each in lost["lost"]] == [["choice", "how", "key", "revision"], ["key", "label"]]
    assert not lost["budget_exact"]
    Desk(run.store).answer(PERSON, key, float(not is_swapped(key, PERSON)), Status.ANSWERED)  # the other side
    assert len(checked(run)["lost"]) == 2
    Desk(run.store).answer(PERSON, key, 0.5, Status.EQUAL, revision=1)
    assert checked(run)["never_given"] == [("seed0/0/0", 1)]
    run.snapshot()
    run.asked[0, 0] = (5, 6)
    run.snapshot()
    assert checked(run)["asked_twice"] == ["(0, 0): (5, 6), then (0, 30)"]


def test_kills_are_spread_over_the_answers(tmp_path: Path) -> None:
    import random

    killer = Killer(page=0, trainer=30, answers=30, rng=random.Random(0))
    wanted = sum(killer.wants("trainer") for _ in range(2000)) / 2000
    assert wanted == pytest.approx(0.5, abs=0.04)  # one a submission, whose repetitions may be hit again: 0.5 + 0.25 + ...
    assert not any(killer.wants("page") for _ in range(100))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "labels.sqlite"
    ask(path, 3)
    return path


def test_a_person_takes_four_seconds_an_answer(store: Path) -> None:
    wait = pytest.importorskip("benchmarks.people_wait")
    source = ToyData().load()
    person = wait.Person(source, 4.0)
    person.work(store, 10.0, 17.9)  # 14, 18, 22
    assert (person.given, person.free) == (1, 14.0)
    person.work(store, 17.9, 18.0)
    assert (person.given, person.free) == (2, 18.0)
    person.work(store, 18.0, 100.0)
    ask(store, 1, first=3)
    person.work(store, 30.0, 33.9)  # asked at 30, when the person was free since 22
    assert (person.given, person.free) == (3, 22.0)
    person.work(store, 33.9, 34.0)
    assert (person.given, person.free) == (4, 34.0)
    true = source.true_returns(Query("pair", torch.tensor([[0, 30]]), 10))[0]
    assert Desk(store).answers()[0]["value"] == float(true[1] > true[0])


def test_waiting_takes_time_and_not_waiting_takes_none(store: Path) -> None:
    wait = pytest.importorskip("benchmarks.people_wait")
    teacher = wait.ClockedTeacher(wait="all")
    teacher.clock = wait.Clock("all 0", wait.Person(ToyData().load(), 4.0), store, 16.0)
    assert not teacher.enough(3, 0, usable=0)
    assert teacher.enough(3, 3, usable=3)
    assert (teacher.clock.now, teacher.clock.waited) == (12.0, 12.0)
    ask(store, 3, first=3)
    teacher.wait = "none"
    assert teacher.enough(3, 0, usable=3)
    assert (teacher.clock.now, teacher.clock.waited, teacher.clock.person.given) == (12.0, 12.0, 3)


def test_times_to_a_level() -> None:
    wait = pytest.importorskip("benchmarks.people_wait")
    curves = {
        "all": [(32, 0.0), (64, 0.9), (96, 0.4), (128, 0.8), (160, 0.9)],
        "none": [(16, 0.0), (32, 0.6), (48, 0.8), (64, 0.8), (80, 0.7)],
    }
    runs = [
        {"seed": 0, "arm": arm, "curve": [{"seconds": seconds, "success": success} for seconds, success in curve]}
        for arm, curve in curves.items()
    ]
    half, most, end = wait.compared(runs, (0.5, 0.8))
    assert (half["all"], half["none"], half["times_faster"]) == (128, 32, 4.0)
    assert (most["all"], most["none"]) == (128, 48)
    assert (end["level"], end["lower_end"], end["all"], end["none"]) == (0.7, True, 128, 48)


@pytest.mark.slow
def test_both_arms_run(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = pytest.importorskip("benchmarks.people_wait")
    monkeypatch.setattr(wait, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))  # --jobs changes no number
    out = tmp_path / "wait.json"
    assert wait.main(["--quick", "--seeds", "1", "--data", str(tmp_path), "--folder", str(tmp_path), "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    learned = {run["arm"]: [row["learned_from"] for row in run["curve"]] for run in result["runs"]}
    seconds = {run["arm"]: [row["seconds"] for row in run["curve"]] for run in result["runs"]}
    assert (learned["all"], seconds["all"]) == ([2, 4, 4, 4], [16, 32, 40, 48])
    assert (learned["none"], seconds["none"]) == ([1, 2, 4, 4], [12, 20, 28, 36])  # the first answer is waited for


def kills(arguments: list[str], said: Path) -> None:
    """Run the benchmark in a process that may be forked: it holds no threads."""
    from benchmarks.people_kills import main

    say_to(said)
    sys.exit(main(arguments))


@pytest.mark.slow
def test_kills_lose_nothing(tmp_path: Path) -> None:
    out, said = tmp_path / "kills.json", tmp_path / "said.txt"
    few = ["--page", "4", "--trainer", "2", "--rounds", "2", "--folder", str(tmp_path / "runs"), "--out", str(out)]
    process = CONTEXT.Process(target=kills, args=(few, said))
    process.start()
    process.join(600)
    assert process.exitcode == 0, said.read_text()[-3000:]
    result = json.loads(out.read_text())
    assert result["wrong"] == 0 and result["kills"] >= 3 and [run["questions"] for run in result["runs"].values()] == [20, 10, 10]


def test_a_process_is_killed_once(tmp_path: Path) -> None:
    process = Process.__new__(Process)
    process.forked = subprocess.Popen(["sleep", "60"])  # type: ignore[assignment]
    assert process.kill() and process.code == -9 and not process.kill()
