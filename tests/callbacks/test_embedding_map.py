"""The embedding's AUC while a run trains, and its pictures: measured on fresh pairs, without touching the run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from clarify_toys import LENGTH, SkippableData, tiny
from matplotlib.figure import Figure
from toys import SPEC, ToyData, assert_same, make_trainer, read_csv

from lightning_pbrl.callbacks import embedding_map as module
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.embedding_map import EmbeddingMap
from lightning_pbrl.callbacks.write_results import WriteResults
from lightning_pbrl.data.feedback import Answer, Clips, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.clarify import CLARIFY
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.queries.embedding import EmbeddingQuery, distances, separation
from lightning_pbrl.reports.embedding import read_embedding
from lightning_pbrl.reports.metrics import read_metrics
from lightning_pbrl.rng import stream
from lightning_pbrl.teachers.base import RoundStats, Teacher
from lightning_pbrl.teachers.skip import SkipTeacher

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*variance of predictions or target is close to zero"),
]

PAIRS = 40
PICTURES = {"embedding.npz", "embedding_map.png", "embedding_distance.png"}


@pytest.fixture(autouse=True)
def no_ink(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are laid out but not painted, which takes longer than a fit here; the pictures' own tests paint them."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: Path(path).write_bytes(b""))


class RecordingTeacher(SkipTeacher):
    """Remembers the rounds it was told of and how many questions it was asked."""

    def __init__(self) -> None:
        super().__init__(0.5)
        self.rounds: list[RoundStats] = []
        self.asked = 0

    def describe(self) -> dict[str, Any]:
        return {}

    def start_round(self, stats: RoundStats) -> None:
        super().start_round(stats)
        self.rounds.append(stats)

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        self.asked += len(query)
        return super().answer(query, clips, keys)


class RowTeacher(Teacher):
    """Looks at no reward: prefers the later row, and cannot compare starts of equal parity."""

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        later = (query.start[:, 1] > query.start[:, 0]).float()
        skipped = query.start.sum(1) % 2 == 0
        status = torch.where(skipped, int(Status.SKIPPED), int(Status.ANSWERED))
        return Answer(later.masked_fill(skipped, float("nan")), status)


def fit(
    folder: Path,
    *around: pl.Callback,
    teacher: Teacher | None = None,
    data: ToyData | None = None,
    method: Any = None,
    ckpt_path: Path | None = None,
    **settings: Any,
) -> tuple[CLARIFY, pl.Trainer]:
    """Two rounds of 20 questions."""
    method = method or tiny(n_init=20, n_emb=10)
    query = EmbeddingQuery() if isinstance(method, CLARIFY) else None
    ask = AskTeacher(teacher or SkipTeacher(0.5), query, budget=40, per_round=20)
    trainer = make_trainer(folder, [ask, *around], **settings)
    trainer.fit(method, data or SkippableData(), ckpt_path=ckpt_path)
    return method, trainer


def held_out(method: CLARIFY, purpose: str) -> tuple[Query, np.ndarray, np.ndarray]:
    """The callback's pairs, their distances, and which of them SkipTeacher(0.5) can compare, by its definition."""
    query = method.source.pool(LENGTH).pairs(PAIRS, stream(0, purpose, "embedding"))
    returns = method.source.true_returns(query).double()
    threshold = 0.5 * float(method.source.reward.double().mean()) * LENGTH
    clear = (returns[:, 0] - returns[:, 1]).abs() > threshold
    return query, distances(method, query), clear.numpy()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLARIFY, pl.Trainer, Path]:
    folder = tmp_path_factory.mktemp("with")
    return *fit(folder, EmbeddingMap(PAIRS), WriteResults()), folder


def test_auc_is_that_of_fresh_pairs(trained: tuple[CLARIFY, pl.Trainer, Path]) -> None:
    method, trainer, folder = trained
    query, distance, clear = held_out(method, "validation")
    assert 5 < clear.sum() < PAIRS - 5
    expected = separation(distance[clear], distance[~clear])
    logged = read_metrics(folder)["embedding/auc"]
    assert logged.value[-1] == pytest.approx(expected, abs=1e-7)
    assert logged.step.tolist() == read_metrics(folder)["pref/accuracy"].step.tolist() and logged.step[-1] == trainer.global_step
    pairs, plane = read_embedding(folder / "embedding.npz")
    assert {file.name for file in folder.glob("embedding*")} == PICTURES
    assert (folder / "embedding_map.png").read_bytes().startswith(b"\x89PNG")
    assert pairs.auc == expected and pairs.held_out and pairs.true_returns
    np.testing.assert_array_equal(pairs.status, np.where(clear, Status.ANSWERED, Status.SKIPPED))
    np.testing.assert_array_equal(pairs.z, method.embed(query).numpy())
    np.testing.assert_allclose(pairs.returns, method.source.true_returns(query).numpy())
    assert "% of the variance" in plane.axes[0]


def test_training_is_not_touched(trained: tuple[CLARIFY, pl.Trainer, Path], tmp_path: Path) -> None:
    method, _, folder = trained
    plain, _ = fit(tmp_path)
    assert torch.equal(plain.labels.start, method.labels.start) and torch.equal(plain.labels.status, method.labels.status)
    assert_same(plain.state_dict(), method.state_dict())
    assert_same(plain.running.state_dict(), method.running.state_dict())
    rows = [{key: value for key, value in row.items() if key != "embedding/auc"} for row in read_csv(folder)]
    assert rows == read_csv(tmp_path)
    assert not set(tmp_path.glob("embedding*"))


