"""Asking in rounds: exact budgets, durable answers, replays that ask nothing twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import SPEC, ToyData, assert_same, make_trainer, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Answer, Clips, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.learn_reward import LearnReward, RewardEnsemble
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rewards import ensemble
from lightning_pbrl.rng import question_keys, stream
from lightning_pbrl.teachers.simulated import SimulatedTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class CountingTeacher(SimulatedTeacher):
    """The rational teacher, remembering every batch it was asked: (starts, keys)."""

    def __init__(self, eps_mistake: float = 0.0) -> None:
        super().__init__(eps_mistake=eps_mistake)
        self.asked: list[tuple[list[list[int]], list[int]]] = []

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        self.asked.append((query.start.tolist(), keys.tolist()))
        return super().answer(query, clips, keys)

    @property
    def count(self) -> int:
        return sum(len(keys) for _, keys in self.asked)


class SkippingTeacher(SimulatedTeacher):
    """Skips every question of the given rounds."""

    def __init__(self, rounds: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.rounds = rounds

    def start_round(self, stats: Any) -> None:
        self.round = stats.round

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        if self.round in self.rounds:
            n = len(query)
            return Answer(torch.full((n,), float("nan")), torch.full((n,), int(Status.SKIPPED)))
        return super().answer(query, clips, keys)


class OneByOne(QueryStrategy):
    """Proposes a single random pair at a time and counts what it hears."""

    sequential = True

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def propose(self, pool: Any, n: int, model: Any, labels: Any, rng: torch.Generator) -> Query:
        self.known = len(labels)
        return pool.pairs(1, rng)

    def observe(self, query: Query, answer: Answer) -> None:
        self.heard.append((len(query), self.known))


class OnlyTwice(QueryStrategy):
    """Proposes pairs in round 0 and two more in round 1, then nothing."""

    def propose(self, pool: Any, n: int, model: Any, labels: Any, rng: torch.Generator) -> Query:
        return pool.pairs(min(n, max(12 - len(labels), 0)), rng)


def learner(**settings: Any) -> RewardEnsemble:
    return RewardEnsemble(SPEC, **{"hidden": (8,), "epochs": 2, "stop_accuracy": 1.0, **settings})


def fit(
    folder: Path, ask: AskTeacher, ckpt_path: Path | None = None, data: ToyData | None = None, **trainer: Any
) -> RewardEnsemble:
    method = learner(seed=trainer.pop("seed", 0))
    make_trainer(folder, [ask], **trainer).fit(method, data or ToyData(), ckpt_path=ckpt_path)
    return method


def stored(folder: Path, run: str = "seed0", data: ToyData | None = None) -> LabelStore:
    return LabelStore(folder / "labels.sqlite", (data or ToyData()).load().fingerprint, run)


# Budgets and rounds -------------------------------------------------------------------------------


def test_budget_is_spent_exactly_in_rounds(tmp_path: Path) -> None:
    """25 questions in rounds of 10: 10, 10, 5; one batch each; keys belong to (seed, number)."""
    teacher = CountingTeacher()
    method = fit(tmp_path, AskTeacher(teacher, budget=25, per_round=10))
    assert [len(keys) for _, keys in teacher.asked] == [10, 10, 5]
    assert [key for _, keys in teacher.asked for key in keys] == question_keys(0, 0, 25).tolist()
    assert method.asked[:3] == (25, 5, 0) and method.trainer.current_epoch == 3
    labels = stored(tmp_path).labels("pair")
    assert labels.start.tolist() == [start for starts, _ in teacher.asked for start in starts]
    assert torch.equal(labels.start, method.labels.start) and torch.equal(labels.value, method.labels.value)
    returns = ToyData().load().true_returns(Query("pair", labels.start, 10))
    assert torch.equal(labels.value, (returns[:, 1] > returns[:, 0]).float())


def test_every_batch_is_committed_before_training(tmp_path: Path) -> None:
    """When an update runs, the store already holds every answer of its round."""
    seen: list[tuple[int, int]] = []

    class Watching(ensemble.RewardEnsemble):
        def losses(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            seen.append((method.trainer.current_epoch, stored(tmp_path).count))
            return super().losses(batch)

    method = LearnReward(SPEC, Watching(hidden=(8,), epochs=1))
    make_trainer(tmp_path, [AskTeacher(CountingTeacher(), budget=20, per_round=10)]).fit(method, ToyData())
    assert set(seen) == {(0, 10), (1, 20)}


@pytest.mark.parametrize("uniform_first", [True, False])
def test_first_round_is_uniform(uniform_first: bool, tmp_path: Path) -> None:
    teacher = CountingTeacher()
    fit(tmp_path, AskTeacher(teacher, DisagreementQuery(), budget=20, per_round=10, uniform_first=uniform_first))
    pool = ToyData().load().pool(10)
    uniform = [UniformQuery().propose(pool, 10, None, None, stream(0, "query", n)).start.tolist() for n in (0, 1)]  # type: ignore[arg-type]
    assert (teacher.asked[0][0] == uniform[0]) is uniform_first
    assert teacher.asked[1][0] != uniform[1]


def test_rates_are_logged(tmp_path: Path) -> None:
    fit(tmp_path, AskTeacher(CountingTeacher(eps_mistake=1.0), budget=20, per_round=10))
    rows = [row for row in read_csv(tmp_path) if "teacher/error_rate" in row]
    assert [row["teacher/error_rate"] for row in rows] == [1.0, 1.0]
    assert all(row["teacher/skip_rate"] == 0.0 and row["teacher/clear_ratio"] == 1.0 for row in rows)
    assert {row["labels"] for row in read_csv(tmp_path) if "labels" in row} == {10.0, 20.0}


def test_a_strategy_may_propose_one_at_a_time(tmp_path: Path) -> None:
    teacher, strategy = CountingTeacher(), OneByOne()
    fit(tmp_path, AskTeacher(teacher, strategy, budget=7, per_round=4, uniform_first=False))
    assert [len(keys) for _, keys in teacher.asked] == [1] * 7
    assert strategy.heard == [(1, known) for known in range(7)]  # each answer is known before the next proposal
    assert [key for _, keys in teacher.asked for key in keys] == question_keys(0, 0, 7).tolist()


def test_a_strategy_that_proposes_too_much_is_cut(tmp_path: Path) -> None:
    class Greedy(UniformQuery):
        def propose(self, pool: Any, n: int, model: Any, labels: Any, rng: torch.Generator) -> Query:
            return pool.pairs(n + 5, rng)

    teacher = CountingTeacher()
    fit(tmp_path, AskTeacher(teacher, Greedy(), budget=15, per_round=10, uniform_first=False))
    assert [len(keys) for _, keys in teacher.asked] == [10, 5] and stored(tmp_path).spent() == 15


def test_a_short_proposal_closes_the_round_uncharged(tmp_path: Path) -> None:
    class Few(UniformQuery):
        def propose(self, pool: Any, n: int, model: Any, labels: Any, rng: torch.Generator) -> Query:
            return pool.pairs(min(n, 3), rng)

    teacher = CountingTeacher()
    method = fit(tmp_path, AskTeacher(teacher, Few(), budget=8, per_round=4, uniform_first=False))
    assert [len(keys) for _, keys in teacher.asked] == [3, 3, 2] and method.asked[:3] == (8, 2, 0)


def test_what_is_not_proposed_is_not_charged_and_ends_training(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    method = fit(tmp_path, AskTeacher(teacher, OnlyTwice(), budget=100, per_round=10))
    assert [len(keys) for _, keys in teacher.asked] == [10, 2]
    assert method.asked[:3] == (12, 0, 88) and stored(tmp_path).spent() == 12
    assert method.trainer.current_epoch == 3 and method.finished


# Replay -------------------------------------------------------------------------------------------


def test_starting_again_asks_nothing_twice(tmp_path: Path) -> None:
    """All checkpoints are lost, the store is not: same questions, same answers, same weights, no teacher."""
    first, second = CountingTeacher(), CountingTeacher()
    one = fit(tmp_path, AskTeacher(first, DisagreementQuery(), budget=25, per_round=10))
    shutil.rmtree(tmp_path / "checkpoints")
    two = fit(tmp_path, AskTeacher(second, DisagreementQuery(), budget=25, per_round=10))
    assert first.count == 25 and second.count == 0
    assert_same(one.labels, two.labels)
    assert_same(one.state_dict(), two.state_dict())
    assert stored(tmp_path).spent() == 25


def test_stored_questions_are_used_even_if_others_would_be_proposed(tmp_path: Path) -> None:
    """A model rounded differently would propose other pairs; the answered ones stand."""
    fit(tmp_path, AskTeacher(CountingTeacher(), DisagreementQuery(), budget=20, per_round=10))
    asked, teacher = stored(tmp_path).labels("pair"), CountingTeacher()
    method = learner()
    method.configure_model()
    torch.manual_seed(99)  # other initial weights
    method.build()
    make_trainer(tmp_path, [AskTeacher(teacher, DisagreementQuery(), budget=20, per_round=10)]).fit(method, ToyData())
    assert teacher.count == 0 and torch.equal(method.labels.start, asked.start)


def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    fit(tmp_path, AskTeacher(CountingTeacher(), budget=20, per_round=10))
    teacher = CountingTeacher()
    method = fit(tmp_path, AskTeacher(teacher, budget=40, per_round=10))
    assert teacher.count == 20 and method.asked.total == stored(tmp_path).spent() == 40


@pytest.mark.parametrize("per_round", [5, 20])
def test_other_round_sizes_never_overspend(per_round: int, tmp_path: Path) -> None:
    """Rounds that were followed by others are closed as they stand."""
    fit(tmp_path, AskTeacher(CountingTeacher(), budget=30, per_round=10))
    teacher = CountingTeacher()
    method = fit(tmp_path, AskTeacher(teacher, budget=40, per_round=per_round))
    assert teacher.count == 10 and method.asked.total == stored(tmp_path).spent() == 40


def test_half_a_round_is_completed(tmp_path: Path) -> None:
    """A crash after 4 single commits of a round of 6: the rest is asked, with the keys it would have had."""

    class Crashing(CountingTeacher):
        def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
            if self.count == 4:
                raise KeyboardInterrupt
            return super().answer(query, clips, keys)

        def describe(self) -> dict[str, Any]:
            return CountingTeacher().describe()

    straight = fit(tmp_path / "straight", AskTeacher(CountingTeacher(), OneByOne(), budget=6, per_round=6, uniform_first=False))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "broken", AskTeacher(Crashing(), OneByOne(), budget=6, per_round=6, uniform_first=False))
    assert stored(tmp_path / "broken").spent() == 4
    teacher = CountingTeacher()
    method = fit(tmp_path / "broken", AskTeacher(teacher, OneByOne(), budget=6, per_round=6, uniform_first=False))
    assert [key for _, keys in teacher.asked for key in keys] == question_keys(0, 4, 2).tolist()
    assert_same(straight.labels, method.labels)
    assert_same(straight.state_dict(), method.state_dict())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"teacher": CountingTeacher(eps_mistake=0.5)}, "teacher"),
        ({"query": DisagreementQuery(large_batch=3)}, "strategy"),
        ({"seed": 1}, "seed"),
    ],
)
def test_another_configuration_in_the_same_store_is_refused(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"teacher": CountingTeacher(), "budget": 20, "per_round": 10, "run": "mine"}
    fit(tmp_path, AskTeacher(**settings))
    seed = change.pop("seed", 0) if "seed" in change else 0
    message = rf"labels\.sqlite already holds answers of run 'mine' that were asked with another {named}: use a new run"
    with pytest.raises(UserError, match=message):
        fit(tmp_path, AskTeacher(**{**settings, **change}), seed=seed)


def test_other_segment_length_in_the_same_store_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, AskTeacher(CountingTeacher(), budget=10, per_round=10))
    message = "holds questions of run 'seed0' about segments of 10 steps, this run shows 20: set segment_length back"
    with pytest.raises(UserError, match=message):
        fit(tmp_path, AskTeacher(CountingTeacher(), budget=10, per_round=10), data=ToyData(segment_length=20))


def test_seeds_share_a_store_under_their_own_names(tmp_path: Path) -> None:
    store = str(tmp_path / "labels.sqlite")
    for seed in (0, 1):
        method = fit(tmp_path / str(seed), AskTeacher(CountingTeacher(), budget=10, per_round=10, store=store), seed=seed)
        assert len(method.labels) == 10
    assert stored(tmp_path).count == 20 and stored(tmp_path).spent("seed1") == 10


def test_labels_of_a_store_without_asking(tmp_path: Path) -> None:
    """Budget 0: whatever the store holds is learned from, in one round."""
    fit(tmp_path, AskTeacher(CountingTeacher(), budget=20, per_round=10))
    method = fit(tmp_path, AskTeacher())
    assert len(method.labels) == 20 and method.trainer.current_epoch == 1


# Skipping -----------------------------------------------------------------------------------------


def test_skipped_answers_cost_budget_and_are_not_trained_on(tmp_path: Path) -> None:
    method = fit(tmp_path, AskTeacher(SkippingTeacher((1,)), budget=30, per_round=10))
    assert method.asked.total == 30 and len(method.labels) == 30 and len(method.reward_model.pairs) == 20
    assert not torch.isnan(method.reward_model.pairs.value).any()
    assert all(torch.isfinite(value).all() for value in method.state_dict().values())
    rows = [row for row in read_csv(tmp_path) if "teacher/skip_rate" in row]
    assert [row["teacher/skip_rate"] for row in rows] == [0.0, 1.0, 0.0]


def test_a_first_round_that_is_skipped_wholly(tmp_path: Path) -> None:
    method = fit(tmp_path, AskTeacher(SkippingTeacher((0,)), budget=20, per_round=10))
    assert method.trainer.current_epoch == 2 and len(method.reward_model.pairs) == 10
    assert sum("pref/accuracy" in row for row in read_csv(tmp_path)) == 1  # initial weights are not judged


# Mistakes of users --------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "per_round"), [(5, 10), (1, 2)])
def test_budget_below_one_round(budget: int, per_round: int) -> None:
    message = rf"ask\.budget is {budget} and one round asks ask\.per_round = {per_round}: raise the budget"
    with pytest.raises(UserError, match=message):
        AskTeacher(CountingTeacher(), budget=budget, per_round=per_round)


def test_nobody_answers() -> None:
    with pytest.raises(UserError, match=r"ask\.budget is 50 but nobody answers: set ask\.teacher"):
        AskTeacher(budget=50)


def test_method_that_learns_from_no_answers(tmp_path: Path) -> None:
    ask = AskTeacher(CountingTeacher(), budget=10, per_round=10)
    with pytest.raises(UserError, match=r"BC does not learn from answers: set ask\.budget to 0"):
        make_trainer(tmp_path, [ask]).fit(BC(SPEC, updates=2, hidden=(8,)), ToyData())


def test_a_silent_teacher_disturbs_no_policy_learner(tmp_path: Path) -> None:
    make_trainer(tmp_path, [AskTeacher()]).fit(BC(SPEC, updates=2, eval_interval=2, hidden=(8,)), ToyData())
    assert not (tmp_path / "labels.sqlite").exists()


def test_a_strategy_that_needs_what_the_model_lacks(tmp_path: Path) -> None:
    class Embedding(UniformQuery):
        needs = frozenset({"embed"})

    with pytest.raises(UserError, match="Embedding asks the model for its 'embed', which RewardEnsemble does not have"):
        fit(tmp_path, AskTeacher(CountingTeacher(), Embedding(), budget=10, per_round=10))


def test_segments_longer_than_every_episode(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No episode is long enough for a segment of 31 steps: the longest has 30"):
        fit(tmp_path, AskTeacher(CountingTeacher(), budget=10, per_round=10), data=ToyData(segment_length=31))


def test_store_of_other_data(tmp_path: Path) -> None:
    fit(tmp_path, AskTeacher(CountingTeacher(), budget=10, per_round=10))
    with pytest.raises(UserError, match=r"belongs to the data set .*fingerprint mismatch"):
        fit(tmp_path, AskTeacher(CountingTeacher(), budget=10, per_round=10), data=ToyData(episodes=19))
