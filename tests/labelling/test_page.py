"""The labelling page over HTTP: clips, answers, overview, words; no answer is lost or counted twice."""

from __future__ import annotations

import re
import threading

import pytest
from fake_desk import FakeClips, FakeDesk

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.labelling.interface import Key

pytest.importorskip("fastapi", reason="the page is in the web extra")
pytest.importorskip("httpx2", reason="the test client is in the dev extra")
from visitor import Visitor

from lightning_pbrl.labelling import wording
from lightning_pbrl.labelling.page import NOT_STORED

HTML = {"accept": "text/html"}

# Clips ---------------------------------------------------------------------------------------------------------------


def test_range_requests(anna: Visitor) -> None:
    whole = anna.get("/clips/run-1/0/0/0.webm")
    assert (whole.status_code, whole.headers["content-type"], len(whole.content)) == (200, "video/webm", 2048)
    assert whole.headers["accept-ranges"] == "bytes"
    part = anna.get("/clips/run-1/0/0/0.mp4", range="bytes=256-259")
    assert (part.status_code, part.content) == (206, bytes([0, 1, 2, 3]))
    assert (part.headers["content-range"], part.headers["content-type"]) == ("bytes 256-259/2048", "video/mp4")
    assert anna.get("/clips/run-1/0/0/0.webm", range="bytes=-2").content == bytes([254, 255])
    assert anna.get("/clips/run-1/0/0/0.webm", range="bytes=9999-").status_code == 416


def test_sides_are_swapped_for_the_clips_and_for_the_answer(desk: FakeDesk, clips: FakeClips, anna: Visitor) -> None:
    (clips.folder / "0.webm").write_bytes(b"first")
    (clips.folder / "1.webm").write_bytes(b"second")
    shown = [[anna.get(f"/clips/run-1/0/{number}/{place}.webm").content for place in (0, 1)] for number in (0, 1)]
    assert shown == [[b"first", b"second"], [b"second", b"first"]]
    for number, choice in ((0, "left"), (1, "left"), (2, "right"), (3, "right")):
        assert anna.answer(number, choice).status_code == 200
    assert desk.given() == {0: [0.0], 1: [1.0], 2: [1.0], 3: [0.0]}


def test_a_clip_that_is_being_made(clips: FakeClips, anna: Visitor) -> None:
    clips.making.add(0)
    assert anna.get("/questions/run-1/0/0").json()["waiting"]
    said = anna.get("/clips/run-1/0/0/0.webm")
    assert said.status_code == 404 and "still being made" in said.json()["sentence"]
    clips.making.clear()
    assert not anna.get("/questions/run-1/0/0").json()["waiting"]
    (clips.folder / "0.webm").unlink()  # swept away between the question and its clip
    assert anna.get("/clips/run-1/0/0/0.webm").status_code == 404


def test_a_clip_that_cannot_be_drawn(clips: FakeClips, anna: Visitor) -> None:
    clips.impossible.add(0)
    question = anna.get("/questions").json()["questions"][0]
    assert question["sentence"] == "The data of run.npz have no simulator states, so no clip can be drawn."
    assert question["clips"] == [] and not question["waiting"]
    assert "someone" not in anna.get("/clips/run-1/0/0/0.webm").text
    assert anna.answer(0, "skip").status_code == 200


# Answers -------------------------------------------------------------------------------------------------------------


def test_questions_and_progress(anna: Visitor) -> None:
    said = anna.get("/questions").json()
    assert [question["key"] for question in said["questions"]] == ["run-1/0/0", "run-1/0/1"]
    assert said["progress"]["text"] == "0 of 5, the model waits for 5"
    assert [q["key"] for q in anna.get("/questions?without=run-1/0/0").json()["questions"]] == ["run-1/0/1", "run-1/0/2"]
    assert anna.get("/questions?without=nonsense").status_code == 404


def test_nobody_is_told_which_segment_is_stored_first(anna: Visitor) -> None:
    first, second = anna.get("/questions").json()["questions"]  # the second is swapped
    assert {name: first[name] for name in first if first[name] != second[name]}.keys() == {"key", "clips"}
    assert not {"swapped", "start", "expected"} & first.keys()


def test_every_answer_of_a_pair(desk: FakeDesk, anna: Visitor) -> None:
    said = anna.answer(0, "left").json()
    assert (said["how"], said["sentence"], said["feedback"]) == ("kept", "", None)
    assert said["progress"]["text"] == "1 of 5, the model waits for 4"
    anna.answer(2, "equal")
    anna.answer(4, "skip")
    stored = {key.number: given[-1] for (_, key), given in desk.answers.items()}
    assert stored == {0: (0.0, Status.ANSWERED, 1.5), 2: (0.5, Status.EQUAL, 1.5), 4: (None, Status.SKIPPED, 1.5)}


