"""People answer while a fit goes on: a round waits for as much as was asked for, and a repeated run sees the same answers."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from somebody import looking
from toys import SPEC, ToyData, assert_same, make_trainer

from lightning_pbrl.asking import waiting
from lightning_pbrl.callbacks import ask_teacher
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.ipl import IPL
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.queries.ranked_list import RankedListQuery
from lightning_pbrl.teachers.human import HumanTeacher
from lightning_pbrl.teachers.router import RouterTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL", 0.02)


@contextmanager
def person(folder: Path, skips: int = 0, pause: float = 0.0) -> Iterator[None]:
    """Somebody at the desk who prefers the larger true return, and cannot tell of every ``skips``-th question."""
    source = ToyData().load()

    def look(path: Path) -> None:
        for asked in Desk(path).next("Ada", 3):
            true = source.true_returns(Query("pair", torch.tensor([asked.start]), asked.length))[0]
            told = not skips or asked.key.number % skips
            value, status = (float(true[1] > true[0]), Status.ANSWERED) if told else (None, Status.SKIPPED)
            Desk(path).answer("Ada", asked.key, value, status, seconds=0.1)
            time.sleep(pause)

    with looking(folder, look, every=0.01):
        yield


def fit(folder: Path, resume: bool = False, around: Any = (), **settings: Any) -> Any:
    ask = {name: settings.pop(name) for name in ("query", "budget", "per_round", "uniform_first") if name in settings}
    trainer = {name: settings.pop(name) for name in ("max_epochs",) if name in settings}
    teacher = HumanTeacher(**settings)
    method = RewardEnsemble(SPEC, hidden=(8,), epochs=3, stop_accuracy=1.0)
    callback = AskTeacher(teacher, **{"budget": 20, "per_round": 10, **ask})
    last = folder / "checkpoints" / "last.ckpt" if resume else None
    make_trainer(folder, [callback, *around], **trainer).fit(method, ToyData(), ckpt_path=last)
    return method


def test_who_waits_says_where_people_answer() -> None:
    said: list[str] = []
    told = waiting.telling(said.append, "runs/x")
    told(3, 0)
    told(3, 1)
    assert said[0] == "0 of 3 questions of this round are answered; give people their links: lightning-pbrl label runs/x"
    assert said[1] == "1 of 3 questions of this round are answered"
    waiting.telling(said.append, "postgresql://ada:secret@host/labels")(3, 0)
    assert said[2].endswith("; give people their links: lightning-pbrl label STORE")


def test_a_round_waits_for_all_its_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheres = []
    monkeypatch.setattr(ask_teacher, "telling", lambda say, where: wheres.append(where) or waiting.telling(say, where))
    with person(tmp_path):
        method = fit(tmp_path)
    assert set(map(str, wheres)) == {str(tmp_path)}
    assert len(method.labels.preferences()) == 20 and method.pending == 0 and method.finished
    true = ToyData().load().true_returns(Query("pair", method.labels.start, 10))
    assert torch.equal(method.labels.value, (true[:, 1] > true[:, 0]).float())
    assert method.trainer.current_epoch == 2


@pytest.mark.parametrize(("wait", "least"), [(4, 4), (0.3, 3)])
def test_a_round_waits_for_some(wait: float, least: int, tmp_path: Path) -> None:
    learned: list[int] = []

    class Counting(RewardEnsemble):
        def plan(self, round_number: int) -> Any:
            learned.append(len(self.labels.preferences()))
            return super().plan(round_number)

    callback = AskTeacher(HumanTeacher(wait=wait), budget=20, per_round=10)
    with person(tmp_path, pause=0.03), suppress(UserError):  # some may be open when the run ends, which it says
        make_trainer(tmp_path, [callback], max_epochs=2).fit(Counting(SPEC, hidden=(8,), epochs=1), ToyData())
    assert least <= learned[0] < 10 and learned[1] >= learned[0] + least


def test_shares_and_numbers() -> None:
    enough = [HumanTeacher(wait=wait).enough for wait in ("all", "none", 0.5, 3, 30)]
    assert [each(10, 5, 5) for each in enough] == [False, True, True, True, False]
    assert [each(10, 10, 0) for each in enough] == [True] * 5
    assert [each(10, 0, 1) for each in enough] == [False, True, False, False, False]  # an answer of an earlier round
    assert [each(10, 5, 0) for each in enough] == [False] * 5  # nothing to learn from yet
    with pytest.raises(UserError, match=r"wait=1\.5: give a whole number of answers, a share up to 1, all or none"):
        HumanTeacher(wait=1.5)


def test_target_of_usable_answers(tmp_path: Path) -> None:
    """Every third question cannot be told: nothing is asked any more once 12 can be learned from."""
    with person(tmp_path, skips=3):
        method = fit(tmp_path, target=12, budget=60, per_round=6)
    usable = len(method.labels.preferences())
    assert 12 <= usable < 18 and method.asked.total < 60 and method.finished


def test_ranked_lists_are_asked_one_question_at_a_time(tmp_path: Path) -> None:
    with person(tmp_path):
        method = fit(tmp_path, query=RankedListQuery(q_budget=20), budget=20, per_round=20, wait="none", uniform_first=False)
    assert len(method.labels.preferences()) == 20


def test_nobody_waits_and_a_repeated_run_sees_the_same(tmp_path: Path) -> None:
    """wait=none: what each round saw is recorded. With the recorded answers the run ends bit for bit alike."""
    straight = tmp_path / "straight"
    with person(straight, pause=0.02):
        try:
            method = fit(straight, wait="none", max_epochs=6, budget=60)
        except UserError:  # everything was asked and some of it is still open
            method = None
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(straight / "labels.sqlite", again / "labels.sqlite")
    store = Desk(again / "labels.sqlite")
    assert len(store.answers()) > 5
    for asked in store.next("Bob", 99):  # later answers change nothing
        store.answer("Bob", asked.key, 1.0, Status.ANSWERED)
    seen: list[Any] = []

    class Watched(RewardEnsemble):
        def plan(self, round_number: int) -> Any:
            seen.append(self.labels)
            return super().plan(round_number)

    def run(folder: Path) -> Any:
        seen.clear()
        watched = Watched(SPEC, hidden=(8,), epochs=3, stop_accuracy=1.0)
        callback = AskTeacher(HumanTeacher(wait="none"), budget=60, per_round=10)
        make_trainer(folder, [callback], max_epochs=3).fit(watched, ToyData())
        return watched.state_dict(), list(seen)

    first = run(again)
    second = run(again)
    assert_same(first[0], second[0])
    for one, two in zip(first[1], second[1], strict=True):
        assert torch.equal(one.start, two.start) and torch.equal(one.status, two.status)
        assert torch.equal(one.value.nan_to_num(nan=9.0), two.value.nan_to_num(nan=9.0))
    if method is not None:
        rounds = [int((each.status != Status.PENDING).sum()) for each in first[1]]
        assert rounds == sorted(rounds)


def test_a_page_beside_the_run_opens_before_it_asks_and_closes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How it is served may differ when the run goes on."""
    seen: list[Any] = []

    class Page:
        def open(self) -> None:
            seen.append(f"open at {LabelStore(tmp_path / 'labels.sqlite', ToyData().load().fingerprint).count} questions")

        def close(self) -> None:
            seen.append("close")

    monkeypatch.setattr(ask_teacher, "page_beside", lambda serve, run: seen.append(serve) or Page())
    served: Any
    for served in (True, {"people": ["Ada", "Bob"], "port": 8017}):
        ask = AskTeacher(HumanTeacher(serve=served), budget=10, per_round=5)
        method = RewardEnsemble(SPEC, hidden=(8,), epochs=1, stop_accuracy=1.0)
        with person(tmp_path):
            Trainer(tmp_path, resume=True, accelerator="cpu", callbacks=ask).fit(method, ToyData())
    assert seen[:4] == [True, "open at 0 questions", "open at 5 questions", "close"] and seen[4] == served and seen[-1] == "close"


