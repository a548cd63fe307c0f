"""What is recorded of the feedback while a run goes on, and that the run does not notice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from online_toys import WalkSimulator
from pebble_toys import SMALL_PPO
from pebble_toys import fit as fit_pebble
from toys import SPEC, ToyData, assert_same, make_trainer, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.feedback_diagnostics import FeedbackDiagnostics, opinion
from lightning_pbrl.data.feedback import Answer, Clips, Labels, Query, Status
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.active_rlhf import ActiveRLHF
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.ipl import IPL
from lightning_pbrl.methods.learn_reward import RewardEnsemble, UnifiedReward
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.queries.bald import BALDQuery
from lightning_pbrl.queries.mixed import MixedQuery
from lightning_pbrl.reports import feedback_sheet
from lightning_pbrl.reports.feedback_numbers import pearson
from lightning_pbrl.reports.feedback_record import FILE, PAIR, RATING, read_records
from lightning_pbrl.reports.feedback_sheet import panels_of
from lightning_pbrl.reports.metrics import read_metrics
from lightning_pbrl.rewards.base import RewardModel
from lightning_pbrl.rng import stream
from lightning_pbrl.teachers.base import Teacher
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

CLIPS, LENGTH = 30, 10
DRAW = feedback_sheet.draw_sheet


@pytest.fixture(autouse=True)
def no_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sheets are not laid out, which takes longer than a fit here, and nothing is painted; pictures have tests of their own."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: Path(path).write_bytes(b"drawn"))
    monkeypatch.setattr(feedback_sheet, "draw_sheet", lambda panels, out, title: Path(out).write_bytes(b"drawn"))


@pytest.fixture
def laid_out(no_ink: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sheets are laid out, though not painted."""
    monkeypatch.setattr(feedback_sheet, "draw_sheet", DRAW)


class RowTeacher(Teacher):
    """Looks at no reward: prefers the later row."""

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        value = (query.start[:, 1] > query.start[:, 0]).float()
        return Answer(value, torch.full(value.shape, int(Status.ANSWERED)))


class Rated(RewardEnsemble):
    """An ensemble that was also given ratings, three more in every round, out of thin air."""

    def on_train_epoch_start(self) -> None:
        count = 3 * (self.trainer.current_epoch + 1)
        start = torch.arange(count)[:, None]
        self.ratings = Labels(start, LENGTH, torch.arange(count).float(), torch.ones(count, dtype=torch.int64))
        self.asked = self.asked._replace(this_round=self.asked.this_round + 3)
        super().on_train_epoch_start()

    @property
    def scorer(self) -> Any:
        return self

    def predicted_ratings(self, query: Query) -> torch.Tensor:
        return query.start[:, 0] / 2


del RewardEnsemble.registry["Rated"]


def fit(
    folder: Path,
    *callbacks: Any,
    method: Any = None,
    data: ToyData | None = None,
    teacher: Teacher | None = None,
    ckpt_path: Path | None = None,
    **settings: Any,
) -> Any:
    """Three rounds of ten questions."""
    method = method or RewardEnsemble(SPEC, hidden=(8,), epochs=3)
    ask = AskTeacher(teacher or SimulatedTeacher(), budget=30, per_round=10)
    make_trainer(folder, [ask, *callbacks], **settings).fit(method, data or ToyData(), ckpt_path=ckpt_path)
    return method


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("recorded")
    return fit(folder, FeedbackDiagnostics(CLIPS)), folder


def test_a_record_per_round_and_one_at_the_end(trained: tuple[Any, Path]) -> None:
    method, folder = trained
    records = read_records(folder / FILE)
    assert [record.round for record in records] == [0, 1, 2, 3]
    assert [record.pairs for record in records] == [0, 10, 20, 30]  # what had been learned from
    assert [len(record.questions) for record in records] == [10, 10, 10, 0]
    assert all(len(record.sample.true) == CLIPS and not record.sample.new.any() for record in records)
    asked = [record.questions for record in records]
    value = np.concatenate([questions.value for questions in asked])
    np.testing.assert_array_equal(value, method.labels.value.numpy())
    true = np.concatenate([questions.true for questions in asked])
    np.testing.assert_allclose(true, method.source.true_returns(Query("pair", method.labels.start, LENGTH)).numpy())
    assert (folder / "feedback.png").read_bytes().startswith(b"\x89PNG")  # painted before the patch above


