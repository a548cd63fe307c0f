"""Bad input and bad luck, with a real label store behind the page: each gets a sentence, no answer is lost or counted twice.

Tested elsewhere: the back button, a reload and a double click in a real browser (test_browser.py); a trainer without a page
(tests/callbacks/test_human_teacher.py: a fit that ends with open questions says so, and goes on once they are answered).
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from desks import ASKED, A, asked, desk, key, labels

from lightning_pbrl.cli import main
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.films import films_of
from lightning_pbrl.labelling.interface import Key

pytest.importorskip("fastapi", reason="the page is in the web extra")
pytest.importorskip("httpx2", reason="the test client is in the dev extra")
from fastapi.testclient import TestClient
from visitor import ADDRESS, Visitor

from lightning_pbrl.labelling import page, security

NO_FILM = "No film can be drawn without the data"


def visit(here: Desk, name: str = "Ada", **settings: Any) -> Visitor:
    return Visitor(here, films_of(here, None, None, "data"), name, run="ada", **settings)


def answers(here: Desk) -> list[tuple[int, str, float | None, int]]:
    return [(row["number"], row["person"], row["value"], row["revision"]) for row in here.answers()]


def test_an_unknown_and_a_renewed_token(tmp_path: Path) -> None:
    asked(tmp_path)
    here = desk(tmp_path)
    ada = visit(here)
    newer = here.invite("Ada")
    for said in (ada.answer(), ada.get("/questions"), ada.get("/join/guess"), ada.get(f"/join/{ada.token}")):
        assert said.status_code == 403 and said.json()["sentence"] == security.NO_LINK
    assert answers(here) == []
    assert ada.client.post("/join", data={"token": newer}).status_code == 303
    assert ada.answer(csrf=security.csrf(newer)).json()["how"] == "kept"  # the same person, who goes on


def test_a_wrong_csrf_token(tmp_path: Path) -> None:
    asked(tmp_path)
    here = desk(tmp_path)
    ada, bob = visit(here), visit(here, "Bob")
    for csrf in ("", bob.csrf):
        said = ada.answer(csrf=csrf)
        assert said.status_code == 403 and said.json()["sentence"].startswith("This tab belongs to another link")
    assert answers(here) == []


@pytest.mark.parametrize(
    ("number", "choice", "told"),
    [
        (0, 1, "Two clips are compared with left, right, equal"),
        (6, 10, "A rating is a number from 1 to 10"),
        (6, -1, "A rating is a number from 1 to 10"),
        (6, "left", "A rating is a number from 1 to 10"),
    ],
)
def test_an_answer_out_of_range(number: int, choice: Any, told: str, tmp_path: Path) -> None:
    asked(tmp_path, 6, 1)
    here = desk(tmp_path)
    said = visit(here).answer(number, choice)
    assert (
        said.status_code == 422 and said.json()["sentence"].startswith(told) and "nothing was stored" in said.json()["sentence"]
    )
    assert answers(here) == []


def test_an_answer_to_a_closed_question(tmp_path: Path) -> None:
    store, here = asked(tmp_path, 2), desk(tmp_path)
    ada, closed = visit(here), "This question was closed meanwhile: no answer is needed"
    here.close(key(0))
    here.close(None)
    for number in (0, 1):
        said = ada.answer(number)
        assert said.status_code == 409 and said.json()["sentence"].startswith(closed)
    assert ada.get("/questions").json()["questions"] == [] and answers(here) == []
    here.close(None, closed=False)
    assert ada.answer(1, "equal").json()["how"] == "kept" and labels(store) == [(None, 3), (0.5, 2)]


def test_two_tabs(tmp_path: Path) -> None:
    """Both show the same question; the first answer stands, and undo in one tab is stale in the other."""
    store, here = asked(tmp_path), desk(tmp_path)
    ada = visit(here)
    tabs = [ada.get("/questions").json()["questions"][0] for _ in range(2)]
    assert tabs[0] == tabs[1]
    assert ada.answer(0, "equal").json()["how"] == "kept"
    said = ada.answer(0, "skip")
    assert said.status_code == 409 and "perhaps in another tab: it stands" in said.json()["sentence"]
    assert ada.answer(0, "skip", revision=1).json()["how"] == "kept"
    assert ada.answer(0, "equal", revision=1).json()["how"] == "late"
    assert ada.answer(0, "equal", revision=7).json()["how"] == "late"
    assert answers(here) == [(0, "Ada", 0.5, 0), (0, "Ada", None, 1)] and labels(store)[0] == (None, 3)


def test_a_double_click_and_retries_at_once(tmp_path: Path) -> None:
    store, here = asked(tmp_path), desk(tmp_path)
    ada = visit(here)
    how: list[str] = []
    threads = [threading.Thread(target=lambda: how.append(ada.answer(0, "equal").json()["how"])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(how) == ["again"] * 5 + ["kept"]
    assert answers(here) == [(0, "Ada", 0.5, 0)] and here.progress("Ada").answered == 1 and store.newest("ada") == 1


def test_a_reload_shows_the_same_question(tmp_path: Path) -> None:
    asked(tmp_path)
    here = desk(tmp_path)
    ada, bob = visit(here), visit(here, "Bob")
    first = ada.get("/questions").json()
    assert bob.get("/questions").json()["questions"][0]["key"] == "ada/0/2"  # others have others
    assert ada.get("/questions").json() == first
    ada.client = TestClient(
        page.app(desk(tmp_path), films_of(here, None, None, "data")), base_url=ADDRESS, cookies=ada.client.cookies
    )
    assert ada.get("/questions").json() == first  # the page was started again


def test_a_clip_that_cannot_be_drawn(tmp_path: Path) -> None:
    asked(tmp_path)
    here = desk(tmp_path)
    ada = visit(here)
    (question, _) = ada.get("/questions").json()["questions"]
    assert question["sentence"].startswith(NO_FILM) and question["clips"] == [] and not question["waiting"]
    said = ada.get("/clips/ada/0/0/0.webm")
    assert said.status_code == 404 and said.json()["sentence"].startswith(NO_FILM)
    assert ada.answer(0, "skip").json()["how"] == "kept" and answers(here) == [(0, "Ada", None, 0)]


def test_a_store_of_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["label", str(tmp_path / "labels.sqlite"), "--run", "bob", "--port", "0"])
    assert ended.value.code == 2
    assert "labels.sqlite holds no question of run 'bob': name a run that asks, or leave --run out." in capsys.readouterr().err
    here = desk(tmp_path, run="bob")
    ada = visit(here)
    assert ada.get("/questions").json()["questions"] == []
    said = ada.answer(0)  # of a tab that was opened before, at another page
    assert said.status_code == 404 and said.json()["sentence"].startswith("This question no longer exists")
    assert here.answer("Ada", key(0), 1.0, A).how == "unknown" and desk(tmp_path).answers() == []
    assert desk(tmp_path, run="ada").question(Key("ada", 0, 0), "Ada") is not None


LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_store_that_is_locked_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another process holds the store: the page says so and is asked again; the answer counts once."""
    store, here = asked(tmp_path), desk(tmp_path, pragmas={"busy_timeout": 100})
    ada, patient = visit(here), visit(desk(tmp_path), "Bob")
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(tmp_path / "labels.sqlite")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None and other.stdout.readline() == "locked\n"
        for said in (ada.answer(0, "equal"), ada.answer(0, "equal"), ada.get("/questions")):
            assert (said.status_code, said.json(), said.headers["retry-after"]) == (503, {"sentence": page.NOT_STORED}, "1")
        assert "database is locked" in caplog.text and page.NOT_STORED in ada.get("/last", accept="text/html").text
        waiting: list[Any] = []
        thread = threading.Thread(target=lambda: waiting.append(patient.answer(1, "equal").json()["how"]))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()  # with the usual timeout a request waits
        other.stdin.close()
        other.wait()
        thread.join()
    assert waiting == ["kept"] and [ada.answer(0, "equal").json()["how"] for _ in range(2)] == ["kept", "again"]
    assert sorted(answers(here)) == [(0, "Ada", 0.5, 0), (1, "Bob", 0.5, 0)]
    assert labels(store)[:2] == [(0.5, 2)] * 2 and store.newest("ada") == 2


