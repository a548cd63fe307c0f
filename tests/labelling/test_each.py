"""Each person's answer is a label of its own: in the store, in a loss, and in a run that is repeated."""

from __future__ import annotations

import math
import shutil
import threading
from pathlib import Path

import pytest
import torch
from desks import ASKED, EQUAL, SKIPPED, A, asked, desk, key
from toys import SPEC, ToyData, assert_same, make_trainer

from lightning_pbrl.asking import waiting
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.interface import Key
from lightning_pbrl.losses.preference import preference_cross_entropy
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.queries.ranked_list import RankedListQuery
from lightning_pbrl.teachers.human import HumanTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def rows(labels: Labels) -> list[tuple[int, float | None, int]]:
    """First row id, value and status of each label."""
    values = [None if math.isnan(value) else value for value in labels.value.tolist()]
    return list(zip(labels.start[:, 0].tolist(), values, labels.status.tolist(), strict=True))


def test_each_answer_is_a_label_once_enough_people_have_answered(tmp_path: Path) -> None:
    """The majority is shown; the newest question stays last, and a question without enough answers is one open label."""
    store, here = asked(tmp_path, 3, ratings=1), desk(tmp_path, overlap=2, combine="each")
    here.answer("Ada", key(0), 1.0, A)
    assert rows(store.labels("pair")) == [(0, None, ASKED), (10, None, ASKED), (20, None, ASKED)]
    here.answer("Bob", key(0), 0.0, A)
    here.answer("Ada", key(1), None, SKIPPED)
    here.answer("Bob", key(1), 0.5, EQUAL)
    assert rows(store.labels("pair")) == [(0, 0.0, A), (10, 0.5, EQUAL), (0, 1.0, A), (10, None, SKIPPED), (20, None, ASKED)]
    found = here.reviewed(key(0))
    assert found is not None and found.question.answer == (0.5, EQUAL) and found.answered_by == "Ada, Bob"
    here.answer("Ada", key(3), 2.0, A)
    here.answer("Bob", key(3), 5.0, A)
    assert rows(store.labels("rating")) == [(0, 5.0, A), (0, 2.0, A)]  # and not 3.5, which nobody has said
    assert store.spent("ada") == 4 and store.answered("ada", 0) == (4, 3)


def test_a_revision_counts_from_then_on(tmp_path: Path) -> None:
    """Ada and Cy outvote Bob whatever he says, so that the majority stays: what a round has seen of him is kept."""
    store, here = asked(tmp_path, 1), desk(tmp_path, overlap=3, combine="each")
    for person, value in (("Ada", 1.0), ("Bob", 0.0), ("Cy", 1.0)):
        here.answer(person, key(0), value, A)
    mark = store.newest("ada")
    here.answer("Bob", key(0), 1.0, A, revision=1)
    assert [value for _, value, _ in rows(store.labels("pair"))] == [1.0, 1.0, 1.0] and store.newest("ada") > mark
    before = store.as_of(store.questions("ada"), "ada", mark)
    assert before.apart(store.said(before.each.tolist())).value.tolist() == [0.0, 1.0, 1.0]
    nothing = store.as_of(store.questions("ada"), "ada", 0)
    assert nothing.each.tolist() == [0] and nothing.status.tolist() == [ASKED]


def test_the_answer_of_the_expert_stands_alone(tmp_path: Path) -> None:
    store, early = asked(tmp_path, 1), desk(tmp_path, overlap=2, combine="each")
    for person in ("Ada", "Gina"):
        early.answer(person, key(0), 1.0, A)
    assert len(store.labels("pair")) == 2
    desk(tmp_path, overlap=2, combine="each", gold="Gina")
    assert rows(store.labels("pair")) == [(0, 1.0, A)]  # the same label as before, which counts once now


def test_the_loss_counts_each_answer_once(tmp_path: Path) -> None:
    """Against a slow loop over everything that people have said, one Bradley-Terry term for each."""
    store, here = asked(tmp_path, 4), desk(tmp_path, overlap=2, combine="each")
    said = {"Ada": [1.0, 0.5, None, 0.0], "Bob": [0.0, 1.0, 1.0, 0.0]}
    returns = {10 * number: (0.3 * number, 1.0 - 0.2 * number) for number in range(4)}
    total, count = 0.0, 0
    for person, values in said.items():
        for number, value in enumerate(values):
            status = SKIPPED if value is None else EQUAL if value == 0.5 else A
            assert here.answer(person, key(number), value, status).how == "kept"
            if value is not None:
                first, second = map(math.exp, returns[10 * number])
                total -= value * math.log(second / (first + second)) + (1 - value) * math.log(first / (first + second))
                count += 1
    labels = store.labels("pair").preferences()
    predicted = torch.tensor([returns[first] for first in labels.start[:, 0].tolist()])
    assert count == 7 and float(preference_cross_entropy(predicted, labels.value)) == pytest.approx(total / count, rel=1e-6)


def fit(folder: Path, **ask: object) -> RewardEnsemble:
    method = RewardEnsemble(SPEC, hidden=(8,), epochs=2, stop_accuracy=1.0)
    settings: dict[str, object] = {"budget": 12, "per_round": 6, **ask}
    make_trainer(folder, [AskTeacher(HumanTeacher(overlap=2, combine="each"), **settings)]).fit(method, ToyData())  # type: ignore[arg-type]
    return method


def test_a_run_learns_from_each_answer_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two people of opposite minds teach two rounds; one changes an answer of the first round afterwards."""
    monkeypatch.setattr(waiting, "POLL", 0.02)
    straight, stop = tmp_path / "straight", threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            if (straight / "labels.sqlite").exists():
                here = Desk(straight / "labels.sqlite", overlap=2, combine="each")
                for question in here.next("Ada", 3):
                    here.answer("Ada", question.key, 0.0, Status.ANSWERED)
                    here.answer("Bob", question.key, 1.0, Status.ANSWERED)

    people = threading.Thread(target=work)
    people.start()
    try:
        method = fit(straight)
    finally:
        stop.set()
        people.join()
    assert method.asked[:3] == (12, 6, 0) and method.pending == 0 and method.finished
    assert method.labels.value.tolist() == [1.0] * 12 + [0.0] * 12 and method.learned_from == 24
    assert torch.equal(method.labels.start[:12], method.labels.start[12:])
    (again := tmp_path / "again").mkdir()
    shutil.copy(straight / "labels.sqlite", again / "labels.sqlite")
    here = Desk(again / "labels.sqlite", overlap=2, combine="each")
    assert here.answer("Ada", Key("seed0", 0, 0), 1.0, Status.ANSWERED, revision=1).how == "kept"
    assert_same(fit(again).state_dict(), method.state_dict())
    source = ToyData().load().fingerprint
    assert LabelStore(again / "labels.sqlite", source).labels("pair").value.tolist() == [1.0] * 12 + [1.0] + [0.0] * 11


def test_ranked_lists_are_refused(tmp_path: Path) -> None:
    message = r"Ranked lists need one answer to each question, and .*: set combine of ask\.teacher to majority in a new run"
    with pytest.raises(UserError, match=message):
        fit(tmp_path, query=RankedListQuery(), uniform_first=False)
    method = RewardEnsemble(SPEC, hidden=(8,), epochs=1, pairs="chain")
    ask = AskTeacher(HumanTeacher(overlap=2, combine="each"), budget=12, per_round=6)
    with pytest.raises(UserError, match=message):
        make_trainer(tmp_path, [ask]).fit(method, ToyData())
    with pytest.raises(UserError, match="combine=each and overlap=1: let 2 or more answer each"):
        HumanTeacher(combine="each")
