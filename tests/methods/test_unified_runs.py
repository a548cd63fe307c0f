"""Two kinds of answer, one reward: whole runs, what a policy gets, and settings that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toys import SPEC, assert_same, make_trainer
from unified_toys import Linear, T, alone, fit, linear_data

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.learn_reward import RewardEnsemble, UnifiedReward
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.queries.bald import BALDQuery
from lightning_pbrl.queries.mixed import MixedQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rewards import unified
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.rating import RatingTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def test_questions_chosen_by_bald_and_a_killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies after a round's answers and before its fit: resumed, bit-equal next labels and weights."""
    straight = fit(tmp_path / "straight", {"budget": 60})
    plan = unified.UnifiedReward.plan

    def dying(self: unified.UnifiedReward, round_number: int) -> Any:
        if round_number == 1:
            raise RuntimeError("killed")
        return plan(self, round_number)

    monkeypatch.setattr(unified.UnifiedReward, "plan", dying)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "broken", {"budget": 60})
    monkeypatch.undo()
    resumed = fit(tmp_path / "broken", {"budget": 60}, tmp_path / "broken/checkpoints/last.ckpt")
    assert straight.asked[:3] == resumed.asked[:3] == (60, 20, 0)
    assert_same([list(straight.labels), list(straight.ratings)], [list(resumed.labels), list(resumed.ratings)])
    assert_same(straight.state_dict(), resumed.state_dict())
    assert len(straight.labels) == len(straight.ratings) == 30


def test_policies_get_the_reward_without_dropout(tmp_path: Path) -> None:
    """In train mode, in eval mode and from a checkpoint: the same numbers, twice."""
    method = fit(tmp_path, dropout=0.4)
    features = method.source.features()[:50]
    expected = method.combine(method.reward(features))
    for mode in (True, False):
        method.train(mode)
        assert torch.equal(method.combine(method.reward(features)), expected)
    loaded = load_method(tmp_path / "checkpoints" / "last.ckpt")
    assert torch.equal(loaded.combine(loaded.reward(features)), expected)


def test_it_never_reads_the_true_reward(tmp_path: Path) -> None:
    """Answers that are in the store, data whose true rewards are NaN: the same network."""
    one = fit(tmp_path / "one")

    class Blind(Linear):
        def load(self) -> Transitions:
            data = linear_data()
            fingerprint = data.fingerprint
            data.reward.fill_(float("nan"))
            data._fingerprint = fingerprint
            return data

    methods = []
    for number, data in enumerate((Linear(), Blind())):
        method = UnifiedReward(SPEC, hidden=(16, 16), first_epochs=5, epochs=4, batch_size=8)
        ask = AskTeacher(store=str(tmp_path / "one/labels.sqlite"))
        make_trainer(tmp_path / f"silent{number}", [ask]).fit(method, data)
        assert len(method.ratings) == len(one.ratings)
        methods.append(method)
    assert_same(methods[0].state_dict(), methods[1].state_dict())


def test_presets_are_switches_of_the_constructor() -> None:
    written = {
        name: yaml.safe_load(Path(packaged_config(f"preset/unified_reward/{name}.yaml")).read_text())["model"]["init_args"]
        for name in ("paper", "reference")
    }
    defaults = UnifiedReward(SPEC).hparams
    assert all(defaults[key] == value for key, value in written["paper"].items())
    reference = UnifiedReward(SPEC, **written["reference"])
    assert set(written["reference"]) == set(written["paper"])
    assert all(reference.hparams[key] != defaults[key] for key in written["reference"])


