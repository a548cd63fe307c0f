"""A run that asks nothing more says so on the page; one that pauses, was killed or goes on does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from desks import A, asked, desk, key
from fake_desk import FakeClips, FakeDesk
from somebody import looking
from toys import SPEC, ToyData, make_trainer

from benchmarks import people_postgres
from lightning_pbrl.asking import waiting
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.outcomes import Ended
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.tables import QUESTIONS
from lightning_pbrl.labelling import wording
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.teachers.human import HumanTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


@contextmanager
def person(folder: Path) -> Iterator[list[Ended | None]]:
    """Somebody who answers everything; gives the state of the run at each answer."""
    seen: list[Ended | None] = []

    def look(path: Path) -> None:
        for question in Desk(path).next("Ada", 5):
            seen.append(Desk(path).ended())
            Desk(path).answer("Ada", question.key, float(question.key.number % 2), Status.ANSWERED)

    with looking(folder, look):
        yield seen


class KilledError(Exception):
    """Ends a fit as a crash does."""


class Crashing(RewardEnsemble):
    """Crashes while it learns in the round ``crash``, and notes what the page would say when each round learns."""

    crash, folder = -1, Path()
    said: list[Ended | None] = []

    def plan(self, round_number: int) -> Any:
        if self.asked.this_round:
            self.said.append(Desk(self.folder / "labels.sqlite").ended())
        if round_number == self.crash:
            raise KilledError
        return super().plan(round_number)


Crashing.registry.pop("Crashing")


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(waiting, "POLL", 0.02)
    monkeypatch.setattr(Crashing, "said", [])
    monkeypatch.setattr(Crashing, "folder", tmp_path)

    def fitted(resume: bool = False, crash: int = -1, teacher: Any = None, budget: int = 20, **trainer: Any) -> None:
        monkeypatch.setattr(Crashing, "crash", crash)
        ask = AskTeacher(teacher or HumanTeacher(), budget=budget, per_round=10)
        method = Crashing(SPEC, hidden=(8,), epochs=1, stop_accuracy=1.0)
        last = tmp_path / "checkpoints" / "last.ckpt" if resume else None
        make_trainer(tmp_path, [ask], **trainer).fit(method, ToyData(), ckpt_path=last)

    return fitted


def test_a_run_ends_and_goes_on(tmp_path: Path, fit: Any) -> None:
    here = lambda: Desk(tmp_path / "labels.sqlite").ended()  # noqa: E731
    with person(tmp_path) as seen:
        fit(max_epochs=1)
        assert here() is None  # a pause between rounds
        with pytest.raises(KilledError):
            fit(resume=True, crash=1)
        assert here() == "asked"  # the last round had asked when the trainer died
        fit(resume=True)
        assert here() == "ended"
        fit(resume=True)  # nothing is left to do
        assert here() == "ended"
        assert set(seen) == {None} and len(seen) == 20 and Crashing.said == [None, "asked", "asked"]
        fit(resume=True, budget=30)
    assert len(seen) == 30 and set(seen) == {None}  # asked more of, it is open again
    assert here() == "ended"


def test_a_crash_before_everything_is_asked_is_no_end(tmp_path: Path, fit: Any) -> None:
    with person(tmp_path), pytest.raises(KilledError):
        fit(crash=0)
    assert Desk(tmp_path / "labels.sqlite").ended() is None


def test_a_run_that_no_person_teaches_says_nothing(tmp_path: Path, fit: Any) -> None:
    fit(teacher=SimulatedTeacher())
    assert Desk(tmp_path / "labels.sqlite").ended() is None


def check_states(where: str | Path) -> None:
    """All runs that a desk shows must have ended; a run that asks again is open."""
    store, every, mine = LabelStore(where, "data", "ada"), Desk(where), Desk(where, run="ada")
    assert every.ended() is None is store.ended("ada")
    store.end("ada", "asked")
    assert every.ended() == mine.ended() == store.ended("ada") == "asked"
    store.end("ada", "ended")
    store.end("ada", "ended")
    assert every.ended() == mine.ended() == "ended" and Desk(where, run="bob").ended() is None
    store.end("ada", None)
    assert every.ended() is None


def test_states_on_sqlite(tmp_path: Path) -> None:
    store = asked(tmp_path, 1)
    check_states(store.name)
    here = desk(tmp_path)
    with store._writing() as db:
        (row,) = [dict(each) for each in db.execute(sa.select(QUESTIONS)).mappings()]
        db.execute(QUESTIONS.insert().values({**row, "run": "bob"}))
    store.end("ada", "ended")
    assert here.ended() is None and desk(tmp_path, run="ada").ended() == "ended"
    store.end("bob", "asked")
    assert here.ended() == "asked" == here.overview().ended


@pytest.mark.slow
def test_states_and_answers_that_count_alone_on_postgresql(tmp_path: Path) -> None:
    if sentence := people_postgres.why_not():
        pytest.skip(sentence)
    with people_postgres.postgres() as url:
        asked(tmp_path, 2).export_jsonl(tmp_path / "asked.jsonl")
        store = LabelStore(url, "data", "ada")
        store.import_jsonl(tmp_path / "asked.jsonl")
        check_states(url)
        here = Desk(url, overlap=2, combine="each")
        for person_, value in (("Ada", 1.0), ("Bob", 0.0)):
            assert here.answer(person_, key(0), value, A).how == "kept"
        mark = store.newest("ada")
        assert here.answer("Bob", key(0), 1.0, A, revision=1).how == "kept"
        assert store.labels("pair").value.nan_to_num(nan=9.0).tolist() == [1.0, 1.0, 9.0]
        before = store.as_of(store.questions("ada"), "ada", mark)
        assert before.apart(store.said(before.each.tolist())).value.nan_to_num(nan=9.0).tolist() == [0.0, 1.0, 9.0]


@pytest.mark.parametrize("ended", ["asked", "ended"])
def test_what_the_page_says(ended: Ended, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the page is in the web extra")
    pytest.importorskip("httpx2", reason="the test client is in the dev extra")
    from visitor import Visitor

    fake = FakeDesk(2)
    clips = FakeClips(tmp_path / "clips")
    anna, cy = Visitor(fake, clips), Visitor(fake, clips, "cy", "researcher")
    told = {"asked": "The run asks nothing more. It has not ended yet.", "ended": "The run has ended."}[ended]
    assert told not in cy.get("/overview").text
    fake.over = ended
    said = anna.get("/questions").json()
    assert said["over"] == "" and len(said["questions"]) == 2 and "waits for 2" in said["progress"]["text"]
    assert told in cy.get("/overview").text and ("open questions are kept" in cy.get("/overview").text) == (ended == "ended")
    for number in range(2):
        assert anna.answer(number).status_code == 200
    said = anna.get("/questions").json()
    words = {"asked": "2 of 2, nothing more is asked", "ended": "2 of 2, the run has ended"}[ended]
    assert said["over"] == wording.OVER[ended] and "you can close this page" in said["over"] and said["progress"]["text"] == words
    fake.over = None
    assert anna.get("/questions").json()["over"] == ""
