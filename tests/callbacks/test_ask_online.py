"""Asking while acting: when, how many, about which episodes; answers outlive the replay and a crash."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from online_toys import WalkSimulator, _Actor
from toys import SPEC, ToyData, assert_same, make_trainer

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.methods.qpa import QPA
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.queries.policy_aligned import PolicyAlignedQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import question_keys
from lightning_pbrl.teachers.base import RoundStats
from lightning_pbrl.teachers.simulated import SimulatedTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class Diary(SimulatedTeacher):
    """The rational teacher, remembering rounds, questions and clips."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds: list[RoundStats] = []
        self.keys: list[list[int]] = []
        self.clips: list[Clips] = []

    def start_round(self, stats: RoundStats) -> None:
        super().start_round(stats)
        self.rounds.append(stats)

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        self.keys.append(keys.tolist())
        self.clips.append(clips)
        return super().answer(query, clips, keys)

    def describe(self) -> dict[str, Any]:
        return {"class": "Diary"}

    @property
    def sizes(self) -> list[int]:
        return [len(keys) for keys in self.keys]


class ContextActor(_Actor):
    """Needs a step on both sides of every segment."""

    context = 1


def data(**settings: Any) -> OnlineDataModule:
    return OnlineDataModule(WalkSimulator(), **{"segment_length": 3, "eval_episodes": 1, "num_envs": 2, **settings})


def ask(teacher: SimulatedTeacher, **settings: Any) -> AskTeacher:
    return AskTeacher(teacher, **{"budget": 25, "per_round": 10, "first_round": 1, **settings})


def fit(
    folder: Path, ask: AskTeacher, module: OnlineDataModule, method: type[_Actor] = _Actor, steps: int = 120, **trainer: Any
) -> _Actor:
    learner = method(module.spec, env_steps=steps, seed=trainer.pop("seed", 0))
    ckpt = trainer.pop("ckpt_path", None)
    make_trainer(folder, [ask], limit_val_batches=0, **trainer).fit(learner, module, ckpt_path=ckpt)
    return learner


def stored(folder: Path, module: OnlineDataModule) -> LabelStore:
    return LabelStore(folder / "labels.sqlite", module.source.fingerprint, "seed0")


# When and how many -----------------------------------------------------------------------------------------------------


def test_questions_are_due_every_other_round(tmp_path: Path) -> None:
    """Budget 25 in rounds 1, 3, 5 of 0 .. 5: 10, 10 and the last 5; the teacher hears of rounds that ask."""
    teacher, module = Diary(), data()
    method = fit(tmp_path, ask(teacher, every=2), module)
    assert teacher.sizes == [10, 10, 5] and [stats.round for stats in teacher.rounds] == [0, 1, 2]
    assert [key for keys in teacher.keys for key in keys] == question_keys(0, 0, 25).tolist()
    assert [stored(tmp_path, module).spent(before_round=number) for number in range(7)] == [0, 0, 10, 10, 20, 20, 25]
    assert method.asked[:3] == (25, 5, 0) and len(method.labels) == 25


def test_the_teacher_hears_the_mean_reward_of_the_newest_episodes(tmp_path: Path) -> None:
    teacher, module = Diary(), data()
    means = []

    class Watching(UniformQuery):
        def propose(self, pool: Any, n: int, model: Any, labels: Any, rng: torch.Generator) -> Query:
            means.append(float(module.source.recent_returns(10).sum() / module.source.recent_lengths(10).sum()))
            return super().propose(pool, n, model, labels, rng)

    fit(tmp_path, ask(teacher, query=Watching(), uniform_first=False), module)
    assert [stats.mean_reward for stats in teacher.rounds] == pytest.approx(means)


def test_a_schedule_never_exceeds_the_budget(tmp_path: Path) -> None:
    """120 env steps, questions after 20, 40, 60, 80, 100: 4 x 120 / (121 - s) = 4, 5, 7, 11, 22; budget 25 leaves 9 of the 11."""
    teacher = Diary()
    method = fit(tmp_path, ask(teacher, per_round=4, schedule="increasing"), data())
    assert teacher.sizes == [4, 5, 7, 9] and method.asked[:3] == (25, 0, 0)
    teacher = Diary()
    fit(tmp_path / "less", ask(teacher, per_round=6, schedule="decreasing"), data())
    assert teacher.sizes == [5, 4, 3, 2, 1]  # 6 (120 - s) / 120


@pytest.mark.parametrize(("settings", "words"), [({"first_round": -1}, "first_round=-1"), ({"every": 0}, "every=0")])
def test_rounds_that_do_not_exist(settings: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=rf"AskTeacher got {words}: give a number of at least"):
        AskTeacher(Diary(), budget=10, per_round=10, **settings)


