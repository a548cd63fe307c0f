"""Who gets to the labelling page, what a browser is told, and which requests are refused."""

from __future__ import annotations

import re

import pytest
from fake_desk import FakeClips, FakeDesk

pytest.importorskip("fastapi", reason="the page is in the web extra")
pytest.importorskip("httpx2", reason="the test client is in the dev extra")
from fastapi.testclient import TestClient
from visitor import ADDRESS, Visitor

from lightning_pbrl.labelling import security
from lightning_pbrl.labelling.page import app

HTML = {"accept": "text/html"}


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
