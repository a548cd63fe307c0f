"""Best of k about a method's own replay: asked within the budget, kept when the ring forgets, taken up again, learned from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pebble_toys import fit
from toys import assert_same, read_csv

from lightning_pbrl.callbacks.feedback_diagnostics import FeedbackDiagnostics
from lightning_pbrl.callbacks.query_coverage import QueryCoverage
from lightning_pbrl.clips.online import asked_of, recording_of
from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.methods.surf import SURF
from lightning_pbrl.queries.best_of import BestOfQuery
from lightning_pbrl.queries.policy_aligned import PolicyAlignedQuery
from lightning_pbrl.reports import feedback_sheet
from lightning_pbrl.reports.feedback_record import FILE, read_records
from lightning_pbrl.teachers.best_of import BestOfTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # a resumed run
RING = {"capacity": 40}


class Diary(BestOfTeacher):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Clips] = []

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        self.shown.append(clips)
        return super().answer(query, clips, keys)

    def describe(self) -> dict[str, Any]:
        return {"class": "Diary"}


def asking(teacher: Any = None, query: Any = None) -> dict[str, Any]:
    return {"teacher": teacher or BestOfTeacher(), "query": query or BestOfQuery(4, "disagreement", 3)}


def test_they_are_asked_kept_and_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """160 steps in a ring of 40: what was asked first is overwritten, and its answers stay true of the copies."""
    monkeypatch.setattr(feedback_sheet, "draw_sheet", lambda panels, out, title: Path(out).write_bytes(b"drawn"))
    teacher = Diary()
    around = [FeedbackDiagnostics(10), QueryCoverage(points=50)]
    method = fit(PEBBLE, tmp_path, ask=asking(teacher), data=RING, around=around)
    labels, source = method.others["best"], method.source
    assert labels.start.shape == (12, 4) and int(labels.start.min()) == source.ring == 40 and len(method.labels) == 0
    assert int(labels.start.max()) == 40 + (12 * 4 - 1) * 5 and len(source) == 40 + 12 * 4 * 5
    assert method.asked == (12, 0, 0, 0, False, 0) and method.learned_from == 12
    query = Query("best", labels.start, 5)
    assert torch.equal(labels.value, source.true_returns(query).argmax(1).float())
    shown = [torch.cat(part) for part in zip(*(clips[:3] for clips in teacher.shown), strict=True)]
    assert shown[0].shape == (12, 4, 5, 2)
    assert all(torch.equal(old, new) for old, new in zip(shown, source.clips(query)[:3], strict=True))
    kept = LabelStore(tmp_path / "labels.sqlite", source.fingerprint, "seed0")
    assert kept.spent() == 12 and torch.equal(kept.clips(range(12)).obs, shown[0])
    logged = {key: value for row in read_csv(tmp_path) for key, value in row.items()}
    assert logged["labels/best"] == 12 and logged["teacher/error_rate"] == 0.0
    records = read_records(tmp_path / FILE)
    assert [record.others for record in records] == [0, 6, 12]
    asked = [record.questions for record in records[:2]]
    np.testing.assert_allclose(np.concatenate([each.true for each in asked]), source.true_returns(query), rtol=1e-5)


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path: Path) -> None:
    straight = fit(PEBBLE, tmp_path / "straight", ask=asking(), data=RING)
    fit(PEBBLE, tmp_path / "halves", ask=asking(), data=RING, trainer={"max_epochs": 2})
    teacher = Diary()
    teacher.describe = BestOfTeacher().describe  # type: ignore[method-assign]
    last = tmp_path / "halves/checkpoints/last.ckpt"
    resumed = fit(PEBBLE, tmp_path / "halves", ask=asking(teacher), data=RING, ckpt_path=last)
    assert_same(straight.state_dict(), resumed.state_dict())
    assert_same(straight.source.state_dict(), resumed.source.state_dict())
    assert_same(straight.others["best"], resumed.others["best"])
    assert torch.equal(straight.source.packed[40:], resumed.source.packed[40:])  # the copies
    assert sum(len(clips.obs) for clips in teacher.shown) == 6  # those of the second half alone


def test_a_lost_checkpoint_asks_nothing_twice(tmp_path: Path) -> None:
    """Begun anew in a larger ring, and then without asking: the stored questions, about the stored segments, answer."""
    one = fit(PEBBLE, tmp_path, ask=asking(), data=RING)
    shutil.rmtree(tmp_path / "checkpoints")
    two = fit(PEBBLE, tmp_path, ask=asking(), data={"capacity": 100})
    shutil.rmtree(tmp_path / "checkpoints")
    three = fit(PEBBLE, tmp_path, ask={"teacher": None, "budget": 0})  # whose strategy is of pairs
    first = one.others["best"]
    for other in (two, three):
        again = other.others["best"]
        assert torch.equal(first.value, again.value) and torch.equal(first.start - 40, again.start - other.source.ring)
        assert torch.equal(one.source.segments(first.start, 5), other.source.segments(again.start, 5))


def test_the_newest_episodes_alone(tmp_path: Path) -> None:
    query = PolicyAlignedQuery(2, BestOfQuery(3))
    assert query.segments == 3
    method = fit(PEBBLE, tmp_path, ask={**asking(query=query), "uniform_first": False})
    assert method.others["best"].start.shape == (12, 3)


def test_a_reward_is_learned_from_them(tmp_path: Path) -> None:
    """As the walker's position is liked: a reward from 40 choices orders four of five pairs as the truth does."""
    fit(PEBBLE, tmp_path, {"epochs": 60, "lr": 3e-3}, ask={**asking(), "budget": 40, "per_round": 20})
    judged = [row for row in read_csv(tmp_path) if "pref/accuracy_all" in row]
    assert judged[-1]["pref/accuracy_all"] > 0.8 > judged[0]["pref/accuracy_all"]


def test_learners_of_pairs_refuse_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="BestOfQuery asks questions of kind 'best', from which SURF does not learn"):
        fit(SURF, tmp_path, ask=asking())


def test_numbers_of_recordings() -> None:
    """Two to a question as ever, further ones apart: none is that of another segment."""
    segments = [(number, which) for number in range(30) for which in range(10)]
    names = [recording_of(*each) for each in segments]
    assert [asked_of(name) for name in names] == segments and len(set(names)) == 300
    assert [recording_of(7, 0), recording_of(7, 1)] == [14, 15]
