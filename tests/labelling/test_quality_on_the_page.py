"""Practice, checks and repeats over HTTP: the page carries along what a question is for, and tells nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from desks import A, asked, desk, key, labels
from fake_desk import FakeClips

pytest.importorskip("fastapi", reason="the page is in the web extra")
pytest.importorskip("httpx2", reason="the test client is in the dev extra")
from visitor import Visitor

from lightning_pbrl.labelling import serve


def test_a_whole_questionnaire(tmp_path: Path) -> None:
    store = asked(tmp_path, 40)
    here = desk(tmp_path, gold="Gina", practice=2, check_every=5, repeat_every=4)
    for number in range(6):
        here.answer("Gina", key(number), 1.0, A)
    clips = FakeClips(tmp_path / "clips")
    (clips.folder / "0.webm").write_bytes(b"first")
    bob, told, sides = Visitor(here, clips, "Bob", run="ada"), list[dict](), dict[str, set[str]]()
    while questions := bob.get("/questions").json()["questions"]:
        question = questions[0]
        assert {name for name, value in question.items() if value is True} <= {"practice", "repeat"}
        assert bob.get(f"/questions/{question['key']}?repeat={question['repeat']}").json() == question
        left = bob.get(question["clips"][0]["webm"]).content == b"first"
        sides.setdefault(question["key"], set()).add("first on the left" if left else "second on the left")
        given = {"choice": "right" if left else "left", "repeat": question["repeat"], "revision": question["revision"]}
        said = bob.answer(int(question["key"].rpartition("/")[2]), **given).json()
        assert said["how"] == "kept" and (said["feedback"] is not None) == question["practice"]
        told.append(question)
    assert [each["practice"] for each in told[:3]] == [True, True, False]
    repeats = [each["key"] for each in told if each["repeat"]]
    assert len(repeats) > 3 and any(len(sides[each]) == 2 for each in repeats)
    purposes = [row["purpose"] for row in here.answers() if row["person"] == "Bob"]
    assert purposes.count("label") == 34 and purposes.count("check") == 4 and purposes.count("repeat") == len(repeats)
    (summary, _) = here.overview().people
    assert (summary.gold, summary.consistency, summary.answers) == (1.0, 1.0, 34)  # always the second, on whatever side
    assert labels(store) == [(1.0, A)] * 40 and here.progress("Bob").answered == 34


def test_what_is_undone_is_the_repeat(tmp_path: Path) -> None:
    asked(tmp_path, 30)
    here = desk(tmp_path, repeat_every=2)
    bob = Visitor(here, FakeClips(tmp_path / "clips"), "Bob", run="ada")
    while not (question := bob.get("/questions").json()["questions"][0])["repeat"]:
        bob.answer(int(question["key"].rpartition("/")[2]), "equal")
    number = int(question["key"].rpartition("/")[2])
    assert question["answer"] is None and question["revision"] == 0
    assert bob.answer(number, "left", repeat=True).json()["how"] == "kept"
    last = bob.get("/last").json()
    assert (last["key"], last["repeat"], last["answer"], last["revision"]) == (question["key"], True, "left", 1)
    assert bob.answer(number, "equal", repeat=True, revision=1).json()["how"] == "kept"
    assert bob.answer(29, "left", repeat=True).status_code == 404  # forged: never answered
    assert here.overview().people[0].consistency == 1.0


def test_settings_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    page: dict[str, Any] = {}
    desks: list[dict[str, Any]] = []

    def opened(store: str, **settings: Any) -> tuple[Any, Any]:
        desks.append(settings)
        return None, None

    monkeypatch.setattr(serve, "label", lambda desk, clips, people, **settings: page.update(settings))
    serve.label_command(["runs/a"], opened)
    assert desks == [{}] and page["strength"] is False
    words = "--gold Gina --practice 3 --check-every 9 --repeat-every 8 --run a --strength"
    serve.label_command(["runs/a", *words.split()], opened)
    assert (
        desks[1] == {"gold": "Gina", "practice": 3, "check_every": 9, "repeat_every": 8, "run": "a"} and page["strength"] is True
    )