def test_a_resumed_run_measures_the_same(trained: tuple[CLARIFY, pl.Trainer, Path], tmp_path: Path) -> None:
    method, _, folder = trained
    fit(tmp_path, EmbeddingMap(PAIRS), WriteResults(), max_epochs=1)
    resumed, _ = fit(tmp_path, EmbeddingMap(PAIRS), WriteResults(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert_same(method.state_dict(), resumed.state_dict())
    assert read_csv(tmp_path) == read_csv(folder)


def test_a_teacher_is_asked_free_of_charge(tmp_path: Path) -> None:
    teacher = RecordingTeacher()
    method, _ = fit(tmp_path, EmbeddingMap(PAIRS), teacher=teacher)
    mean = float(method.source.reward.double().mean())
    assert [stats[:2] for stats in teacher.rounds] == [(0, mean), (1, mean)] and teacher.asked == 40  # a copy answered the rest
    assert LabelStore(tmp_path / "labels.sqlite", method.source.fingerprint, "seed0").count == 40
    assert "embedding/auc" in read_metrics(tmp_path)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # the checkpoint is another folder's
def test_a_test_measures_other_pairs_and_repeats(tmp_path: Path) -> None:
    """After the fit and from its checkpoint: the same number, in results.json, on pairs of its own."""
    random = {"n_init": 20, "n_emb": 10, "start_times": "random"}  # embeddings that depend on the number of encoder steps
    around = [EmbeddingMap(PAIRS), WriteResults()]
    method, trainer = fit(tmp_path, *around, method=tiny(**random))
    trainer.test(method, SkippableData(), verbose=False)
    _, distance, clear = held_out(method, "test")
    expected = separation(distance[clear], distance[~clear])
    results = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert results["embedding/auc"] == pytest.approx(expected, abs=1e-7)
    assert read_embedding(tmp_path / "embedding.npz")[0].auc == expected
    again = tmp_path / "again"
    callbacks = [AskTeacher(SkipTeacher(0.5), EmbeddingQuery(), budget=40, per_round=20), EmbeddingMap(PAIRS), WriteResults()]
    make_trainer(again, callbacks).test(
        tiny(**random), SkippableData(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt", verbose=False
    )
    repeated = json.loads((again / "results.json").read_text())["metrics"]
    assert repeated == {key: value for key, value in results.items() if key != "teacher/clear_ratio"}  # no answers are read here
    assert {file.name for file in again.glob("embedding*")} == PICTURES


def test_without_true_rewards_the_answers_are_used(tmp_path: Path) -> None:
    method, _ = fit(tmp_path, EmbeddingMap(PAIRS), teacher=RowTeacher(), data=SkippableData(true_reward=False))
    pairs, _ = read_embedding(tmp_path / "embedding.npz")
    query = Query("pair", method.labels.start, LENGTH)
    distance, status = distances(method, query), method.labels.status.numpy()
    expected = separation(distance[status == Status.ANSWERED], distance[status == Status.SKIPPED])
    logged = read_metrics(tmp_path)
    assert "embedding/auc" not in logged and logged["embedding/auc_asked"].value[-1] == pytest.approx(expected, abs=1e-7)
    assert len(pairs.status) == 40 and not pairs.held_out and not pairs.true_returns
    np.testing.assert_allclose(pairs.returns, method.returns(query).mean(0).numpy())


def test_a_person_is_not_asked(tmp_path: Path) -> None:
    class RecordedPerson(RecordingTeacher):
        simulated = False

    person = RecordedPerson()
    fit(tmp_path, EmbeddingMap(PAIRS), teacher=person, max_epochs=1)
    assert person.asked == 20
    assert "embedding/auc" not in read_metrics(tmp_path) and "embedding/auc_asked" in read_metrics(tmp_path)
    pairs, _ = read_embedding(tmp_path / "embedding.npz")
    assert pairs.true_returns and not pairs.held_out


def test_one_kind_of_pair_has_no_auc(tmp_path: Path) -> None:
    fit(tmp_path, EmbeddingMap(PAIRS), teacher=SkipTeacher(0.0), max_epochs=1)
    assert not any("embedding" in name for name in read_metrics(tmp_path))
    assert (read_embedding(tmp_path / "embedding.npz")[0].status == Status.ANSWERED).all()


def test_methods_without_an_encoder_are_passed_over(tmp_path: Path) -> None:
    method = RewardEnsemble(SPEC, hidden=(8,), epochs=2)
    _, trainer = fit(tmp_path, EmbeddingMap(PAIRS, "tsne"), method=method)
    trainer.test(method, SkippableData(), verbose=False)
    assert not set(tmp_path.glob("embedding*"))
    assert not any(key.startswith("embedding/") for row in read_csv(tmp_path) for key in row)


def test_a_fit_without_evaluation_is_drawn(tmp_path: Path) -> None:
    method, _ = fit(tmp_path, EmbeddingMap(PAIRS), limit_val_batches=0, max_epochs=1)
    pairs, _ = read_embedding(tmp_path / "embedding.npz")
    np.testing.assert_array_equal(pairs.z, method.embed(held_out(method, "validation")[0]).numpy())
    assert "embedding/auc" not in read_metrics(tmp_path)


def test_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="EmbeddingMap got pairs=-1: give a number of at least 0"):
        EmbeddingMap(-1)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UserError, match="scikit-learn is not installed"):  # before the fit, not after it
        fit(tmp_path / "tsne", EmbeddingMap(projection="tsne"))
    assert not (tmp_path / "tsne" / "labels.sqlite").exists()

    def full(*args: Any) -> None:
        raise UserError("embedding.npz cannot be written (No space left on device): make room.")

    monkeypatch.setattr(module, "embedding_pictures", full)
    with pytest.warns(UserWarning, match="No space left"):
        fit(tmp_path / "full", EmbeddingMap(PAIRS), max_epochs=1)
    fit(tmp_path / "off", EmbeddingMap(0), max_epochs=1)  # would raise the warning again
