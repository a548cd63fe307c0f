"""A vision endpoint against a stub that answers as such servers do: answers, refusals, errors, time-outs."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import imageio.v3 as imageio
import pytest
import torch
from asking_clips import questions
from vision_server import Reply, Stub, refusal, said, serving

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import question_keys, uniform
from lightning_pbrl.teachers import endpoint
from lightning_pbrl.teachers.person import Person
from lightning_pbrl.teachers.router import RouterTeacher
from lightning_pbrl.teachers.vision import DRAW_ORDER, VisionTeacher


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    with serving(monkeypatch) as stub:
        yield stub


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits before repetitions, which take no time here."""
    found: list[float] = []
    monkeypatch.setattr(endpoint.time, "sleep", found.append)
    return found


def teacher(server: Stub, **settings: Any) -> VisionTeacher:
    return VisionTeacher(server.url, "m", "Walk forward.", **{"workers": 1, "timeout": 5.0, **settings})


def swapped(keys: torch.Tensor) -> list[bool]:
    return (uniform(keys, DRAW_ORDER) < 0.5).tolist()


def test_what_is_sent(server: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-key")
    query, clips, keys = questions(4, frames=True, length=5)
    sent = teacher(server, images=3, image_format="png", key_variable="MY_KEY", extra={"max_tokens": 50}, temperature=0.25)
    sent.answer(query, clips, keys)
    for i, (request, headers) in enumerate(zip(server.requests, server.headers, strict=True)):
        assert (request["path"], request["model"], request["temperature"], request["max_tokens"]) == (
            "/v1/chat/completions",
            "m",
            0.25,
            50,
        )
        assert request["seed"] == int(keys[i]) % 2**31 and headers["Authorization"] == "Bearer secret-key"
        system, user = request["messages"]
        assert system["role"] == "system" and '{"answer": "A"' in system["content"]
        texts = [part["text"] for part in user["content"] if part["type"] == "text"]
        assert texts == ["Task: Walk forward.", "Clip A:", "Clip B:"]
        pictures = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
        assert len(pictures) == 6 and all(each.startswith("data:image/png;base64,") for each in pictures)
        greys = [int(imageio.imread(base64.b64decode(each.partition(",")[2]))[0, 0, 0]) for each in pictures]
        first, second = (i + 10, i) if swapped(keys)[i] else (i, i + 10)
        assert greys == [first] * 3 + [second] * 3
    assert set(swapped(keys)) == {True, False}  # both orders were sent
    assert "secret-key" not in json.dumps(sent.describe()) and sent.describe()["key_variable"] == "MY_KEY"


def test_frames_are_evenly_spaced(server: Stub) -> None:
    query, clips, keys = questions(1, frames=True, length=9)
    clips.frames[:] = (20 * torch.arange(9, dtype=torch.uint8)).view(1, 1, 9, 1, 1, 1)
    for images, expected in ((3, [0, 80, 160]), (1, [0]), (20, list(range(0, 180, 20)))):
        server.requests.clear()
        teacher(server, images=images).answer(query, clips, keys)
        parts = [part for part in server.requests[0]["messages"][1]["content"] if part["type"] == "image_url"]
        content = [part["image_url"]["url"] for part in parts[: len(parts) // 2]]
        assert content[0].startswith("data:image/jpeg;base64,")
        greys = [imageio.imread(base64.b64decode(each.partition(",")[2])).mean() for each in content]
        assert greys == pytest.approx(expected, abs=3)


@pytest.mark.parametrize(
    ("content", "value", "confidence"),
    [
        ('{"answer": "A", "confidence": 0.9}', 0.0, 0.9),
        ('{"answer": "B"}', 1.0, 1.0),
        ('```json\n{"answer": "B", "confidence": 1}\n```', 1.0, 1.0),
        ('{"answer": "equal", "confidence": 0.25}', 0.5, 0.25),
        ([{"type": "text", "text": '{"answer": "B", "confidence": 0.5}'}], 1.0, 0.5),
        ('{"answer": "cannot tell", "confidence": 1}', None, 0.0),
        ("I think that A is better.", None, 0.0),
        ('{"answer": "a"}', None, 0.0),
        ('{"answer": "A", "confidence": 90}', None, 0.0),
        ('{"answer": "A", "confidence": "high"}', None, 0.0),
        ('{"answer": ["A"]}', None, 0.0),
        ('["A"]', None, 0.0),
        ("[" * 50_000, None, 0.0),
        ('{"answer": "A", "answer": "B"}', None, 0.0),
        (None, None, 0.0),
        ("", None, 0.0),
    ],
)
def test_answers_are_read_strictly(server: Stub, content: Any, value: float | None, confidence: float) -> None:
    server.reply = lambda body: said(content)
    query, clips, keys = questions(4, frames=True)
    answer, sure = teacher(server).confident(query, clips, keys)
    assert sure.tolist() == [confidence] * 4
    for i, turned in enumerate(swapped(keys)):
        if value is None:
            assert answer.status[i] == Status.SKIPPED
        else:
            assert answer.value[i] == (1 - value if turned else value)
            assert answer.status[i] == (Status.EQUAL if value == 0.5 else Status.ANSWERED)
    assert len(server.requests) == 4  # none of these is asked again


@pytest.mark.parametrize("message", [{"refusal": "I cannot help with that."}, {"finish_reason": "content_filter"}])
def test_refusals_are_skipped(server: Stub, message: dict[str, str]) -> None:
    server.reply = lambda body: said('{"answer": "A"}', **message)
    assert teacher(server).answer(*questions(1, frames=True)).status.tolist() == [Status.SKIPPED]


def test_a_rate_limit_is_waited_for(server: Stub, waits: list[float]) -> None:
    replies = iter([refusal(429, "slow down", **{"Retry-After": "7"}), refusal(503), refusal(500), said('{"answer": "B"}')])
    server.reply = lambda body: next(replies)
    query, clips, keys = questions(1, frames=True)
    answer = teacher(server).answer(query, clips, keys)
    assert answer.status.tolist() == [Status.ANSWERED] and waits == [7.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("header", "wait"),
    [("1e9", 1.0), ("9999", 60.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", 1.0), ("-3", 1.0), ("", 1.0)],
)
def test_odd_retry_after(server: Stub, waits: list[float], header: str, wait: float) -> None:
    replies = iter([refusal(429, **{"Retry-After": header}), said('{"answer": "B"}')])
    server.reply = lambda body: next(replies)
    teacher(server).answer(*questions(1, frames=True))
    assert waits == [wait]


UNUSABLE: dict[str, tuple[Callable[[dict], Any], str]] = {
    "429": (lambda body: refusal(429, "Rate limit reached"), "HTTP 429: Rate limit reached"),
    "500": (lambda body: (500, b"<html>oops</html>", {}), "HTTP 500: Internal Server Error"),
    "no JSON": (lambda body: (200, b'{"choices": [', {}), "Expecting value"),
    "no choices": (lambda body: (200, {"choices": []}, {}), "an answer without choices"),
    "no message": (lambda body: (200, {"choices": [{"text": "A"}]}, {}), "a choice without a message"),
    "a list": (lambda body: (200, [1], {}), "an answer without choices"),
    "cut off": (lambda body: (200, b'{"choices": [{"mess', {"Content-Length": "1000"}), "Unterminated string"),
    "no HTTP": (lambda body: b"SSH-2.0-OpenSSH\r\n", "SSH"),
    "closed": (lambda body: b"", "closed connection"),
    "endless": (lambda body: (200, b" " * (2**20 + 1), {}), "more than 1,048,576 bytes"),
    "slow": (lambda body: (time.sleep(0.5), said("{}"))[1], "timed out"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_questions_stay_open_when_the_server_gives_no_answer(server: Stub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    server.reply, why = UNUSABLE[name]
    monkeypatch.setattr(endpoint, "BACK_OFF", 0.0)
    query, clips, keys = questions(3, frames=True)
    settings = {"retries": 1, "timeout": 0.1 if name == "slow" else 5.0}
    with pytest.warns(UserWarning, match=f"gave no answer in 2 attempts, the last: .*{why}.*; 3 of 3 questions are pending"):
        answer, sure = teacher(server, **settings).confident(query, clips, keys)
    assert answer.status.tolist() == [Status.PENDING] * 3 and sure.tolist() == [0.0] * 3
    assert len(server.requests) == 2  # the rest of the batch is not tried
    with pytest.warns(UserWarning, match="3 of 3 questions are skipped"):
        answer = teacher(server, unavailable="skipped", **settings).answer(query, clips, keys)
    assert answer.status.tolist() == [Status.SKIPPED] * 3
    with pytest.raises(UserError, match="start the server, then run the same command with --resume"):
        teacher(server, unavailable="stop", **settings).answer(query, clips, keys)


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Stub() as gone:
        url = gone.url
    with pytest.warns(UserWarning, match=r"Connection refused.*; 2 of 2 questions are pending"):
        answer = VisionTeacher(url, "m", "t", retries=0).answer(*questions(2, frames=True))
    assert answer.status.tolist() == [Status.PENDING] * 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            refusal(401, "Incorrect API key provided: secret-key"),
            "HTTP 401: Incorrect API key provided: .*set the environment variable",
        ),
        (refusal(403), "HTTP 403: no.*set the environment variable OPENAI_API_KEY to a valid key"),
        (
            refusal(404, "The model `m` does not exist."),
            "HTTP 404: The model `m` .*check base_url and that the server has the model 'm'",
        ),
        (refusal(400, "temperature"), "HTTP 400: temperature.*check the model and the settings"),
        ((422, {"detail": "x"}, {}), "HTTP 422: Unprocessable"),
        ((301, b"", {"Location": "http://127.0.0.1:1/v2"}), "HTTP 301: .*set base_url to the address that it redirects to"),
    ],
)
def test_a_refused_request_ends_the_run(
    server: Stub, waits: list[float], reply: Reply, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    server.reply = lambda body: reply
    with pytest.raises(UserError, match=message) as error:
        teacher(server).answer(*questions(2, frames=True))
    assert len(server.requests) == 1 and waits == [] and "secret-key" not in str(error.value)


def test_settings_out_of_range() -> None:
    with pytest.raises(UserError, match="base_url is 'file:///etc/passwd': give an address that begins with http"):
        VisionTeacher("file:///etc/passwd", "m", "t").answer(*questions(1, frames=True))
    with pytest.raises(UserError, match="VisionTeacher got images=0: give a number of at least 1"):
        VisionTeacher("http://x", "m", "t", images=0)
    with pytest.raises(UserError, match="VisionTeacher looks at frames and these clips have none"):
        VisionTeacher("http://x", "m", "t").answer(*questions(1))


def test_several_requests_at_a_time_keep_their_order(server: Stub) -> None:
    query, clips, keys = questions(12, frames=True)
    alone = teacher(server).answer(query, clips, keys)
    together = teacher(server, workers=6).answer(query, clips, keys)
    assert torch.equal(alone.value, together.value) and set(alone.value.tolist()) == {0.0, 1.0}


def test_a_model_that_only_likes_a_side_is_found_by_repeated_draws(server: Stub) -> None:
    """It always says A, but the order is drawn from the key: few questions have 4 equal draws, 1 in 8 by chance."""
    router = RouterTeacher(teacher(server, workers=8), Person(), confidence=1.0, draws=4)
    query, clips, _ = questions(60, frames=True)
    status = router.answer(query, clips, question_keys(0, 0, 60)).status
    sure = int((status == Status.ANSWERED).sum())
    assert 0 < sure < 18 and int((status == Status.PENDING).sum()) == 60 - sure
