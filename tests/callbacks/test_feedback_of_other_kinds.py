"""What a run records of graded pairs, the best of several, axes and corrections, before it learns from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import SPEC, ToyData, make_trainer, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.feedback_diagnostics import FeedbackDiagnostics
from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.methods.learn_reward import LearnReward
from lightning_pbrl.queries.axes import AxesQuery
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.best_of import BestOfQuery
from lightning_pbrl.queries.corrections import CorrectionQuery
from lightning_pbrl.queries.graded import GradedQuery
from lightning_pbrl.reports import feedback_sheet
from lightning_pbrl.reports.feedback_record import FILE, Questions, read_records
from lightning_pbrl.reports.feedback_sheet import panels_of
from lightning_pbrl.teachers.axes import AxesTeacher
from lightning_pbrl.teachers.base import Teacher
from lightning_pbrl.teachers.best_of import BestOfTeacher
from lightning_pbrl.teachers.correcting import CorrectingTeacher
from lightning_pbrl.teachers.graded import GradedTeacher

SMALL: dict[str, Any] = {"hidden": [8], "epochs": 3, "batch_size": 8, "ensemble_size": 2}


@pytest.fixture(autouse=True)
def no_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sheets are not painted."""
    monkeypatch.setattr(feedback_sheet, "draw_sheet", lambda panels, out, title: Path(out).write_bytes(b"drawn"))


def fit(folder: Path, query: QueryStrategy, teacher: Teacher, model: str = "RewardEnsemble", **settings: Any) -> LearnReward:
    """Two rounds of twelve questions."""
    method = LearnReward(SPEC, {"class_path": model, "init_args": {**SMALL, **settings}})
    callbacks = [AskTeacher(teacher, query, budget=24, per_round=12), FeedbackDiagnostics(10)]
    make_trainer(folder, callbacks).fit(method, ToyData())
    return method


def untrained(method: LearnReward, kind: str, labels: Labels) -> np.ndarray:
    """What the model said of the first round's questions before its first fit."""
    fresh = LearnReward(SPEC, method.hparams["reward_model"])
    fresh.configure_model()
    fresh.reward_model.source = method.source
    return fresh.returns(Query(kind, labels.start[:12], labels.length)).mean(0).numpy()


def asked_first(folder: Path, kind: str) -> Questions:
    records = read_records(folder / FILE)
    assert [record.answers for record in records] == [0, 12, 24]
    return records[0].questions.of(kind)


def panels(folder: Path) -> set[str]:
    return {panel.name for panel in panels_of(read_records(folder / FILE), {})}


@pytest.mark.parametrize(
    ("query", "teacher", "own"),
    [(GradedQuery(), GradedTeacher(), "graded-gaps"), (BestOfQuery(3), BestOfTeacher(), "chosen-ranks")],
)
def test_graded_pairs_and_the_best_of_three(query: QueryStrategy, teacher: Teacher, own: str, tmp_path: Path) -> None:
    method = fit(tmp_path, query, teacher)
    (kind,) = query.kinds
    labels, asked = method.others[kind], asked_first(tmp_path, kind)
    predicted = untrained(method, kind, labels)
    np.testing.assert_array_equal(asked.value, labels.value[:12])
    np.testing.assert_allclose(asked.predicted, predicted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(asked.true, method.source.true_returns(Query(kind, labels.start[:12], labels.length)))
    first = predicted.argmax(1)
    better = labels.value[:12].numpy() if kind == "best" else labels.value[:12].numpy() > 0.5
    decided = np.isfinite(asked.lead)
    np.testing.assert_array_equal(decided, labels.value[:12] != 0.5)
    np.testing.assert_array_equal((asked.lead > 0)[decided], (first == better)[decided])
    assert panels(tmp_path) >= {own, "agreement", "calibration"}
    rows = [row for row in read_csv(tmp_path) if "reward/pearson" in row]
    assert [row["labels"] for row in rows] == [0, 12, 24] and ("query/true_gap_mean" in rows[0]) == (kind == "graded")


def test_an_axis_is_foreseen_by_its_own_rewards(tmp_path: Path) -> None:
    method = fit(tmp_path, AxesQuery(), AxesTeacher(), "AxisRewards", weights={"task": 3.0})
    for axis in ("task", "calm"):
        kind = f"pair:{axis}"
        labels = method.others[kind]
        rows = labels.start[:6, :, None] + torch.arange(labels.length)
        asked = asked_first(tmp_path, kind)
        fresh = LearnReward(SPEC, method.hparams["reward_model"])
        fresh.configure_model()
        reward = fresh.reward_model.axis_reward(axis, method.source.features()[rows.flatten()]).detach()
        np.testing.assert_allclose(asked.predicted, reward.mean(0).view(rows.shape).sum(-1), rtol=1e-4, atol=1e-5)
        assert np.isfinite(asked.lead).all() and len(asked) == 6
    model, query = method.reward_model, Query("pair", labels.start[:4], labels.length)
    task = model.returns(Query("pair:task", query.start, query.length))
    torch.testing.assert_close(model.returns(query), 3 / model.scales[0].double() * task, rtol=1e-4, atol=1e-4)
    assert "agreement" in panels(tmp_path)


def test_corrections_are_told_from_pairs(tmp_path: Path) -> None:
    method = fit(tmp_path, CorrectionQuery(10), CorrectingTeacher(gain=0.0))
    asked = asked_first(tmp_path, "correction")
    given = method.labels.value[:12] == 1
    np.testing.assert_array_equal(asked.value == 1, given)
    np.testing.assert_array_equal(np.isfinite(asked.lead), given)
    gap = asked.predicted[:, 1] - asked.predicted[:, 0]
    np.testing.assert_allclose(asked.lead[given], gap[given], rtol=1e-5)
    assert panels(tmp_path) >= {"agreement", "calibration", "pair-returns"}