def test_the_page_waits_longer_than_the_store(tmp_path: Path) -> None:
    """The browser gives up a request later than SQLite a lock: what it hears is the sentence."""
    asked(tmp_path)
    with desk(tmp_path)._reading() as db:
        store_waits = db.exec_driver_sql("PRAGMA busy_timeout").scalar()
    script = (Path(page.__file__).parent / "static" / "page.js").read_text()
    (browser_waits,) = map(int, re.findall(r"AbortSignal\.timeout\((\d+)\)", script))
    assert 0 < store_waits <= browser_waits / 2


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = asked(tmp_path, 120)
    with store._reading() as db:
        size = int(db.exec_driver_sql("PRAGMA page_count").scalar() or 0)
    here = desk(tmp_path, pragmas={"max_page_count": size + 1})
    ada, number = visit(here), 0
    while (said := ada.answer(number, "equal")).status_code == 200:
        number += 1
    assert (said.status_code, said.json()) == (503, {"sentence": page.NOT_STORED}) and number > 0
    assert "its disk is full" in caplog.text
    assert ada.answer(number, "equal").status_code == 503
    assert len(answers(here)) == number and labels(store)[number] == (None, ASKED)
    assert ada.get("/questions").json()["questions"][0]["key"] == f"ada/0/{number}"  # what is there can be read
    roomy = page.app(desk(tmp_path), films_of(here, None, None, "data"))
    ada.client = TestClient(roomy, base_url=ADDRESS, cookies=ada.client.cookies)
    assert [ada.answer(number, "equal").json()["how"] for _ in range(2)] == ["kept", "again"]
    assert answers(here) == [(each, "Ada", 0.5, 0) for each in range(number + 1)]
    assert labels(store)[: number + 2] == [(0.5, 2)] * (number + 1) + [(None, ASKED)]


def test_a_page_without_a_trainer(tmp_path: Path) -> None:
    """Whoever asked is gone: everything can be answered, and is there when the run goes on."""
    store = asked(tmp_path, 2)
    ada = visit(desk(tmp_path))
    assert ada.get("/questions").json()["progress"]["text"] == "0 of 2, the model waits for 2"
    for number in range(2):
        assert ada.answer(number, "equal").json()["how"] == "kept"
    said = ada.get("/questions").json()
    assert said["questions"] == [] and said["progress"]["text"] == "2 of 2, the model goes on without waiting"
    script = (Path(page.__file__).parent / "static" / "page.js").read_text()
    assert "if none come, ask the researcher whether it is running" in script
    assert store.stored("ada", 0)[2].status.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("name", "told"), [("typo", "There is no label store"), ("empty", "has no labels.sqlite: name the run folder")]
)
def test_a_page_without_a_store(name: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["label", str(tmp_path / name), "--port", "0"])
    assert ended.value.code == 2 and told in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]  # nothing is made where a run will be
