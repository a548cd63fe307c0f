"""The labelling page over HTTP: who gets in, what is refused and in which words; no answer is lost or counted twice."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from fake_desk import FakeClips, FakeDesk

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.labelling.interface import Key

pytest.importorskip("fastapi", reason="the page is in the web extra")
pytest.importorskip("httpx2", reason="the test client is in the dev extra")
from fastapi.testclient import TestClient
from visitor import ADDRESS, Visitor

from lightning_pbrl.labelling import security, wording
from lightning_pbrl.labelling.page import NOT_STORED, app

HTML = {"accept": "text/html"}


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
def clips(tmp_path: Path) -> FakeClips:
    return FakeClips(tmp_path / "clips")


@pytest.fixture
def anna(desk: FakeDesk, clips: FakeClips) -> Visitor:
    return Visitor(desk, clips)


# Who gets in ---------------------------------------------------------------------------------------------------------


def test_a_link_leads_to_consent_and_consent_to_the_page(desk: FakeDesk, clips: FakeClips) -> None:
    client = TestClient(app(desk, clips, task="slide <the> plate"), base_url=ADDRESS)
    token = desk.invite("Anna & Co")
    welcome = client.get(f"/join/{token}")
    assert "Welcome, Anna &amp; Co" in welcome.text and "Nothing else is stored" in welcome.text
    assert not client.cookies  # looking at a link, as mail programs do, leaves no trace
    page = client.post("/join", data={"token": token})
    assert page.status_code == 200 and "slide &lt;the&gt; plate" in page.text
    assert f'content="{security.csrf(token)}"' in page.text and token not in page.text


def test_the_cookie_is_closed_to_scripts_and_other_sites(anna: Visitor) -> None:
    cookie = anna.joined.headers["set-cookie"]
    assert anna.joined.status_code == 303 and anna.joined.headers["location"] == "/"
    assert (
        cookie.startswith("lightning_pbrl_8017=") and "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    )


@pytest.mark.parametrize("address", ["/", "/questions", "/questions/run-1/0/0", "/last", "/clips/run-1/0/0/0.webm", "/overview"])
def test_nothing_without_a_link(desk: FakeDesk, clips: FakeClips, address: str) -> None:
    client = TestClient(app(desk, clips), base_url=ADDRESS)
    for cookie in ("", "guess", "x" * 5000):
        said = client.get(address, headers={"cookie": f"lightning_pbrl_8017={cookie}", **HTML})
        assert said.status_code == 403 and security.NO_LINK in said.text
    assert client.get(address).json() == {"sentence": security.NO_LINK}


def test_an_unknown_and_a_used_up_link(desk: FakeDesk, clips: FakeClips, anna: Visitor) -> None:
    newer = desk.invite("anna")
    for token in ("unknown", anna.token):
        assert security.NO_LINK in anna.get(f"/join/{token}", **HTML).text
        assert anna.client.post("/join", data={"token": token}).status_code == 403
    assert anna.answer().status_code == 403 and desk.answers == {}
    assert anna.client.post("/join", data={"token": newer}).status_code == 303
    assert anna.answer(csrf=security.csrf(newer)).status_code == 200


def test_a_cookie_belongs_to_its_port(desk: FakeDesk, clips: FakeClips, anna: Visitor) -> None:
    assert anna.client.get("http://localhost:9000/questions").status_code == 403


# What a browser is told ----------------------------------------------------------------------------------------------


def test_headers_of_every_answer(anna: Visitor) -> None:
    for address in ("/", "/questions", "/clips/run-1/0/0/0.webm", "/static/page.js", "/nowhere"):
        headers = anna.get(address).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'") and "unsafe" not in policy
        assert policy.endswith("frame-ancestors 'none'") and not re.search(r"https?:", policy)
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
    assert anna.get("/").headers["cache-control"] == "no-store"


def test_nothing_inline_and_nothing_from_another_host(desk: FakeDesk, clips: FakeClips, anna: Visitor) -> None:
    rosa = Visitor(desk, clips, "rosa", "researcher", export=lambda: iter(()))
    pages = [anna.get("/").text, anna.get(f"/join/{anna.token}").text, rosa.get("/overview").text, anna.get("/x", **HTML).text]
    for text in pages:
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", text)
    files = [anna.get(f"/static/{name}").text for name in ("page.js", "page.css")]
    for text in [*pages, *files]:
        assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text) == []


def test_a_notebook_may_frame_the_page_when_asked(desk: FakeDesk, clips: FakeClips) -> None:
    policy = Visitor(desk, clips, framed=True).get("/").headers["content-security-policy"]
    assert policy.endswith("frame-ancestors 'self' http://localhost:* http://127.0.0.1:*")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8017", "", "127.0.0.1@evil.example", "192.168.0.1"])
def test_another_name_of_the_host(desk: FakeDesk, anna: Visitor, host: str) -> None:
    said = anna.get("/questions", host=host)
    assert said.status_code == 421 and said.text.startswith("This page is not known under that name")


def test_names_of_the_host_that_are_known(desk: FakeDesk, clips: FakeClips) -> None:
    client = TestClient(app(desk, clips, hosts=["Robot.lab"]), base_url=ADDRESS)
    for host in ("robot.LAB:80", "localhost", "127.0.0.1:1", "[::1]:8017"):
        assert client.get("/static/page.css", headers={"host": host}).status_code == 200


# Forged, oversized and too many requests -----------------------------------------------------------------------------


def test_a_wrong_csrf_token(desk: FakeDesk, clips: FakeClips, anna: Visitor) -> None:
    ben = security.csrf(desk.invite("ben"))
    for csrf in ("", "guess", ben, "ü"):
        body = {"key": "run-1/0/0", "choice": "left", "seconds": 1, "revision": 0}
        said = anna.client.post("/answers", json=body, headers={"x-csrf-token": csrf.encode()})
        assert said.status_code == 403 and said.json()["sentence"].startswith("This tab belongs to another link")
    assert desk.answers == {}


def test_posts_of_another_site(desk: FakeDesk, anna: Visitor) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:9999"):
        header = {"origin": origin, "x-csrf-token": anna.csrf}
        body = {"key": "run-1/0/0", "choice": "left", "seconds": 1, "revision": 0}
        assert anna.client.post("/answers", json=body, headers=header).status_code == 403
        assert anna.client.post("/join", data={"token": anna.token}, headers=header).status_code == 403
    assert desk.answers == {}
    assert anna.client.post("/join", data={"token": anna.token}, headers={"origin": ADDRESS}).status_code == 303


def test_the_token_of_a_tab_survives_a_restart_of_the_server(desk: FakeDesk, clips: FakeClips, anna: Visitor) -> None:
    again = TestClient(app(desk, clips), base_url=ADDRESS, cookies=anna.client.cookies)
    anna.client = again
    assert anna.answer().status_code == 200


def test_oversized_bodies(desk: FakeDesk, anna: Visitor) -> None:
    def chunks():
        for _ in range(100):
            yield b" " * 1024

    header = {"x-csrf-token": anna.csrf, "content-type": "application/json"}
    for body in (b" " * 10_000, chunks()):  # with and without a declared length
        said = anna.client.post("/answers", content=body, headers=header)
        assert said.status_code == 413 and security.TOO_LARGE in said.text
    assert anna.client.post("/join", content=b"token=" + b"x" * 10_000).status_code == 413
    assert desk.answers == {}


def test_too_many_requests(desk: FakeDesk, clips: FakeClips) -> None:
    anna = Visitor(desk, clips, rate=1.0)  # joining was the first of four
    assert [anna.get("/questions").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    said = anna.answer()
    assert said.status_code == 429 and said.headers["retry-after"] == "1" and "nothing is lost" in said.json()["sentence"]
    guesses = [anna.get(f"/join/guess{number}").status_code for number in range(6)]
    assert guesses == [403, 403, 403, 403, 429, 429]


def test_rates_forget_and_recover(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(security.time, "monotonic", lambda: clock[0])
    rates = security.Rates(rate=2, names=3)
    for _ in range(8):
        rates.check("a")
    with pytest.raises(security.Refusal):
        rates.check("a")
    clock[0] += 0.5  # one more after half a second
    rates.check("a")
    with pytest.raises(security.Refusal):
        rates.check("a")
    for name in "bcd":
        rates.check(name)
    assert len(rates._left) == 3


@pytest.mark.parametrize(
    "address",
    [
        "/clips/../../etc/passwd",
        "/clips/..%2f..%2f..%2fetc%2fpasswd",
        "/clips/run-1/0/0/..%2f..%2fsecret.webm",
        "/clips/run-1/0/0/2.webm",
        "/clips/run-1/0/0/0.py",
        "/clips/run-1/0/99/0.webm",
        "/clips/run-2/0/0/0.webm",
        "/clips/run-1/0/99999999999999999999999/0.webm",
        "/static/../page.py",
        "/static/..%2fpage.py",
        "/static/%2e%2e/page.py",
        "/docs",
        "/openapi.json",
    ],
)
def test_only_what_has_a_name_is_served(anna: Visitor, address: str) -> None:
    said = anna.get(address)
    assert said.status_code in (404, 422) and said.json().keys() == {"sentence"}


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


# Words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("The file /home/someone/a/b.npz is gone.", "The file b.npz is gone."),
        (r"The file C:\Users\someone\b.npz is gone.", "The file b.npz is gone."),
        ("~/runs/x/labels.sqlite: locked", "labels.sqlite: locked"),
        ("left/right, 3/4, run/0/1", "left/right, 3/4, run/0/1"),
    ],
)
def test_paths_are_cut(text: str, clean: str) -> None:
    assert security.without_paths(text) == clean


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("choice", ["left", "right", "equal", "skip"])
def test_a_choice_and_its_stored_value_are_inverse(number: int, choice: str) -> None:
    question = FakeDesk().questions[Key("run-1", 0, number)]
    assert wording.chosen(question, wording.stored(question, choice, 0)) == choice


def test_keys_as_text() -> None:
    key = Key("runs/a b/seed=0", 3, 12)
    assert Key.parse(str(key)) == key
    assert [Key.parse(text) for text in ("", "a/1", "a/b/1", "a/1/²", "/1/2", "a/1/-2")] == [None] * 6