def test_the_end_of_a_fit_writes_the_numbers_of_its_sheet(trained: tuple[Any, Path]) -> None:
    _, folder = trained
    names = {panel.name for panel in panels_of(read_records(folder / FILE), read_metrics(folder))}
    assert {"returns", "steps", "pair-scores"} <= names
    assert {file.name for file in folder.glob("feedback-*.csv")} == {f"feedback-{name}.csv" for name in names}
    assert len((folder / "feedback-returns.csv").read_text().splitlines()) == CLIPS + 1


def test_the_last_record_is_what_the_model_says(trained: tuple[Any, Path]) -> None:
    method, folder = trained
    last = read_records(folder / FILE)[-1]
    rng = stream(method.seed, "feedback", 3)
    query = Query("pair", method.source.pool(LENGTH).draw(CLIPS, rng).view(-1, 2), LENGTH)
    returns = method.returns(query).detach().double().numpy()
    np.testing.assert_allclose(last.sample.predicted, returns.mean(0).ravel(), rtol=1e-5)
    np.testing.assert_allclose(last.sample.spread, returns.std(0).ravel(), rtol=1e-4)
    likely, information = opinion(returns)
    np.testing.assert_allclose(last.sample.probability, likely, rtol=1e-5)
    np.testing.assert_allclose(last.sample.score, information, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(last.sample.true, method.source.true_returns(query).numpy().ravel())
    assert np.isnan(last.sample.rating_score).all()  # an ensemble does not say how likely each rating is
    rows = (query.start.flatten()[:, None] + torch.arange(LENGTH)).flatten()  # 300 steps: all of them are compared, and kept
    learned = method.combine(method.reward(method.source.features()[rows])).detach().numpy()
    assert last.pearson_step == pytest.approx(pearson(method.source.reward[rows].numpy(), learned), abs=1e-6)
    assert sorted(last.steps.true.tolist()) == sorted(method.source.reward[rows].tolist())
    np.testing.assert_allclose(np.sort(last.steps.learned), np.sort(learned), rtol=1e-4, atol=1e-6)
    assert pearson(last.steps.true, last.steps.learned) == pytest.approx(last.pearson_step, abs=1e-5)  # row by row


def test_questions_are_predicted_before_the_answer(trained: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = trained
    untrained = RewardEnsemble(SPEC, hidden=(8,), epochs=3)
    untrained.configure_model()
    method = fit(tmp_path, max_epochs=1)
    untrained.reward_model.source = method.source
    first = read_records(folder / FILE)[0].questions
    predicted = untrained.returns(Query("pair", method.labels.start, LENGTH)).mean(0)
    np.testing.assert_allclose(first.predicted, predicted.numpy(), rtol=1e-4, atol=1e-5)


def test_logged_numbers(trained: tuple[Any, Path]) -> None:
    _, folder = trained
    records, metrics = read_records(folder / FILE), read_metrics(folder)
    r = [pearson(record.sample.true, record.sample.predicted) for record in records]
    assert metrics["reward/pearson"].value == pytest.approx(r, abs=1e-6)
    assert metrics["reward/pearson"].step.tolist() == [record.updates for record in records]
    gaps = [np.abs(np.diff(record.questions.true)).mean() for record in records[:3]]
    assert metrics["query/true_gap_mean"].value == pytest.approx(gaps, rel=1e-5)
    rows = [row for row in read_csv(folder) if "reward/pearson" in row]
    assert [row["labels"] for row in rows] == [0, 10, 20, 30] and all("reward/pearson_step" in row for row in rows)
    assert {"reward/spearman"} <= set(metrics)


def test_training_is_not_touched(trained: tuple[Any, Path], tmp_path: Path) -> None:
    method, folder = trained
    plain = fit(tmp_path, FeedbackDiagnostics(0))
    assert_same(plain.state_dict(), method.state_dict())
    assert torch.equal(plain.labels.start, method.labels.start)
    assert [row for row in read_csv(folder) if "reward/pearson" not in row] == read_csv(tmp_path)
    assert not set(tmp_path.glob("feedback*"))


def test_a_resumed_run_records_no_round_twice(trained: tuple[Any, Path], tmp_path: Path) -> None:
    method, folder = trained
    fit(tmp_path, FeedbackDiagnostics(CLIPS), max_epochs=2)
    assert [record.round for record in read_records(tmp_path / FILE)] == [0, 1, 2]  # two rounds and the end
    resumed = fit(tmp_path, FeedbackDiagnostics(CLIPS), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert_same(method.state_dict(), resumed.state_dict())
    for one, two in zip(read_records(folder / FILE), read_records(tmp_path / FILE), strict=True):
        assert one[:5] == two[:5]
        for part, other in ((one.sample, two.sample), (one.questions, two.questions)):
            for name in part._fields:
                np.testing.assert_array_equal(getattr(part, name), getattr(other, name))
    for name, series in read_metrics(folder).items():
        assert [list(part) for part in series] == [list(part) for part in read_metrics(tmp_path)[name]], name


def test_a_new_run_in_an_old_folder_begins_anew(tmp_path: Path) -> None:
    fit(tmp_path, FeedbackDiagnostics(CLIPS))
    fit(tmp_path, FeedbackDiagnostics(CLIPS), max_epochs=1)
    assert [record.round for record in read_records(tmp_path / FILE)] == [0, 1]


def test_pairs_and_ratings(laid_out: None, tmp_path: Path) -> None:
    method = fit(tmp_path, FeedbackDiagnostics(CLIPS), method=Rated(SPEC, hidden=(8,), epochs=3))
    records = read_records(tmp_path / FILE)
    assert [(record.pairs, record.ratings) for record in records] == [(0, 0), (10, 3), (20, 6), (30, 9)]
    for k, record in enumerate(records[:3]):
        asked = record.questions
        assert asked.kind.tolist() == [PAIR] * 10 + [RATING] * 3
        rated = asked.take(asked.kind == RATING)
        assert rated.value.tolist() == [3 * k, 3 * k + 1, 3 * k + 2]
        true = method.source.true_returns(Query("rating", torch.arange(3 * k, 3 * k + 3)[:, None], LENGTH))
        np.testing.assert_allclose(rated.true[:, 0], true[:, 0].numpy())
        assert np.isnan(rated.true[:, 1]).all() and np.isnan(rated.probability).all() and (rated.score > 0).all()
        assert np.isnan(record.sample.rating_score).all()  # this model has a spread, and no probability of a rating
        assert rated.rating.tolist() == [3 * k / 2, (3 * k + 1) / 2, (3 * k + 2) / 2] and np.isnan(asked.rating[:10]).all()


OF_SCORES = {"pair-scores", "score-against-gap", "rating-scores"}


def fit_unified(folder: Path, clips: int = CLIPS, **settings: Any) -> Any:
    """Three rounds of ten questions, pairs and ratings."""
    method = UnifiedReward(SPEC, **{"hidden": (16, 16), "first_epochs": 5, "epochs": 4, "batch_size": 8, **settings})
    ask = AskTeacher(MixedTeacher(), MixedQuery(), budget=30, per_round=10)
    make_trainer(folder, [ask, FeedbackDiagnostics(clips)]).fit(method, ToyData())
    return method


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"variance_head": False},
        {"posterior": "ensemble", "ensemble_size": 3},
        {"dropout_masks": "step"},
        {"ratings": "rbrl"},
    ],
    ids=str,
)
def test_a_model_with_a_posterior_is_scored_by_its_draws(tmp_path: Path, settings: dict[str, Any]) -> None:
    """What the questions' own strategy says of them, in bits, for both kinds."""
    method = fit_unified(tmp_path, **settings)
    records = read_records(tmp_path / FILE)
    for record in records:
        asked = record.questions
        assert all(np.isfinite(column).all() for column in (*record.sample, asked.score)) and (record.sample.spread > 0).all()
        assert np.isfinite(asked.probability[asked.kind == PAIR]).all()
    last, rng = records[-1].sample, stream(method.seed, "feedback", 3)
    query = Query("pair", method.source.pool(LENGTH).draw(CLIPS, rng).view(-1, 2), LENGTH)
    near = {"rtol": 1e-3, "atol": 1e-6}
    np.testing.assert_allclose(last.predicted, method.returns(query).mean(0).flatten(), **near)  # without dropout
    drawn = method.reward_model.posterior(query, 20)
    returns = drawn if drawn.dim() == 3 else drawn[..., 0]
    np.testing.assert_allclose(last.spread, returns.std(0, correction=0).flatten(), **near)
    np.testing.assert_allclose(last.probability, torch.sigmoid(returns[..., 1] - returns[..., 0]).mean(0), **near)
    np.testing.assert_allclose(last.score, BALDQuery("pair").score(query, method.reward_model), **near)
    if settings.get("dropout_masks") != "step":  # whose draws depend on what else is asked about
        clips = Query("rating", query.start.view(-1, 1), LENGTH)
        np.testing.assert_allclose(last.rating_score, BALDQuery("rating").score(clips, method.reward_model), **near)
    panels = {panel.name: panel for panel in panels_of(records, {})}
    assert set(panels) >= OF_SCORES
    axes = Figure().subplots()
    panels["rating-scores"].draw(axes)
    assert axes.get_xlabel() == "information of the answer (bits)"


