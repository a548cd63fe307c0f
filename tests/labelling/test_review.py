"""The review: questions that have a label, in order, with the clips in the stored order; and data for a store without a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_desk import FakeClips, FakeDesk

from lightning_pbrl.data.feedback import Answer, AskKey, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.label_cli import opened, place_of
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.interface import Key, OpenQuestion
from lightning_pbrl.testing.toys import ToyData

pytest.importorskip("fastapi", reason="the page is in the web extra")
pytest.importorskip("httpx2", reason="the test client is in the dev extra")
from fastapi.testclient import TestClient

from lightning_pbrl.labelling.page import app

ADDRESS = "http://localhost:8017"
WHO = {"strategy": {}, "teacher": {}, "seed": 0}
TOY = "data: {class_path: lightning_pbrl.testing.toys.ToyData, init_args: {episodes: 20}}\n"


def stored(path: Path, fingerprint: str = "data") -> None:
    """Two rounds of run b: second is better, open; equal. One rating of run a; nobody could tell."""
    store, nan = LabelStore(path, fingerprint), float("nan")
    pair = Query("pair", torch.tensor([[0, 6], [1, 7]]), 5)
    store.put(AskKey("b", 0, 0), pair, Answer(torch.tensor([1.0, nan]), torch.tensor([1, 0])), answered_by="Ada", **WHO)
    equal = Answer(torch.tensor([0.5]), torch.tensor([2]))
    store.put(AskKey("b", 1, 2), Query("pair", torch.tensor([[2, 8]]), 5), equal, answered_by="Bob", **WHO)
    nothing = Answer(torch.tensor([nan]), torch.tensor([3]))
    store.put(AskKey("a", 0, 7), Query("rating", torch.tensor([[3]]), 5), nothing, answered_by="Eve", **WHO)


def test_questions_with_a_label_in_order(tmp_path: Path) -> None:
    stored(tmp_path / "x.sqlite")
    desk = Desk(tmp_path / "x.sqlite")
    order = [Key("a", 0, 7), Key("b", 0, 0), Key("b", 1, 2)]  # b/0/1 is open
    for place, key in enumerate(order):
        found = desk.reviewed(key)
        assert found is not None and (found.question.key, found.place, found.total) == (key, place + 1, 3)
        assert (found.before, found.after) == ((None, *order, None)[place], (None, *order, None)[place + 2])
    first = desk.reviewed()
    assert first == desk.reviewed(order[0]) and first.answered_by == "Eve" and first.question.answer == (None, Status.SKIPPED)
    assert desk.reviewed(Key("b", 0, 1)) is None and desk.reviewed(Key("b", 9, 9)) is None
    only = Desk(tmp_path / "x.sqlite", run="b").reviewed()
    assert only is not None and (only.question.key, only.total) == (order[1], 2)


@pytest.fixture
def visit(tmp_path: Path) -> Callable[..., TestClient]:
    def make(desk: FakeDesk | Desk, role: str = "researcher", clips: FakeClips | None = None) -> TestClient:
        client = TestClient(app(desk, clips or FakeClips(tmp_path / "films")), ADDRESS)
        client.cookies.set("lightning_pbrl_8017", desk.invite("rosa", role))
        return client

    return make


def test_the_page_shows_the_stored_order(visit: Callable[..., TestClient]) -> None:
    """Odd questions are swapped for everybody who answers; the review has the first segment on the left all the same."""
    desk = FakeDesk(count=3)
    for number, value in ((0, 0.0), (1, 1.0)):
        desk.answer("anna", Key("run-1", 0, number), value, Status.ANSWERED, seconds=1.0, revision=0)
    client = visit(desk)
    page = client.get("/review").text
    assert "The first clip is better" in page and "Answered by anna" in page and 'href="/review/run-1/0/1"' in page
    assert re.findall(r'src="(/clips/[^"]*webm)"', page) == ["/clips/run-1/0/0/0.webm", "/clips/run-1/0/0/1.webm"]
    page = client.get("/review/run-1/0/1").text
    assert "The second clip is better" in page and "2 of 2" in page and 'rel="next"' not in page
    assert re.findall(r'src="(/clips/[^"]*mp4)"', page) == ["/clips/run-1/0/1/1.mp4", "/clips/run-1/0/1/0.mp4"]
    chosen = re.search(r'<figure class="chosen">\s*<video[^>]*aria-label="Second', page)
    assert chosen is not None and page.count('class="chosen"') == 1
    before = dict(desk.answers)
    for path in ("/review", "/review/run-1/0/0"):
        assert client.post(path).status_code == 405  # nothing is changed there
    assert desk.answers == before


def test_what_cannot_be_shown(visit: Callable[..., TestClient], tmp_path: Path) -> None:
    desk, clips = FakeDesk(count=3), FakeClips(tmp_path / "films")
    assert "No question has a label yet" in visit(desk).get("/review").text
    for number in range(2):
        desk.answer("anna", Key("run-1", 0, number), 0.5, Status.EQUAL, seconds=1.0, revision=0)
    clips.making, clips.impossible = {0}, {1}
    client = visit(desk, clips=clips)
    page = client.get("/review/run-1/0/0").text
    assert 'http-equiv="refresh"' in page and "The clip is being made" in page and page.count('class="chosen"') == 2
    page = client.get("/review/run-1/0/1").text
    assert "have no simulator states, so no clip can be drawn" in page and "/home" not in page and "refresh" not in page
    assert client.get("/review/run-1/0/2").status_code == client.get("/review/nothing").status_code == 404
    assert visit(desk, "labeller").get("/review").status_code == 403


def test_a_rating_and_a_question_nobody_could_tell(visit: Callable[..., TestClient], tmp_path: Path) -> None:
    stored(tmp_path / "x.sqlite")
    desk = Desk(tmp_path / "x.sqlite")
    assert "<h1>Nobody could tell</h1>" in visit(desk).get("/review").text
    desk.answer("rosa", Key("a", 0, 7), 6.0, Status.ANSWERED)
    assert "<h1>Rated 7</h1>" in visit(desk).get("/review/a/0/7").text  # the page's ratings count from 1


def test_data_of_a_store_that_no_run_belongs_to(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(TOY)
    toy = ToyData(episodes=20)
    toy.setup("fit")
    path, config = str(tmp_path / "x.sqlite"), str(tmp_path / "data.yaml")
    stored(tmp_path / "x.sqlite", toy.source.fingerprint)
    assert place_of(path).load is None and opened(path)[1].cache is None
    with pytest.raises(UserError, match=r"No film can be drawn without the data: name the run folder, or give the config"):
        opened(path)[1].path(OpenQuestion(Key("b", 0, 0), "pair", 1, (0, 0), False), 0, "webm")
    place = place_of(path, (config,))
    assert place.folder == tmp_path and place.load is not None
    assert place.load().source.fingerprint == toy.source.fingerprint and opened(path, config)[1].cache is not None
    stored(tmp_path / "other.sqlite")
    other = place_of(str(tmp_path / "other.sqlite"), (config,))
    with pytest.raises(UserError, match=r"is about the data set data and .*data\.yaml names .*: name the data that were asked"):
        other.load()  # type: ignore[misc]