def test_strength_of_a_preference(desk: FakeDesk, clips: FakeClips, anna: Visitor) -> None:
    assert 'name="strength" content="no"' in anna.get("/").text and '<div class="graded" hidden>' in anna.get("/").text
    ben = Visitor(desk, clips, "ben", strength=True)
    assert "the left clip is much better" in ben.get("/").text and 'name="strength" content="yes"' in ben.get("/").text
    for number, (choice, strength) in enumerate([("left", 1.0), ("right", 0.5), ("equal", 0.5), ("skip", 1.0), ("left", None)]):
        assert ben.answer(number, choice, strength=strength).status_code == 200
    stored = {key.number: strength for (_, key), strength in desk.strengths.items()}
    assert stored == {0: 1.0, 1: 0.5, 2: None, 3: None, 4: None}
    assert ben.get("/questions/run-1/0/0").json()["strength"] == 1.0


def test_ratings(clips: FakeClips) -> None:
    desk = FakeDesk(kinds=("rating",))
    anna = Visitor(desk, clips)
    assert anna.get("/questions").json()["questions"][0]["levels"] == 6
    assert [anna.get(f"/clips/run-1/0/0/{place}.webm").status_code for place in (0, 1)] == [200, 404]
    assert [anna.answer(0, 0).status_code, anna.answer(1, 5).status_code, anna.answer(2, "skip").status_code] == [200] * 3
    for choice in (6, -1, "equal", "left"):
        said = anna.answer(3, choice)
        assert said.status_code == 422 and said.json()["sentence"].startswith("A rating is a number from 1 to 6")
    assert desk.given() == {0: [0.0], 1: [5.0], 2: [None]}
    assert anna.get("/last").json()["answer"] == "skip"


@pytest.mark.parametrize(
    "wrong",
    [
        {"choice": 1},
        {"choice": "both"},
        {"choice": True},
        {"choice": None},
        {"seconds": -1},
        {"seconds": "nan"},
        {"revision": -1},
        {"revision": 2**40},
        {"key": "run-1/0"},
        {"key": "run-1/0/-1"},
        {"key": "x" * 500},
        {"more": 1},
        {"strength": 1.5},
        {"strength": -0.1},
        {"strength": "nan"},
        {"repeat": True},
    ],
)
def test_answers_out_of_range(desk: FakeDesk, anna: Visitor, wrong: dict) -> None:
    said = anna.answer(**wrong)
    assert said.status_code in (404, 422) and said.json()["sentence"].endswith(".") and desk.answers == {}


def test_bodies_that_are_not_answers(desk: FakeDesk, anna: Visitor) -> None:
    for body in (b"", b"{", b"[]", b"null", b"\xff", b'{"choice": NaN}', b"[" * 4000):
        header = {"x-csrf-token": anna.csrf, "content-type": "application/json"}
        said = anna.client.post("/answers", content=body, headers=header)
        assert said.status_code in (400, 422) and said.json().keys() == {"sentence"}
    assert desk.answers == {}


def test_a_repeated_answer_counts_once(desk: FakeDesk, anna: Visitor) -> None:
    assert [anna.answer().json()["how"] for _ in range(3)] == ["kept", "again", "again"]
    assert anna.get("/questions").json()["progress"]["answered"] == 1 and desk.given() == {0: [0.0]}


def test_two_tabs_the_first_answer_stands(desk: FakeDesk, anna: Visitor) -> None:
    anna.answer(0, "left")
    said = anna.answer(0, "right")
    assert said.status_code == 409 and said.json()["how"] == "late" and "another tab" in said.json()["sentence"]
    assert desk.given() == {0: [0.0]}


def test_undo_is_a_revision(desk: FakeDesk, anna: Visitor) -> None:
    assert anna.get("/last").json()["sentence"] == "There is no answer of yours to undo yet."
    anna.answer(0, "left")
    anna.answer(1, "right")  # shown swapped
    last = anna.get("/last").json()
    assert (last["key"], last["answer"], last["revision"]) == ("run-1/0/1", "right", 1)
    assert anna.answer(1, "equal", revision=1).json()["how"] == "kept"
    assert anna.answer(1, "left", revision=1).json()["how"] == "late"
    assert desk.given() == {0: [0.0], 1: [0.0, 0.5]} and anna.get("/last").json()["answer"] == "equal"


def test_a_question_that_was_closed_or_does_not_exist(desk: FakeDesk, anna: Visitor) -> None:
    desk.close(Key("run-1", 0, 0))
    said = anna.answer(0)
    assert said.status_code == 409 and said.json()["sentence"].startswith("This question was closed meanwhile")
    assert anna.answer(99).status_code == 404 and desk.answers == {}