def test_draws_do_not_touch_training(tmp_path: Path) -> None:
    noted, plain = fit_unified(tmp_path / "noted"), fit_unified(tmp_path / "plain", clips=0)
    assert_same(plain.state_dict(), noted.state_dict())
    assert torch.equal(plain.labels.start, noted.labels.start) and torch.equal(plain.ratings.start, noted.ratings.start)
    seen = [row for row in read_csv(tmp_path / "noted") if "reward/pearson" not in row]
    assert seen == read_csv(tmp_path / "plain")


def test_a_policy_learner_passes_on_the_draws_of_its_reward(laid_out: None, tmp_path: Path) -> None:
    data = OnlineDataModule(WalkSimulator(20), segment_length=5, eval_episodes=2, eval_envs=2)
    reward = {"hidden": [16, 16], "batch_size": 8, "first_epochs": 5, "epochs": 4}
    ask = AskTeacher(MixedTeacher(), MixedQuery(), 12, first_round=1, initial=0.5, schedule="spread")
    method = ActiveRLHF(data.spec, reward_model=reward, **{**SMALL_PPO, "env_steps": 120})
    make_trainer(tmp_path, [ask, FeedbackDiagnostics(CLIPS)]).fit(method, data)
    records = read_records(tmp_path / FILE)
    assert np.isfinite(records[0].questions.score).all() and len(records[0].questions) == 6
    assert {panel.name for panel in panels_of(records, {})} >= OF_SCORES


