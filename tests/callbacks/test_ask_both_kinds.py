"""Pairs and ratings from one budget: exact counts, one row of numbers, crashes, the copies of a replay, a spread budget."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from online_toys import WalkSimulator, _Actor
from toys import SPEC, ToyData, assert_same, make_trainer, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Answer, Clips, Query
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.queries.mixed import MixedQuery, uniformly
from lightning_pbrl.queries.quota import FixedShare
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import question_keys
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.rating import RatingTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class Rated(RewardEnsemble):
    """An ensemble that is handed ratings, too, and leaves them alone."""

    kinds: ClassVar[Any] = frozenset({"pair", "rating"})

    def usable(self) -> int:
        return len(self.labels) + len(self.ratings)


class RatedActor(_Actor):
    """Acts, and is handed both kinds."""

    kinds: ClassVar[Any] = frozenset({"pair", "rating"})


Method.registry.pop("Rated"), Method.registry.pop("RatedActor")


class Diary(MixedTeacher):
    """Answers both kinds and remembers (kind, keys); breaks down at a question when told to."""

    def __init__(self, breaks_at: int = -1) -> None:
        super().__init__()
        self.heard: list[tuple[str, list[int]]] = []
        self.clips: dict[str, list[Clips]] = {"pair": [], "rating": []}
        self.breaks_at = breaks_at

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        if len(self.heard) == self.breaks_at:
            raise RuntimeError("killed")
        self.heard.append((query.kind, keys.tolist()))
        self.clips[query.kind].append(clips)
        return super().answer(query, clips, keys)

    def describe(self) -> dict[str, Any]:
        return {"class": "Diary"}

    @property
    def keys(self) -> list[int]:
        return [key for _, keys in self.heard for key in keys]

    @property
    def sizes(self) -> list[tuple[str, int]]:
        return [(kind, len(keys)) for kind, keys in self.heard]


def half(share: float = 0.5) -> MixedQuery:
    return MixedQuery(UniformQuery("pair"), UniformQuery("rating"), FixedShare(share))


def fit(folder: Path, ask: AskTeacher, ckpt_path: Path | None = None, **trainer: Any) -> Rated:
    method = Rated(SPEC, hidden=(8,), epochs=2, stop_accuracy=1.0)
    make_trainer(folder, [ask], **trainer).fit(method, ToyData(), ckpt_path=ckpt_path)
    return method


def stored(folder: Path) -> LabelStore:
    return LabelStore(folder / "labels.sqlite", ToyData().load().fingerprint, "seed0")


# One budget ------------------------------------------------------------------------------------------------------------


def test_one_budget_one_row_of_numbers(tmp_path: Path) -> None:
    """25 questions in rounds of 9 at half and half: pairs 4, 5, 3; numbers and keys run over both kinds."""
    teacher = Diary()
    method = fit(tmp_path, AskTeacher(teacher, half(), budget=25, per_round=9))
    assert teacher.sizes == [("pair", 4), ("rating", 5), ("pair", 5), ("rating", 4), ("pair", 3), ("rating", 4)]
    assert teacher.keys == question_keys(0, 0, 25).tolist()
    assert method.asked == (25, 7, 0, 4, False, 0) and (len(method.labels), len(method.ratings)) == (12, 13)
    store = stored(tmp_path)
    questions = store.questions("seed0")
    assert questions.number[questions.of("pair")].tolist() == [*range(4), *range(9, 14), *range(18, 21)]
    assert questions.number.tolist() == list(range(25))
    assert torch.equal(store.labels("rating").start, method.ratings.start) and method.ratings.start.shape == (13, 1)
    assert {row["labels/pair"] for row in read_csv(tmp_path) if "labels/pair" in row} == {4.0, 9.0, 12.0}
    shares = [row["query/share_pair"] for row in read_csv(tmp_path) if "query/share_pair" in row]
    assert sorted(set(shares)) == pytest.approx([4 / 9, 12 / 25, 9 / 18])
    row = next(row for row in read_csv(tmp_path) if "teacher/rating_mean" in row)
    assert row["teacher/rating_correlation"] > 0.9 and row["teacher/error_rate"] == 0.0


def test_ratings_tell_their_scale(tmp_path: Path) -> None:
    """Every record holds the settings and the range in force; the settings alone decide who may go on."""
    fit(tmp_path, AskTeacher(MixedTeacher(), half(), budget=20, per_round=10))
    teacher = stored(tmp_path).origin("seed0", 1)["teacher"]  # type: ignore[index]
    assert teacher["rating"]["bins"] == 10 and teacher["rating"]["eval_beta"] == 0
    low, high = teacher["in_force"]["rating"]["range"]
    returns = ToyData().load().true_returns(Query("rating", ToyData().load().pool(10).start(torch.arange(420)).unsqueeze(1), 10))
    assert returns.min() <= low < high <= returns.max()
    method = fit(tmp_path, AskTeacher(MixedTeacher(), half(), budget=30, per_round=10))  # the same settings go on
    assert method.asked.total == 30
    with pytest.raises(UserError, match="were asked with another teacher"):
        fit(tmp_path, AskTeacher(MixedTeacher(rating=RatingTeacher(bins=5)), half(), budget=30, per_round=10))


def test_the_first_round_is_uniform_halves(tmp_path: Path) -> None:
    teacher = Diary()
    fit(tmp_path, AskTeacher(teacher, half(share=1.0), budget=27, per_round=9))
    assert teacher.sizes == [("pair", 4), ("rating", 5), ("pair", 9), ("pair", 9)]
    assert uniformly({"pair"}).describe() == {"class": "UniformQuery"}
    assert uniformly({"rating"}).describe() == {"class": "UniformQuery", "kind": "rating"}


def test_ratings_alone(tmp_path: Path) -> None:
    method = fit(tmp_path, AskTeacher(RatingTeacher(), UniformQuery("rating"), budget=20, per_round=10))
    assert len(method.labels) == 0 and len(method.ratings) == 20 and method.asked[:3] == (20, 10, 0)
    assert len(method.ratings.start.unique()) >= 18  # of one round all are different


# Crashes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("breaks_at", [0, 1, 2, 3])
def test_a_crash_between_the_kinds(breaks_at: int, tmp_path: Path) -> None:
    """Killed before the first or second question batch of round 0 or 1: the rest is asked with the keys it would have had."""
    straight, first, second = Diary(), Diary(breaks_at), Diary()
    one = fit(tmp_path / "straight", AskTeacher(straight, half(), budget=18, per_round=9))
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "broken", AskTeacher(first, half(), budget=18, per_round=9))
    last = tmp_path / "broken/checkpoints/last.ckpt"
    two = fit(tmp_path / "broken", AskTeacher(second, half(), budget=18, per_round=9), last if last.exists() else None)
    assert first.keys + second.keys == straight.keys == question_keys(0, 0, 18).tolist()
    assert_same([list(one.labels), list(one.ratings)], [list(two.labels), list(two.ratings)])
    assert_same(one.state_dict(), two.state_dict())


def test_stored_kinds_stand_when_others_would_be_proposed(tmp_path: Path) -> None:
    """4 pairs of a round were stored; a strategy that now wants 1 pair and 8 ratings has 5 questions left, all ratings."""
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, AskTeacher(Diary(1), half(), budget=9, per_round=9, uniform_first=False))

    class Drifting(MixedQuery):
        def describe(self) -> dict[str, Any]:
            return half().describe()

    teacher = Diary()
    drifting = Drifting(UniformQuery("pair"), UniformQuery("rating"), FixedShare(1 / 9))
    method = fit(tmp_path, AskTeacher(teacher, drifting, budget=9, per_round=9, uniform_first=False))
    assert teacher.sizes == [("rating", 5)] and method.asked[:3] == (9, 9, 0)
    assert (len(method.labels), len(method.ratings)) == (4, 5) and stored(tmp_path).spent() == 9


def test_starting_again_asks_nothing_twice(tmp_path: Path) -> None:
    one = fit(tmp_path, AskTeacher(Diary(), half(), budget=25, per_round=9))
    shutil.rmtree(tmp_path / "checkpoints")
    teacher = Diary()
    two = fit(tmp_path, AskTeacher(teacher, half(), budget=25, per_round=9))
    assert teacher.heard == []
    assert_same([list(one.labels), list(one.ratings)], [list(two.labels), list(two.ratings)])
    silent = fit(tmp_path, AskTeacher())
    assert (len(silent.labels), len(silent.ratings)) == (12, 13)


# A replay --------------------------------------------------------------------------------------------------------------


def walk(folder: Path, teacher: Diary, ckpt_path: Path | None = None, **trainer: Any) -> tuple[RatedActor, OnlineDataModule]:
    module = OnlineDataModule(WalkSimulator(), segment_length=3, eval_episodes=1, num_envs=2, capacity=24)
    method = RatedActor(module.spec, env_steps=120)
    ask = AskTeacher(teacher, half(), budget=25, per_round=7, first_round=1)
    make_trainer(folder, [ask], limit_val_batches=0, **trainer).fit(method, module, ckpt_path=ckpt_path)
    return method, module


def test_answers_of_both_kinds_stay_true_when_the_replay_has_forgotten(tmp_path: Path) -> None:
    teacher = Diary()
    method, module = walk(tmp_path, teacher)
    assert (len(method.labels), len(method.ratings)) == (12, 13)
    for labels, kind in ((method.labels, "pair"), (method.ratings, "rating")):
        assert int(labels.start.min()) >= module.source.ring
        shown = [torch.cat(part) for part in zip(*(clips[:3] for clips in teacher.clips[kind]), strict=True)]
        query = Query(kind, labels.start, 3)  # type: ignore[arg-type]
        assert all(torch.equal(old, new) for old, new in zip(shown, module.source.clips(query)[:3], strict=True))
    both = [*method.labels.start.flatten().tolist(), *method.ratings.start.flatten().tolist()]
    assert len(set(both)) == 2 * 12 + 13  # no place is used twice


def test_copies_are_brought_back(tmp_path: Path) -> None:
    one, module = walk(tmp_path / "straight", Diary())
    first, second = Diary(), Diary()
    walk(tmp_path / "stopped", first, max_epochs=3)
    two, resumed = walk(tmp_path / "stopped", second, tmp_path / "stopped/checkpoints/last.ckpt")
    assert first.keys + second.keys == question_keys(0, 0, 25).tolist()
    assert torch.equal(module.source.packed, resumed.source.packed)
    assert torch.equal(module.source.reward, resumed.source.reward)
    assert_same([list(one.labels), list(one.ratings)], [list(two.labels), list(two.ratings)])


# A spread budget -------------------------------------------------------------------------------------------------------


def test_spread_in_a_run(tmp_path: Path) -> None:
    """Acting: 120 steps in rounds of 20; rounds 1 .. 5 ask a fifth, then what is left evenly."""
    teacher = Diary()
    module = OnlineDataModule(WalkSimulator(), segment_length=3, eval_episodes=1, num_envs=2)
    ask = AskTeacher(teacher, half(), budget=23, schedule="spread", initial=0.2, first_round=1)
    method = RatedActor(module.spec, env_steps=120)
    make_trainer(tmp_path, [ask], limit_val_batches=0).fit(method, module)
    by_round = [
        LabelStore(tmp_path / "labels.sqlite", module.source.fingerprint, "seed0").spent(before_round=k) for k in range(7)
    ]
    assert by_round == [0, 0, 4, 9, 14, 18, 23] and method.asked.remaining == 0
    assert abs(len(method.labels) - len(method.ratings)) == 1


# Mistakes of users -----------------------------------------------------------------------------------------------------


def test_kinds_that_nobody_answers_or_learns_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MixedQuery asks questions of kind 'rating', which SimulatedTeacher does not answer"):
        fit(tmp_path, AskTeacher(SimulatedTeacher(), half(), budget=10, per_round=10))
    with pytest.raises(UserError, match="UniformQuery asks questions of kind 'pair', which RatingTeacher does not answer"):
        fit(tmp_path, AskTeacher(RatingTeacher(), budget=10, per_round=10))
    plain = RewardEnsemble(SPEC, hidden=(8,))
    with pytest.raises(UserError, match="MixedQuery asks questions of kind 'rating', from which RewardEnsemble does not learn"):
        make_trainer(tmp_path, [AskTeacher(MixedTeacher(), half(), budget=10, per_round=10)]).fit(plain, ToyData())


def test_settings_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"AskTeacher got initial=1\.5: give a number above 0 and at most 1"):
        AskTeacher(Diary(), budget=10, per_round=10, initial=1.5)
    with pytest.raises(UserError, match=r"those of Rated are not known: set ask\.rounds"):
        fit(tmp_path, AskTeacher(Diary(), half(), budget=10, schedule="spread"))