def test_a_page_that_cannot_be_served_is_told_before_anything_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"lightning-pbrl label: unrecognized arguments: --poeple Ada"):
        fit(tmp_path, serve={"poeple": ["Ada"]})
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"needs uvicorn: install the extra with pip install 'lightning-pbrl\[web\]'\."):
        fit(tmp_path, serve=True)
    assert LabelStore(tmp_path / "labels.sqlite", ToyData().load().fingerprint).count == 0


def test_a_fit_that_ends_with_nothing_usable_says_so(tmp_path: Path) -> None:
    with (
        person(tmp_path, skips=1),
        pytest.raises(
            UserError, match=r"None of the 20 answers compares two segments, and RewardEnsemble learns from such answers alone"
        ),
    ):
        fit(tmp_path, wait="none")


def test_a_policy_goes_on_with_the_first_answer(tmp_path: Path) -> None:
    """wait=none: nobody answers for a while, then one by one; IPL waits for the first and for no other."""
    seen: list[int] = []

    class Watched(IPL):
        def plan(self, round_number: int) -> Any:
            seen.append(len(self.labels.preferences()))
            return super().plan(round_number)

    method = Watched(SPEC, updates=20, eval_interval=10, hidden=(8,), batch_size=8, compile=False)
    callback = AskTeacher(HumanTeacher(wait="none"), budget=20, per_round=10)
    with person(tmp_path, pause=0.2), pytest.warns(UserWarning, match="questions were never answered: Watched has learned from"):
        make_trainer(tmp_path, [callback]).fit(method, ToyData())
    assert method.finished and 1 <= seen[0] < 10 and len(seen) == 2 and seen[1] >= seen[0]
    Method.registry.pop("Watched", None)


def test_a_router_waits_as_its_person_does() -> None:
    router = RouterTeacher(SimulatedTeacher(), HumanTeacher(wait=3, target=7))
    assert [router.enough(10, answered, answered) for answered in (2, 3)] == [False, True] and router.target == 7