def test_a_desk_that_fails_for_a_while(desk: FakeDesk, anna: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    desk.failing = "The label store /home/someone/run/labels.sqlite cannot take this answer because its disk is full."
    said = anna.answer()
    assert (said.status_code, said.json(), said.headers["retry-after"]) == (503, {"sentence": NOT_STORED}, "1")
    assert desk.failing in caplog.text  # the researcher's terminal says why
    desk.failing = None
    assert anna.answer().json()["how"] == "kept"


def test_practice_tells_the_expected_answer_afterwards(clips: FakeClips) -> None:
    desk = FakeDesk(practice=2)
    anna = Visitor(desk, clips)
    first = anna.get("/questions").json()["questions"][0]
    assert first["practice"] and "expected" not in first
    assert anna.answer(0, "right").json()["feedback"] == {"right": True, "sentence": "Right."}
    wrong = anna.answer(1, "right").json()["feedback"]  # shown swapped: expected is the left
    assert wrong == {"right": False, "sentence": "Not quite. The expected answer is the left clip."}
    assert anna.answer(2, "left").json()["feedback"] is None


def test_many_people_at_once(clips: FakeClips) -> None:
    """Everyone answers everything, each answer is sent twice at the same time: all are stored, none twice."""
    desk = FakeDesk(count=10)
    people = [Visitor(desk, clips, f"person{number}") for number in range(8)]

    def work(visitor: Visitor) -> None:
        for number in range(10):
            visitor.answer(number, "equal")

    threads = [threading.Thread(target=work, args=(visitor,)) for visitor in people for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: desk.given(name) for name in desk.order} == {
        f"person{each}": {number: [0.5] for number in range(10)} for each in range(8)
    }


# Overview ------------------------------------------------------------------------------------------------------------


def test_the_overview_is_for_researchers(desk: FakeDesk, clips: FakeClips, anna: Visitor) -> None:
    for address in ("/overview", "/overview/export"):
        assert "for the researcher" in anna.get(address, **HTML).text
    assert anna.client.post("/overview/close", data={"csrf": anna.csrf, "what": "all", "closed": "yes"}).status_code == 403
    assert not desk.paused


def test_the_overview(desk: FakeDesk, clips: FakeClips, anna: Visitor) -> None:
    rosa = Visitor(desk, clips, "rosa", "researcher", export=lambda: iter(['{"a": 1}\n', '{"a": 2}\n']))
    assert rosa.joined.headers["location"] == "/overview"
    assert "Nobody has answered yet." in rosa.get("/overview").text
    anna.answer(0, "left")
    anna.answer(1, "skip")
    text = re.sub(r"<[^>]+>", " ", rosa.get("/overview").text)
    assert " ".join(text.split("Repeats alike")[1].split()).startswith("anna 2 1.5 s 50 % 100 % – –")
    assert "0.62" in text
    export = rosa.get("/overview/export")
    assert export.text == '{"a": 1}\n{"a": 2}\n' and 'filename="labels.jsonl"' in export.headers["content-disposition"]
    assert Visitor(desk, clips, "ron", "researcher").get("/overview/export").status_code == 404


def test_pausing_and_closing(desk: FakeDesk, clips: FakeClips, anna: Visitor) -> None:
    rosa = Visitor(desk, clips, "rosa", "researcher")

    def post(csrf: str = rosa.csrf, **form: str) -> int:
        return rosa.client.post("/overview/close", data={"csrf": csrf, **form}).status_code

    assert post(what="all", closed="yes") == 303 and desk.paused
    assert anna.get("/questions").json()["questions"] == []
    assert "Asking is paused" in rosa.get("/overview").text
    assert post(what="all", closed="no") == 303 and not desk.paused
    assert post(what="one", key=" run-1/0/0 ", closed="yes") == 303 and desk.closed == {Key("run-1", 0, 0)}
    assert anna.get("/questions").json()["questions"][0]["key"] == "run-1/0/1"
    assert post(what="one", key="run-1/0/0", closed="no") == 303 and desk.closed == set()
    assert [post(what="one", key="run-1/0/77", closed="yes"), post(what="one", key="nonsense", closed="yes")] == [404, 404]
    assert [post(what="one", closed="yes"), post(closed="yes"), post(what="all", csrf="x", closed="yes")] == [422, 422, 403]
    assert desk.closed == set() and not desk.paused


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("choice", ["left", "right", "equal", "skip"])
def test_a_choice_and_its_stored_value_are_inverse(number: int, choice: str) -> None:
    question = FakeDesk().questions[Key("run-1", 0, number)]
    assert wording.chosen(question, wording.stored(question, choice, 0)) == choice


def test_keys_as_text() -> None:
    key = Key("runs/a b/seed=0", 3, 12)
    assert Key.parse(str(key)) == key
    assert [Key.parse(text) for text in ("", "a/1", "a/b/1", "a/1/²", "/1/2", "a/1/-2")] == [None] * 6