def test_without_true_rewards(laid_out: None, tmp_path: Path) -> None:
    fit(tmp_path, FeedbackDiagnostics(CLIPS), data=ToyData(true_reward=False), teacher=RowTeacher())
    records = read_records(tmp_path / FILE)
    assert len(records) == 4 and np.isnan(records[-1].sample.true).all() and np.isfinite(records[-1].sample.predicted).all()
    assert not any(key.startswith("reward/") or key == "query/true_gap_mean" for key in read_metrics(tmp_path))
    assert (tmp_path / "feedback.png").is_file()


def test_a_model_that_has_diverged(laid_out: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    returns = RewardModel.returns
    monkeypatch.setattr(RewardModel, "returns", lambda self, query: returns(self, query) * float("inf"))
    fit(tmp_path, FeedbackDiagnostics(CLIPS), limit_val_batches=0)
    last = read_records(tmp_path / FILE)[-1]
    assert np.isnan(last.sample.predicted).all() and np.isnan(last.sample.score).all() and np.isfinite(last.sample.true).all()
    assert "reward/pearson" not in read_metrics(tmp_path) and (tmp_path / "feedback.png").is_file()


def test_a_method_that_acts(tmp_path: Path) -> None:
    """Clips that began since the record before are new, and env steps are in the row."""
    spy = FeedbackDiagnostics(CLIPS)
    method = fit_pebble(PEBBLE, tmp_path, around=[spy])
    records = read_records(tmp_path / FILE)
    assert [(record.round, record.env_steps, record.pairs) for record in records] == [(1, 40, 0), (2, 80, 6), (4, 160, 12)]
    assert records[0].sample.new.all() and 0 < records[1].sample.new.sum() < CLIPS
    rng = stream(method.seed, "feedback", 4)
    start = method.source.pool(5).draw(CLIPS, rng)  # one environment: a row's number is its step
    np.testing.assert_array_equal(records[2].sample.new, (start >= 80).numpy())
    rows = [row for row in read_csv(tmp_path) if "query/true_gap_mean" in row]
    assert [row["env_steps"] for row in rows] == [40, 80]


def test_ages_of_rows() -> None:
    replay = Replay(8, 2, 1, 1, 4)  # two environments, four steps each
    for step in range(6):
        nothing = np.zeros(2)
        replay.append(np.full((2, 1), step), np.zeros((2, 1)), np.zeros((2, 1)), nothing, nothing > 0, nothing > 0)
    rows = replay.stored
    assert (5 - replay.age(rows)).tolist() == replay.column("obs")[rows, 0].tolist()


def test_a_method_that_asks_nothing(tmp_path: Path) -> None:
    make_trainer(tmp_path, [AskTeacher(), FeedbackDiagnostics(CLIPS)]).fit(BC(SPEC, updates=20), ToyData())
    assert not set(tmp_path.glob("feedback*"))


def test_a_method_that_predicts_no_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RewardModel, "returns")
    fit(tmp_path, FeedbackDiagnostics(CLIPS), limit_val_batches=0)
    assert not set(tmp_path.glob("feedback*"))


