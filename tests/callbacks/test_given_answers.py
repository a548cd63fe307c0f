"""Answers that come with the data: learned from without asking, beside asking, and held out for judging."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import SPEC, ToyData, assert_same, make_trainer, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Answer, AskKey, Labels, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import stream
from lightning_pbrl.teachers.simulated import SimulatedTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
GIVEN, HELD_OUT = 40, 30


class Answered(ToyData):
    """The toy data with 70 answers by the larger true return, the last 30 held out if so wanted."""

    def __init__(self, held_out: bool = False, length: int = 10, **settings: Any) -> None:
        super().__init__(**settings)
        self.with_held_out, self.length = held_out, length

    def load(self) -> Transitions:
        whole = ToyData().load()  # true rewards to answer by, whatever the learner's table knows
        query = whole.pool(self.length).pairs(GIVEN + HELD_OUT, stream(0, "given"))
        value = (whole.true_returns(query).diff(dim=1)[:, 0] > 0).float()
        every = Labels(query.start, self.length, value, torch.full((len(query),), int(Status.ANSWERED)))
        self.labels = every.take(torch.arange(GIVEN))
        self.held_out_labels = every.take(torch.arange(GIVEN, GIVEN + HELD_OUT)) if self.with_held_out else None
        return super().load()


def fit(folder: Path, ask: AskTeacher, data: ToyData, ckpt_path: Path | None = None, **settings: Any) -> RewardEnsemble:
    method = RewardEnsemble(SPEC, **{"hidden": (16,), "epochs": 3, "stop_accuracy": 1.0, "batch_size": 16, **settings})
    make_trainer(folder, [ask]).fit(method, data, ckpt_path=ckpt_path)
    return method


# Learning from them -------------------------------------------------------------------------------


def test_nobody_is_asked_and_no_store_is_opened(tmp_path: Path) -> None:
    data = Answered()
    method = fit(tmp_path, AskTeacher(), data)
    assert not (tmp_path / "labels.sqlite").exists()
    assert_same(method.labels, data.labels)
    assert method.asked[:3] == (GIVEN, 0, 0) and method.finished and method.trainer.current_epoch == 1
    assert method.trainer.global_step == 3 * 3  # three passes over 40 pairs in batches of 16
    assert {row["labels"] for row in read_csv(tmp_path) if "labels" in row} == {GIVEN}
    again = fit(tmp_path, AskTeacher(), Answered(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert again.trainer.global_step == 9
    assert_same(again.state_dict(), method.state_dict())


def test_asking_adds_to_them(tmp_path: Path) -> None:
    """Given answers come first, a strategy knows them, and the budget counts questions only."""
    known: list[int] = []

    class Watching(UniformQuery):
        def propose(self, pool: Any, n: int, model: Any, labels: Labels, rng: torch.Generator) -> Query:
            known.append(len(labels))
            return super().propose(pool, n, model, labels, rng)

    data = Answered()
    ask = AskTeacher(SimulatedTeacher(), Watching(), budget=20, per_round=10, uniform_first=False)
    method = fit(tmp_path, ask, data)
    stored = LabelStore(tmp_path / "labels.sqlite", data.source.fingerprint, "seed0").labels("pair")
    assert known == [GIVEN, GIVEN + 10] and len(stored) == 20
    assert data.labels is not None
    assert_same(method.labels, data.labels.then(stored))
    assert method.asked[:3] == (GIVEN + 20, 10, 0) and method.trainer.current_epoch == 2
    assert sorted({row["labels"] for row in read_csv(tmp_path) if "labels" in row}) == [GIVEN + 10, GIVEN + 20]


def test_a_named_store_is_used_beside_them(tmp_path: Path) -> None:
    fit(tmp_path / "asked", AskTeacher(SimulatedTeacher(), budget=10, per_round=10), ToyData())
    method = fit(tmp_path / "silent", AskTeacher(store=str(tmp_path / "asked" / "labels.sqlite")), Answered())
    assert len(method.labels) == GIVEN + 10 and method.trainer.current_epoch == 1


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ([[3, 10**6]], "The segment of 10 steps from row 1000000 does not lie within one episode of the data"),
        ([[3, 3]], r"The label store .*labels.sqlite holds questions that compare a segment with itself \(0 of run 'old'\)"),
    ],
)
def test_a_store_whose_answers_are_not_about_the_data(start: list[list[int]], words: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    answer = Answer(torch.ones(1), torch.tensor([int(Status.ANSWERED)]))
    store = LabelStore(path, ToyData().load().fingerprint, "old")
    who = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "nobody"}
    store.put(AskKey("old", 0, 0), Query("pair", torch.tensor([[3, 4]]), 10), answer, **who)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE pbrl_questions SET start_1 = ?", start[0][1:])
    with pytest.raises(UserError, match=words):
        fit(tmp_path / "run", AskTeacher(store=str(path)), ToyData())


def test_answers_about_segments_of_another_length(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"about segments of 8 steps and data\.segment_length is 10: make them equal"):
        fit(tmp_path, AskTeacher(), Answered(length=8))


def test_a_learner_without_labels_ignores_them(tmp_path: Path) -> None:
    make_trainer(tmp_path, [AskTeacher()]).fit(BC(SPEC, updates=2, eval_interval=2, hidden=(8,)), Answered())
    assert not (tmp_path / "labels.sqlite").exists()


# Judging by them ----------------------------------------------------------------------------------


def last(folder: Path) -> dict[str, float]:
    """The last row with a validation."""
    return [row for row in read_csv(folder) if any(key.startswith("pref/") for key in row)][-1]


def test_held_out_answers_judge_a_reward_model(tmp_path: Path) -> None:
    """Without any true reward: accuracy and calibration on the held-out answers, and not a word about returns."""
    data = Answered(held_out=True, true_reward=False)
    method = fit(tmp_path, AskTeacher(), data, epochs=60, lr=3e-3)
    held = data.held_out_labels
    assert held is not None and len(held) == HELD_OUT
    gap = method.returns(Query("pair", held.start, held.length)).diff(dim=-1)[..., 0].float()
    right = (torch.sigmoid(gap).mean(0) > 0.5) == (held.value == 1)
    row = last(tmp_path)
    assert row["pref/accuracy"] == pytest.approx(right.float().mean().item())
    assert row["pref/accuracy"] > 0.8  # chance is one half
    assert {key for key in row if key.startswith("pref/")} == {"pref/accuracy", "pref/calibration_error", "pref/decisive"}
    assert row["pref/decisive"] == HELD_OUT
    tested = method.trainer.test(method, data, verbose=False)[0]
    assert tested["pref/accuracy"] == row["pref/accuracy"]


def test_undecided_answers_judge_nothing(tmp_path: Path) -> None:
    """Equal and skipped ones are left out of the accuracy; true returns, where known, count for every pair."""

    class Tied(Answered):
        def load(self) -> Transitions:
            source = super().load()
            held = self.held_out_labels
            assert held is not None
            held.value[:10], held.status[:10] = 0.5, int(Status.EQUAL)
            held.value[10:15], held.status[10:15] = float("nan"), int(Status.SKIPPED)
            return source

    data = Tied(held_out=True)
    method = fit(tmp_path, AskTeacher(), data)
    judgement = data.judgement()
    assert judgement.decisive.tolist() == [False] * 15 + [True] * 15
    gap = method.returns(judgement.query).diff(dim=-1)[..., 0].float()
    right = (torch.sigmoid(gap).mean(0) > 0.5) == (judgement.label == 1)
    row = last(tmp_path)
    assert row["pref/accuracy"] == pytest.approx(right[15:].float().mean().item())
    predicted = method.returns(judgement.query).float().mean(0).flatten()
    correlation = torch.corrcoef(torch.stack([predicted, judgement.true_returns.flatten()]))[0, 1]
    assert row["pref/return_pearson"] == pytest.approx(correlation.item(), abs=1e-4)


@pytest.mark.parametrize("known", [0, 300])
def test_what_is_not_known_is_not_measured(known: int, tmp_path: Path) -> None:
    """Without held-out answers true returns judge: those pairs whose returns are known, or none."""

    class Partly(Answered):
        def load(self) -> Transitions:
            data = super().load()
            data.reward[known:] = float("nan")
            return data

    data = Partly()
    fit(tmp_path, AskTeacher(), data)
    measured = [row for row in read_csv(tmp_path) if any(key.startswith("pref/") for key in row)]
    assert all(value == value for row in read_csv(tmp_path) for value in row.values())  # no NaN
    if known == 0:
        assert measured == []
        return
    judgement, row = data.judgement(), measured[-1]
    assert judgement.decisive.sum() == (~judgement.true_returns.isnan()).all(1).sum() > 5
    assert set(row) > {"pref/accuracy", "pref/calibration_error", "pref/return_pearson", "pref/return_spearman"}


def test_judgement_by_true_returns() -> None:
    """Label 0, 1, or 0.5 for a tie; NaN where a return is unknown."""
    data = ToyData()
    data.setup("fit")
    data.source.reward[:40] = torch.tensor([1.0, 2.0, 2.0, float("nan")]).repeat_interleave(10)
    data.held_out = Query("pair", torch.tensor([[0, 10], [10, 0], [10, 20], [0, 30]]), 10)
    judgement = data.judgement()
    assert judgement.label[:3].tolist() == [1.0, 0.0, 0.5] and judgement.label[3].isnan()
    assert judgement.decisive.tolist() == [True, True, False, False]
    assert judgement.true_returns[:3].tolist() == [[10, 20], [20, 10], [20, 20]]
    some = data.judgement(torch.tensor([2, 0]))
    assert some.query.start.tolist() == [[10, 20], [0, 10]] and some.label.tolist() == [0.5, 1.0]