def test_a_schedule_needs_a_method_that_acts(tmp_path: Path) -> None:
    asking = AskTeacher(Diary(), budget=10, per_round=10, schedule="decreasing")
    with pytest.raises(UserError, match=r"ask\.schedule decreasing follows env steps, and RewardEnsemble does not act"):
        make_trainer(tmp_path, [asking]).fit(RewardEnsemble(SPEC, hidden=(8,), epochs=1), ToyData())


def test_segments_that_no_episode_holds_are_refused_at_start(tmp_path: Path) -> None:
    teacher = Diary()
    with pytest.raises(UserError, match="has 7 steps and an episode at most 6"):
        fit(tmp_path, ask(teacher), data(segment_length=7))
    with pytest.raises(UserError, match="has 5 steps and 1 more on each side and an episode at most 6"):
        fit(tmp_path, ask(teacher), data(segment_length=5), ContextActor)
    with pytest.raises(UserError, match="No episode has ended yet"):
        fit(tmp_path, ask(teacher, first_round=0), data())


# About what ------------------------------------------------------------------------------------------------------------


def test_questions_are_about_the_newest_episodes(tmp_path: Path) -> None:
    """One environment, episodes of 6 steps, 20 steps a round: after 20 steps the 2 newest episodes are steps 6 to 17."""
    teacher, module = Diary(), data(num_envs=1)
    fit(tmp_path, ask(teacher, query=PolicyAlignedQuery(2, DisagreementQuery())), module)
    for clips, done in zip(teacher.clips, (20, 40, 60), strict=True):
        newest = module.source.packed[(done // 6 - 2) * 6 : done // 6 * 6, :2]
        seen = clips.obs.reshape(-1, 2)
        assert (seen[:, None] == newest).all(-1).any(1).all()
    strategies = [stored(tmp_path, module).origin("seed0", number)["strategy"] for number in (1, 2)]  # type: ignore[index]
    inner = {"class": "DisagreementQuery", "large_batch": 10}
    assert strategies == [{"class": "UniformQuery"}, {"class": "PolicyAlignedQuery", "recent": 2, "inner": inner}]


class OfThree(_Actor):
    """Says that three episodes are recent."""

    def __init__(self, spec: dict[str, Any], recent: int = 3, **settings: Any) -> None:
        super().__init__(spec, **settings)


@pytest.mark.parametrize(("given", "method", "used"), [(None, OfThree, 3), (None, _Actor, 10), (2, OfThree, 2), (None, QPA, 10)])
def test_the_window_is_the_method_s_unless_it_is_given(
    given: int | None, method: type[Method], used: int, tmp_path: Path
) -> None:
    """And what was used stands in the label store."""
    query, module = PolicyAlignedQuery(given), data()
    if method is QPA:
        query.begin(QPA(module.spec).hparams)
    else:
        fit(tmp_path, ask(Diary(), query=query, uniform_first=False), module, method)  # type: ignore[arg-type]
        settings = stored(tmp_path, module).origin("seed0", 1)
        assert settings is not None and settings["strategy"]["recent"] == used
    assert query.recent == used


# Answers outlive what was asked about ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [_Actor, ContextActor])
def test_answers_stay_true_when_the_replay_has_forgotten(method: type[_Actor], tmp_path: Path) -> None:
    teacher, module = Diary(), data(capacity=24)
    learner = fit(tmp_path, ask(teacher, per_round=5), module, method)
    labels, source = learner.labels, module.source
    assert len(labels) == 25 and int(labels.start.min()) >= source.ring
    query = Query("pair", labels.start, 3)
    returns = source.true_returns(query)
    assert torch.equal(labels.value, (returns[:, 1] > returns[:, 0]).float())
    shown = [torch.cat(part) for part in zip(*(clips[:3] for clips in teacher.clips), strict=True)]
    assert all(torch.equal(old, new) for old, new in zip(shown, source.clips(query)[:3], strict=True))
    kept = stored(tmp_path, module).clips(range(25))
    assert kept.obs.shape == (25, 2, 3 + 2 * learner.context, 2)
    content = source.copies.content(query)
    assert all(torch.equal(old, new) for old, new in zip(kept[:3], content[:3], strict=True))


def test_a_lost_checkpoint_asks_nothing_twice(tmp_path: Path) -> None:
    """Begun anew in a larger ring and with another policy: the stored questions, about the stored segments, answer."""
    first, second, module, other = Diary(), Diary(), data(), data(capacity=300)
    one = fit(tmp_path, ask(first), module)
    shutil.rmtree(tmp_path / "checkpoints")

    class Other(_Actor):
        def build(self) -> None:
            super().build()
            torch.nn.init.constant_(self.policy.bias, 2.0)

    two = fit(tmp_path, ask(second), other, Other)
    assert second.sizes == [] and stored(tmp_path, module).spent() == 25
    assert not torch.equal(module.source.packed[:60], other.source.packed[:60])  # it acted otherwise
    assert torch.equal(one.labels.value, two.labels.value)
    assert torch.equal(one.labels.start + 180, two.labels.start)  # 300 - 120 rows further
    segments = [module.source.segments(one.labels.start, 3), other.source.segments(two.labels.start, 3)]
    assert torch.equal(*segments)


def test_a_crash_after_the_answers_and_before_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in round 2 when its answers are stored: resumed from round 1's checkpoint, it uses them and equals the other."""
    plan = _Actor.plan

    def crashing(self: _Actor, round_number: int) -> list[Any]:
        if round_number == 2:
            raise RuntimeError("killed")
        return plan(self, round_number)

    straight, module = Diary(), data(capacity=30)
    one = fit(tmp_path / "straight", ask(straight, per_round=5), module)
    first, second, resumed = Diary(), Diary(), data(capacity=30)
    monkeypatch.setattr(_Actor, "plan", crashing)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "broken", ask(first, per_round=5), data(capacity=30))
    monkeypatch.undo()
    checkpoint = tmp_path / "broken/checkpoints/last.ckpt"
    two = fit(tmp_path / "broken", ask(second, per_round=5), resumed, ckpt_path=checkpoint)
    assert (first.sizes, second.sizes) == ([5, 5], [5, 5, 5])
    assert straight.keys == first.keys + second.keys
    assert torch.equal(module.source.packed, resumed.source.packed)
    assert torch.equal(module.source.reward, resumed.source.reward)
    assert_same(one.labels, two.labels)


def test_a_large_round_is_answered_and_committed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of 10 in parts of 4, 4, 2: the same answers; a crash in the second part keeps the first."""

    class Crashing(Diary):
        def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
            if len(self.keys) == 4:
                raise RuntimeError("killed")
            return super().answer(query, clips, keys)

    module, resumed, teacher = data(), data(), Diary()
    whole = fit(tmp_path / "whole", ask(Diary()), module)
    monkeypatch.setattr("lightning_pbrl.asking.session.ANSWERED", 4)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "broken", ask(Crashing()), data())
    assert stored(tmp_path / "broken", module).spent() == 14
    parts = fit(tmp_path / "broken", ask(teacher), resumed)
    assert teacher.sizes == [4, 2, 4, 1] and teacher.keys[0] == question_keys(0, 14, 4).tolist()
    assert_same(whole.labels, parts.labels)
    assert torch.equal(module.source.packed, resumed.source.packed)


def test_half_a_round_is_completed(tmp_path: Path) -> None:
    """A crash after 4 of a round's 6 single questions: the rest is asked, with the keys it would have had."""

    class OneByOne(UniformQuery):
        sequential = True

        def propose(self, pool: Any, n: int, model: Any, labels: Any, rng: torch.Generator) -> Query:
            return pool.pairs(1, rng)

    class Crashing(Diary):
        def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
            if len(self.keys) == 4:
                raise RuntimeError("killed")
            return super().answer(query, clips, keys)

    settings: dict[str, Any] = {"query": OneByOne(), "budget": 6, "per_round": 6, "uniform_first": False}
    module, resumed, teacher = data(), data(), Diary()
    one = fit(tmp_path / "straight", ask(Diary(), **settings), module)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "broken", ask(Crashing(), **settings), data())
    two = fit(tmp_path / "broken", ask(teacher, **settings), resumed)
    assert [key for keys in teacher.keys for key in keys] == question_keys(0, 4, 2).tolist()
    assert torch.equal(module.source.packed, resumed.source.packed)
    assert_same(one.labels, two.labels)


def test_answers_of_a_store_without_asking(tmp_path: Path) -> None:
    """Budget 0: the run's own stored answers are learned from."""
    one = fit(tmp_path, ask(Diary()), data())
    shutil.rmtree(tmp_path / "checkpoints")
    module = data()
    two = fit(tmp_path, AskTeacher(), module)
    assert_same(one.labels, two.labels)
    returns = module.source.true_returns(Query("pair", two.labels.start, 3))
    assert torch.equal(two.labels.value, (returns[:, 1] > returns[:, 0]).float())


def test_other_segment_length_in_the_same_store_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, ask(Diary()), data())
    with pytest.raises(UserError, match="holds segments of 3 steps and this run shows 4"):
        fit(tmp_path, ask(Diary()), data(segment_length=4))