def test_a_policy_that_learns_from_the_answers(tmp_path: Path) -> None:
    """IPL scores segments by the reward that its policy implies, and has none for a single step."""
    ask = AskTeacher(SimulatedTeacher(), budget=10, per_round=10)
    make_trainer(tmp_path, [ask, FeedbackDiagnostics(CLIPS)]).fit(IPL(SPEC, updates=20, hidden=(8,), batch_size=4), ToyData())
    records = read_records(tmp_path / FILE)
    assert len(records) == 2 and len(records[0].questions) == 10
    assert all(math.isnan(record.pearson_step) and not len(record.steps.true) for record in records)


def test_clips_that_make_no_pair() -> None:
    with pytest.raises(UserError, match=r"feedback\.clips is 1: give at least 2 clips, or 0"):
        FeedbackDiagnostics(1)
    with pytest.raises(UserError, match="FeedbackDiagnostics got clips=-1: give a number of at least 0"):
        FeedbackDiagnostics(-1)


def test_opinion_by_hand() -> None:
    sure = math.log(9.0)  # probabilities .9 and .1: the mean is a coin, each of them is not
    opposed = np.array([[[0.0, sure], [5.0, 5.0]], [[0.0, -sure], [1e4, 0.0]]])
    likely, information = opinion(opposed)
    entropy = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert likely == pytest.approx([0.5, 0.25])
    assert information[0] == pytest.approx(1 - entropy)
    assert np.isnan(opinion(opposed[:1])[1]).all()