def test_reference_leaves_the_ratings_alone(tmp_path: Path) -> None:
    """The released result: half of the answers are bought and not used."""
    written = yaml.safe_load(Path(packaged_config("preset/unified_reward/reference.yaml")).read_text())["model"]["init_args"]
    method = fit(tmp_path, {"query": MixedQuery(rating=UniformQuery("rating"))}, **written)
    model = method.reward_model
    assert len(method.ratings) == 20 and len(model.rated) == 0 and len(model.pairs) > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"posterior": "ensemble"}, "posterior=ensemble has 1 member"),
        ({"dropout": 0.0}, "draws by dropout and dropout is 0"),
        ({"validation": 1.0}, r"validation=1\.0: give a number of at least 0 and below 1"),
        ({"bins": 1}, "bins=1: give a number of at least 2"),
        ({"batch_size": 0}, "batch_size=0: give a number of at least 1"),
        ({"ensemble_size": 0}, "ensemble_size=0"),
        ({"epochs": -1}, "epochs=-1"),
        ({"hidden": []}, r"hidden=\[\]: give a list of layers"),
        ({"hidden": 64}, "hidden=64: give a list"),
        ({"posterior": "ensemble", "ensemble_size": 2, "dropout": 1.0}, r"dropout=1\.0: give a number of at least 0 and below 1"),
        ({"rating_weight": -1.0}, "rating_weight=-1"),
        ({"ratings": "gausian"}, "ratings='gausian': give one of its choices; did you mean gaussian"),
        ({"step_mode": "jiont"}, "step_mode='jiont'"),
        ({"lr": "fast"}, "lr='fast': give a number"),
        ({"bins": 10.5}, "bins=10.5: give a whole number"),
        ({"decoder": "none", "variance_head": False}, "has no variance for its ratings"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        UnifiedReward(SPEC, **settings)


@pytest.mark.parametrize("value", [0.5, 10.0, -1.0])
def test_classes_take_whole_numbers_of_the_scale(value: float) -> None:
    model = alone(ratings="rbrl", validation=0.0)
    model.labels = Labels.empty(T)
    start, status = torch.tensor([[0], [30]]), torch.full((2,), int(Status.ANSWERED))
    model.ratings = Labels(start, T, torch.tensor([3.0, value]), status)
    with pytest.raises(UserError, match="takes the whole numbers 0 to 9"):
        model.split()
    model.ratings = Labels(start, T, torch.tensor([3.0, 9.0]), status)
    assert len(model.split()[0][1]) == 2


def test_teacher_and_model_rate_on_one_scale(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MixedTeacher rates on 21 levels and UnifiedReward reads 10"):
        fit(tmp_path, {"teacher": MixedTeacher(rating=RatingTeacher(bins=21))})


@pytest.mark.parametrize(("budget", "rounds", "initial"), [(20, 20, 0.4), (10, 10, 0.5), (20, 10, 0.9)])
def test_a_spread_budget_is_spent_though_some_rounds_ask_nothing(
    tmp_path: Path, budget: int, rounds: int, initial: float
) -> None:
    """What is left is rounded to even: half a question a round is none."""
    spread = {"budget": budget, "rounds": rounds, "initial": initial, "schedule": "spread", "query": UniformQuery("rating")}
    method = fit(tmp_path, spread, hidden=(2,), first_epochs=1, epochs=1)
    assert len(method.ratings) == budget and method.trainer.current_epoch == rounds


def test_a_run_ends_when_there_is_nothing_left_to_ask(tmp_path: Path) -> None:
    class Dry(UniformQuery):
        """Finds questions in the first round alone."""

        def propose(self, pool: Any, n: int, model: Any, labels: Labels, rng: torch.Generator) -> Query:
            query = super().propose(pool, n, model, labels, rng)
            return Query(query.kind, query.start[: 0 if len(labels) else n], query.length)

    method = fit(tmp_path, {"query": Dry("rating"), "budget": 60}, hidden=(2,), epochs=1)
    assert len(method.ratings) == 20 and method.trainer.current_epoch == 2


def test_bald_refuses_a_model_without_draws(tmp_path: Path) -> None:
    ask = AskTeacher(MixedTeacher(), BALDQuery("pair"), budget=10, per_round=10)
    with pytest.raises(UserError, match="BALDQuery asks the model for its 'posterior', which RewardEnsemble does not have"):
        make_trainer(tmp_path, [ask]).fit(RewardEnsemble(SPEC, hidden=(8,)), Linear())
