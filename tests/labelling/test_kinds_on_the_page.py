"""Graded pairs, the best of several and axes on the page: what is asked, which answers are taken, and what is stored."""

from __future__ import annotations

import pytest
from fake_desk import FakeClips, FakeDesk

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.labelling import sheet
from lightning_pbrl.labelling.interface import Key, OpenQuestion
from lightning_pbrl.labelling.wording import chosen, label, stored

pytest.importorskip("fastapi", reason="the page is in the web extra")
pytest.importorskip("httpx2", reason="the test client is in the dev extra")
from visitor import Visitor


def test_graded_pairs_on_the_page(clips: FakeClips) -> None:
    desk = FakeDesk(kinds=("graded",))
    anna = Visitor(desk, clips)
    first = anna.get("/questions").json()["questions"][0]
    assert (first["kind"], first["places"], first["strength"], first["axis"]) == ("graded", 2, None, "")
    sent = [(0, "left", 1.0), (0, "right", 0.5), (1, "left", 1.0), (1, "left", 0.5), (2, "equal", None), (3, "skip", None)]
    given = [((0.0, A)), ((0.75, A)), ((1.0, A)), ((0.75, A)), ((0.5, Status.EQUAL)), ((None, Status.SKIPPED))]
    for place, (number, choice, strength) in enumerate(sent):  # odd numbers are shown swapped
        said = anna.answer(number, choice, revision=sum(before[0] == number for before in sent[:place]), strength=strength)
        assert said.status_code == 200
        assert desk.answers["anna", Key("run-1", 0, number)][-1][:2] == given[place]
    again = anna.get("/questions/run-1/0/1").json()
    assert (again["answer"], again["strength"]) == ("left", 0.5)  # which button is pressed


A = Status.ANSWERED


def test_the_best_of_four_on_the_page(clips: FakeClips) -> None:
    desk = FakeDesk(kinds=("best",))
    anna = Visitor(desk, clips)
    first = anna.get("/questions").json()["questions"][0]
    assert (first["kind"], first["places"], len(first["clips"]), first["levels"]) == ("best", 4, 4, 0)
    assert anna.answer(0, 2).status_code == anna.answer(1, 0).status_code == 200
    stored_ = [desk.answers["anna", Key("run-1", 0, number)][-1][:2] for number in (0, 1)]
    assert stored_ == [(2.0, A), (3.0, A)]  # the second question is shown in reverse
    assert anna.get("/questions/run-1/0/1").json()["answer"] == 0
    for choice in (4, -1, "left", "equal"):
        said = anna.answer(2, choice)
        assert said.status_code == 422 and said.json()["sentence"].startswith("The best clip is a number from 1 to 4, or 'cannot")
    assert anna.answer(2, "skip").status_code == 200
    assert anna.get("/clips/run-1/0/0/3.webm").status_code == 200 and anna.get("/clips/run-1/0/0/4.webm").status_code == 404


def test_an_axis_is_told(clips: FakeClips) -> None:
    anna = Visitor(FakeDesk(kinds=("pair:safety",)), clips)
    first = anna.get("/questions").json()["questions"][0]
    assert (first["kind"], first["axis"]) == ("pair", "safety")


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", ["graded", "best", "pair:speed"])
def test_a_choice_and_its_label_are_inverse(kind: str, swapped: bool) -> None:
    question = OpenQuestion(Key("a", 0, 0), kind, 10, (0, 20, 40) if kind == "best" else (0, 20), swapped)
    choices = (0, 1, 2, "skip") if kind == "best" else ("left", "right", "equal", "skip")
    for choice in choices:
        for strength in (0.5, 1.0):
            value, status = stored(question, choice, 0, strength)
            assert chosen(question, (value, status)) == choice


def test_labels_in_words_for_the_researcher() -> None:
    question = OpenQuestion(Key("a", 0, 0), "best", 10, (0, 20, 40), True, answer=(2.0, A))
    assert label(question) == {
        "sentence": "Clip 3 is best", "places": ["Clip 1", "Clip 2", "Clip 3"], "chosen": [2], "mark": "best",
    }  # fmt: skip
    graded = label(OpenQuestion(Key("a", 0, 0), "graded", 10, (0, 20), True, answer=(0.0, A)))
    assert graded["sentence"] == "The first clip is much better" and graded["chosen"] == [0]
    assert sheet._answer("graded", 0.75, A) == "second is better" and sheet._answer("best", 3.0, A) == "clip 4 is best"
    assert sheet._answer("pair:safety", 1.0, A) == "second is better in safety"
    nobody = label(OpenQuestion(Key("a", 0, 0), "best", 10, (0, 20, 40), False, answer=(None, Status.SKIPPED)))
    assert nobody["sentence"] == "Nobody could tell" and len(nobody["places"]) == 3
